"""Calls a gateway from many callers at once, with official SDKs.

    load.py GATEWAY CALLERS CALLS   that many callers, that many calls each

Prints one JSON object a call: its sample and its receipt id.
"""

import asyncio
import inspect
import json
import sys

import anthropic
import openai

OPENAI_KEY = "sk-test-openai-0123456789abcdefghijklmno"
ANTHROPIC_KEY = "sk-test-anthropic-0123456789abcdefghijklmno"
# Stands in every prompt, and in nothing that the gateway writes.
PROMPT = "planted-prompt-8472"
HELLO = [{"role": "user", "content": PROMPT}]


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
        case [gateway, callers, calls]:
            asyncio.run(load(gateway, int(callers), int(calls)))
        case _:
            sys.exit(__doc__)
