"""Holds every session twice, through a gateway and directly, with official SDKs.

    sessions.py GATEWAY PROVIDER

The events must be equal. Prints one JSON object a session: who held it, its
sample, how many events came, and what the gateway's handshake says.
"""

import asyncio
import json
import sys

import openai
from google import genai

from calls import PROMPT, key
from compare import plain

REALTIME = ("realtime.ndjson", "realtime.ndjson~fragmented", "realtime.ndjson~compressed",
            "realtime.ndjson~leaves")
LIVE = ("live.ndjson", "live.ndjson~fragmented", "live.ndjson~compressed")
RESPONSES = ("responses.sse", "responses.sse~fragmented", "responses.sse~compressed")

# Without it the SDK offers no compression.
COMPRESSED = {"max_size": 1 << 24, "compression": "deflate"}


def ends_turn(event):
    return event.type in ("session.created", "response.done", "response.completed")


def options(model):
    return {"websocket_connection_options": COMPRESSED} if "compressed" in model else {}


def openai_sync(base, model):
    client = openai.OpenAI(api_key=key("openai"), base_url=f"{base}/openai/v1")
    seen = []
    with client.realtime.connect(model=model, **options(model)) as session:
        headers = session._connection.response.headers
        for turn in range(3):
            if turn > 0:
                session.response.create(response={"instructions": PROMPT})
            for event in session:
                seen.append(plain(event))
                if ends_turn(event):
                    break
    return seen, headers


async def openai_async(base, model):
    client = openai.AsyncOpenAI(api_key=key("openai"), base_url=f"{base}/openai/v1")
    seen = []
    async with client.realtime.connect(model=model, **options(model)) as session:
        headers = session._connection.response.headers
        for turn in range(3):
            if turn > 0:
                await session.response.create(response={"instructions": PROMPT})
            async for event in session:
                seen.append(plain(event))
                if ends_turn(event):
                    break
    return seen, headers


def responses_sync(base, model):
    client = openai.OpenAI(api_key=key("openai"), base_url=f"{base}/openai/v1")
    seen = []
    with client.responses.connect(extra_query={"model": model}, **options(model)) as session:
        headers = session._connection.response.headers
        session.response.create(model=model, input=PROMPT)
        for event in session:
            seen.append(plain(event))
            if ends_turn(event):
                break
    return seen, headers


async def responses_async(base, model):
    client = openai.AsyncOpenAI(api_key=key("openai"), base_url=f"{base}/openai/v1")
    seen = []
    async with client.responses.connect(extra_query={"model": model}, **options(model)) as session:
        headers = session._connection.response.headers
        await session.response.create(model=model, input=PROMPT)
        async for event in session:
            seen.append(plain(event))
            if ends_turn(event):
                break
    return seen, headers


async def live(base, model):
    client = genai.Client(api_key=key("gemini"), http_options={"base_url": f"{base}/gemini"})
    # The SDK insists on TLS, which stands in front of a gateway.
    client._api_client._websocket_base_url = lambda *_: f"{base}/gemini".replace("http", "ws", 1)
    client._api_client._websocket_ssl_ctx = {}
    seen = []
    async with client.aio.live.connect(model=model, config={"response_modalities": ["TEXT"]}) as session:
        headers = session._ws.response.headers
        for _ in range(2):
            content = {"role": "user", "parts": [{"text": PROMPT}]}
            await session.send_client_content(turns=content, turn_complete=True)
            async for message in session.receive():
                seen.append(plain(message))
    return seen, headers


SESSIONS = [
    ("openai", "openai", openai_sync, REALTIME),
    ("openai", "openai", openai_async, REALTIME),
    ("openai", "openai", responses_sync, RESPONSES),
    ("openai", "openai", responses_async, RESPONSES),
    ("google", "gemini", live, LIVE),
]


async def held(session, base, model):
    if asyncio.iscoroutinefunction(session):
        return await session(base, model)
    return await asyncio.to_thread(session, base, model)


async def compare(gateway, provider):
    for sdk, name, session, models in SESSIONS:
        for model in models:
            seen, headers = await held(session, gateway, model)
            wanted, _ = await held(session, provider, model)
            if seen != wanted or not seen:
                sys.exit(f"{session.__name__} {model}:\n through the gateway {seen}\n directly {wanted}")
            print(json.dumps({
                "sdk": sdk, "how": session.__name__, "provider": name, "file": model,
                "events": len(seen),
                "compressed": "sec-websocket-extensions" in headers,
                "receipt": headers.get("x-tally-receipt-id"),
                "key_id": headers.get("x-tally-key-id")}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [gateway, provider]:
            asyncio.run(compare(gateway, provider))
        case _:
            sys.exit(__doc__)
