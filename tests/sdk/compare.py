"""Makes every call twice, through a gateway and directly, with official SDKs.

    compare.py GATEWAY PROVIDER

The objects and the exceptions must be equal. Prints one JSON object a call:
who made it, its sample, and what the gateway's headers say.
"""

import asyncio
import inspect
import json
import sys

import httpx
import httpx2

from calls import SDKS

# What errors of the SDKs tell, as far as they do.
FACTS = ("status_code", "code", "status", "type", "param", "request_id", "message", "error",
         "body", "data", "details", "headers")

# Answers seen since the last look. Some SDKs show no response headers, but all
# send with one of two libraries.
ANSWERS = []


def watch(client):
    send = client.send

    def sync_send(self, *arguments, **options):
        ANSWERS.append(send(self, *arguments, **options))
        return ANSWERS[-1]

    async def async_send(self, *arguments, **options):
        answer = await send(self, *arguments, **options)
        ANSWERS.append(answer)
        return answer

    client.send = async_send if inspect.iscoroutinefunction(send) else sync_send


def plain(value):
    """The value as dicts, lists and scalars, with the names of its classes."""
    if hasattr(value, "model_dump"):
        return [type(value).__name__, plain(value.model_dump(warnings=False))]
    if isinstance(value, (httpx.Headers, httpx2.Headers)):
        return plain({"headers": dict(value)})
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        # Where an SDK shows the response's headers, the gateway's own may be
        # among them, and nothing else may differ.
        return {name: plain(item) for name, item in value.items()
                if name != "date" and not str(name).startswith("x-tally-")}
    return value


async def parts(value):
    """What a caller gets of a call's result, one by one if it is a stream."""
    if inspect.isawaitable(value):
        value = await value
    if hasattr(value, "model_dump"):
        yield value
    elif hasattr(value, "__aiter__"):
        async for part in value:
            yield part
    elif hasattr(value, "__iter__"):
        for part in value:
            yield part
    elif hasattr(value, "__aenter__"):
        async with value as stream:
            async for part in stream:
                yield part
    else:
        with value as stream:
            for part in stream:
                yield part


async def outcome(sdk, call):
    """What the caller sees, whether it ended in an error, and the answer."""
    ANSWERS.clear()
    seen, failed = [], False
    try:
        async for part in parts(call()):
            seen.append(plain(part))
    except Exception as error:
        if type(error).__module__.split(".")[0] != sdk:
            raise
        failed = True
        facts = {name: plain(getattr(error, name)) for name in FACTS if hasattr(error, name)}
        seen.append([type(error).__name__, facts])
    [answer] = ANSWERS
    return seen, failed, answer


def sensible(file, seen, failed):
    """Whether a call did what its sample is for."""
    shown = json.dumps(seen, default=repr)
    least = 2 if file.endswith(("sse", "ndjson")) else 1
    return (failed == (("error" in file) or file.startswith("status:"))
            and len(seen) >= least
            and ("get_weather" in shown) == ("tools" in file))


async def compare(gateway, provider):
    for client in (httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient):
        watch(client)
    for sdk, calls in SDKS.items():
        for sync in (True, False):
            pairs = zip(calls(gateway, sync), calls(provider, sync), strict=True)
            for (name, file, through), (_, _, direct) in pairs:
                here = f"{sdk} {'sync' if sync else 'async'}: {name} {file}"
                seen, failed, answer = await outcome(sdk, through)
                wanted, _, _ = await outcome(sdk, direct)
                if seen != wanted:
                    sys.exit(f"{here}:\n through the gateway {seen}\n directly {wanted}")
                if not sensible(file, seen, failed):
                    sys.exit(f"{here}: {seen}")
                print(json.dumps({
                    "sdk": sdk, "sync": sync, "provider": name, "file": file,
                    "receipt": answer.headers.get("x-tally-receipt-id"),
                    "key_id": answer.headers.get("x-tally-key-id"),
                    "edited": "x-tally-edited" in answer.headers,
                    "uploads": "multipart" in answer.request.headers.get("content-type", ""),
                }), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [gateway, provider]:
            asyncio.run(compare(gateway, provider))
        case _:
            sys.exit(__doc__)
