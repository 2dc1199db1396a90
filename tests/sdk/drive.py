"""Drives a gateway with the official SDKs, as users do.

    drive.py compare GATEWAY PROVIDER   each sample through the gateway and
                                        directly: the objects must be equal
    drive.py load GATEWAY CALLERS CALLS that many callers at once, that many
                                        calls each

Prints one JSON object a call: its sample and its receipt id.
"""

import asyncio
import inspect
import json
import sys

import anthropic
import openai

OPENAI_KEY = "sk-test-openai-0123456789abcdefghijklmno"
ANTHROPIC_KEY = "sk-ant-test-0123456789abcdefghijklmnopqr"
HELLO = [{"role": "user", "content": "hello"}]


def openai_calls(client):
    """Sample file -> a call that gives it."""
    chat = client.chat.completions.with_raw_response.create
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    respond = client.responses.with_raw_response.create
    return {
        **{f: (chat, {"model": f, "messages": HELLO}) for f in
           ("chat.json", "chat.gzip.json", "chat_cache_write.json", "chat_hostile_content.json",
            "error_429.json")},
        **{f: (chat, {"model": f, "messages": HELLO, **asked}) for f in
           ("chat.sse", "chat.gzip.sse", "chat_crlf_comment.sse", "chat_error_midstream.sse",
            "chat_truncated.sse")},
        "chat_no_include_usage.sse":
            (chat, {"model": "chat_no_include_usage.sse", "messages": HELLO, "stream": True}),
        **{f: (respond, {"model": f, "input": "hello"}) for f in
           ("responses.json", "responses_background_queued.json")},
        **{f: (respond, {"model": f, "input": "hello", "stream": True}) for f in
           ("responses.sse", "responses_failed.sse")},
        "embeddings.json": (client.embeddings.with_raw_response.create,
                            {"model": "embeddings.json", "input": "hello", "encoding_format": "float"}),
        "completions.json": (client.completions.with_raw_response.create,
                             {"model": "completions.json", "prompt": "hello"}),
        "image.json": (client.images.with_raw_response.generate,
                       {"model": "image.json", "prompt": "hello"}),
    }


def anthropic_calls(client):
    create = client.messages.with_raw_response.create
    base = {"max_tokens": 64, "messages": HELLO}
    return {
        **{f: (create, {"model": f, **base}) for f in
           ("messages.json", "messages_thinking.json", "error_529.json")},
        **{f: (create, {"model": f, **base, "stream": True}) for f in
           ("messages.sse", "messages_two_deltas.sse", "messages_web_search.sse",
            "messages_compat_zero_delta.sse", "messages_truncated.sse")},
        "count_tokens.json": (client.messages.with_raw_response.count_tokens,
                              {"model": "count_tokens.json", "messages": HELLO}),
    }


def plain(value):
    return value.model_dump() if hasattr(value, "model_dump") else value


def outcome(function, arguments):
    """What the caller sees, and the answer's headers."""
    seen, headers = [], {}
    try:
        raw = function(**arguments)
        headers = raw.headers
        parsed = raw.parse()
        if arguments.get("stream"):
            for event in parsed:
                seen.append(plain(event))
        else:
            seen.append(plain(parsed))
    except (openai.APIError, anthropic.APIError) as error:
        headers = getattr(error, "response", None) is not None and error.response.headers or headers
        seen.append([type(error).__name__, getattr(error, "status_code", None), error.body])
    return seen, headers


def compare(gateway, provider):
    def clients(base):
        return (
            ("openai", openai_calls(openai.OpenAI(
                api_key=OPENAI_KEY, base_url=f"{base}/openai/v1", max_retries=0))),
            ("anthropic", anthropic_calls(anthropic.Anthropic(
                api_key=ANTHROPIC_KEY, base_url=f"{base}/anthropic", max_retries=0))),
        )

    for (name, through), (_, direct) in zip(clients(gateway), clients(provider)):
        for file, call in through.items():
            seen, headers = outcome(*call)
            wanted, _ = outcome(*direct[file])
            if seen != wanted:
                sys.exit(f"{name} {file}:\n through the gateway {seen}\n directly {wanted}")
            print(json.dumps({"provider": name, "file": file, "parts": len(seen),
                              "receipt": headers.get("x-tally-receipt-id"),
                              "key_id": headers.get("x-tally-key-id")}), flush=True)


async def load(gateway, callers, calls):
    oai = openai.AsyncOpenAI(api_key=OPENAI_KEY, base_url=f"{gateway}/openai/v1", max_retries=0)
    ant = anthropic.AsyncAnthropic(api_key=ANTHROPIC_KEY, base_url=f"{gateway}/anthropic", max_retries=0)
    kinds = [
        (oai.chat.completions, {"model": "chat.json", "messages": HELLO}),
        (oai.chat.completions, {"model": "chat.sse", "messages": HELLO, "stream": True}),
        (ant.messages, {"model": "messages.json", "max_tokens": 64, "messages": HELLO}),
        (ant.messages, {"model": "messages.sse", "max_tokens": 64, "messages": HELLO, "stream": True}),
    ]

    async def caller(number):
        for n in range(calls):
            resource, arguments = kinds[(number + n) % len(kinds)]
            raw = await resource.with_raw_response.create(**arguments)
            parsed = raw.parse()
            if inspect.isawaitable(parsed):
                parsed = await parsed
            if arguments.get("stream"):
                async for _ in parsed:
                    pass
            print(json.dumps({"file": arguments["model"],
                              "receipt": raw.headers["x-tally-receipt-id"]}), flush=True)

    await asyncio.gather(*(caller(number) for number in range(callers)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["compare", gateway, provider]:
            compare(gateway, provider)
        case ["load", gateway, callers, calls]:
            asyncio.run(load(gateway, int(callers), int(calls)))
        case _:
            sys.exit(__doc__)
