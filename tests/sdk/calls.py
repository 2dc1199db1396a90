"""The calls: what each official SDK is asked to do, and for which sample.

A function for each SDK gives triples of a provider, the sample answer that the
stand-in gives, and the call. It makes the SDK's client itself, the way its
documentation shows, so that nothing is set but key, place and (no) retries.
Names are the same in sync and async clients; where not, it says so.
"""

from functools import partial

import anthropic
import cohere
import groq
import ollama
import openai
import together
from google import genai
from mistralai.client import Mistral

# Stands in every prompt, and in nothing that the gateway writes.
PROMPT = "planted-prompt-8472"
HELLO = [{"role": "user", "content": PROMPT}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather in a city", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
# Files that are uploaded: bytes of every value, and the prompt.
SOUND = ("a sound.wav", b"RIFF" + bytes(range(256)) * 1200 + PROMPT.encode(), "audio/wav")
PICTURE = ("a picture.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400, "image/png")
# An answer with this status and an empty object.
UNAVAILABLE = "status:503"


def key(provider):
    """A credential of a likely shape; the test knows the rule."""
    return f"sk-test-{provider}-0123456789abcdefghijklmno"


def openai_calls(base, sync):
    client = (openai.OpenAI if sync else openai.AsyncOpenAI)(
        api_key=key("openai"), base_url=f"{base}/openai/v1", max_retries=0)
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    chat, respond = client.chat.completions, client.responses

    def each(files, function, **arguments):
        return [("openai", f, partial(function, model=f, **arguments)) for f in files]

    return [
        *each(("chat.json", "chat.gzip.json", "chat_cache_write.json", "chat_hostile_content.json",
               "error_401.json", "error_429.json", UNAVAILABLE), chat.create, messages=HELLO),
        *each(("chat.sse", "chat.gzip.sse", "chat_crlf_comment.sse", "chat_error_midstream.sse",
               "chat_truncated.sse", "error_429.json"), chat.create, messages=HELLO, **asked),
        # The gateway asks for usage here, and hides that it did.
        *each(("chat_no_include_usage.sse",), chat.create, messages=HELLO, stream=True),
        *each(("chat_no_include_usage.sse",), chat.stream, messages=HELLO),
        *each(("chat_tools.json",), chat.create, messages=HELLO, tools=TOOLS),
        *each(("chat_tools.sse",), chat.create, messages=HELLO, tools=TOOLS, **asked),
        *each(("chat.sse", "chat_tools.sse"), chat.stream, messages=HELLO,
              stream_options={"include_usage": True}),
        *each(("responses.json", "responses_background_queued.json", "error_401.json"),
              respond.create, input=PROMPT),
        *each(("responses.sse", "responses_failed.sse"), respond.create, input=PROMPT, stream=True),
        *each(("responses_tools.sse",), respond.stream, input=PROMPT),
        *each(("responses_tools.json",), respond.create, input=PROMPT,
              tools=[{"type": "function", "strict": False, **FUNCTION}]),
        *each(("responses_tools.sse",), respond.create, input=PROMPT, stream=True,
              tools=[{"type": "function", "strict": False, **FUNCTION}]),
        *each(("embeddings.json",), client.embeddings.create, input=PROMPT, encoding_format="float"),
        *each(("completions.json",), client.completions.create, prompt=PROMPT),
        *each(("image.json",), client.images.generate, prompt=PROMPT),
        *each(("image.json", "error_401.json"), client.images.edit, image=PICTURE, prompt=PROMPT),
        *each(("transcription.json", "transcription_duration.json", "error_401.json"),
              client.audio.transcriptions.create, file=SOUND, prompt=PROMPT),
        *each(("transcription.json",), client.audio.translations.create, file=SOUND),
        *azure_calls(base, sync, asked),
        *compatible_calls(base, sync, asked),
    ]


def azure_calls(base, sync, asked):
    # The model is in the path, the credential in a header of its own.
    client = (openai.AzureOpenAI if sync else openai.AsyncAzureOpenAI)(
        api_key=key("azure"), azure_endpoint=f"{base}/azure", api_version="2024-10-21", max_retries=0)
    create = client.chat.completions.create
    for file in ("chat.json", "error_401.json"):
        yield "azure", file, partial(create, model=file, messages=HELLO)
    yield "azure", "chat.sse", partial(create, model="chat.sse", messages=HELLO, **asked)
    file = "chat_no_include_usage.sse"
    yield "azure", file, partial(create, model=file, messages=HELLO, stream=True)


def compatible_calls(base, sync, asked):
    """OpenAI's SDK at other providers' doors, as their documentation has it."""
    for provider, path, files, streams in (
        ("deepseek", "v1", ["chat.json"], ["chat.sse"]),
        ("fireworks", "inference/v1", ["chat.json"], ["chat.sse"]),
        ("gemini", "v1beta/openai", ["error_400.json"], ["openai_compat.sse"]),
        ("groq", "openai/v1", ["chat.json"], ["chat_include_usage.sse"]),
        ("ollama", "v1", ["error_404.json"], ["openai_compat.sse"]),
        ("openrouter", "api/v1", ["chat.json"], ["chat.sse"]),
        ("perplexity", "", ["chat.json", "chat_deep_research.json"], ["chat.sse"]),
    ):
        client = (openai.OpenAI if sync else openai.AsyncOpenAI)(
            api_key=key(provider), base_url=f"{base}/{provider}/{path}", max_retries=0)
        create = client.chat.completions.create
        for file in files:
            yield provider, file, partial(create, model=file, messages=HELLO)
        for file in streams:
            yield provider, file, partial(create, model=file, messages=HELLO, **asked)


def anthropic_calls(base, sync):
    client = (anthropic.Anthropic if sync else anthropic.AsyncAnthropic)(
        api_key=key("anthropic"), base_url=f"{base}/anthropic", max_retries=0)
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    messages = client.messages

    def each(files, function, **arguments):
        return [("anthropic", f, partial(function, model=f, messages=HELLO, **arguments)) for f in files]

    return [
        *each(("messages.json", "messages_thinking.json", "error_400.json", "error_529.json",
               UNAVAILABLE), messages.create, max_tokens=64),
        *each(("messages.sse", "messages_two_deltas.sse", "messages_web_search.sse",
               "messages_compat_zero_delta.sse", "messages_truncated.sse", "error_529.json"),
              messages.create, max_tokens=64, stream=True),
        *each(("messages_tools.json",), messages.create, max_tokens=64, tools=tools),
        *each(("messages_tools.sse",), messages.create, max_tokens=64, tools=tools, stream=True),
        *each(("messages.sse", "messages_tools.sse"), messages.stream, max_tokens=64),
        *each(("count_tokens.json",), messages.count_tokens),
    ]


def gemini_calls(base, sync):
    client = genai.Client(api_key=key("gemini"), http_options={"base_url": f"{base}/gemini"})
    models = client.models if sync else client.aio.models
    interact = client.interactions.create if sync else client.aio.interactions.create
    tools = {"tools": [{"function_declarations": [FUNCTION]}]}

    def each(files, function, **arguments):
        return [("gemini", f, partial(function, model=f, **arguments)) for f in files]

    # Yielded one by one: the client closes its connections once nobody holds it.
    yield from [
        *each(("generateContent.json", "generateContent_blocked.json",
               "generateContent_vertex_inclusive.json", "error_400.json", "error_429.json",
               UNAVAILABLE), models.generate_content, contents=PROMPT),
        *each(("streamGenerateContent.sse", "error_429.json"),
              models.generate_content_stream, contents=PROMPT),
        *each(("generateContent_tools.json",), models.generate_content, contents=PROMPT, config=tools),
        *each(("streamGenerateContent_tools.sse",),
              models.generate_content_stream, contents=PROMPT, config=tools),
        *each(("batchEmbedContents.json",), models.embed_content, contents=PROMPT),
        *each(("countTokens.json",), models.count_tokens, contents=PROMPT),
        *each(("interactions.json", "error_400.json"), interact, input=PROMPT),
        *each(("interactions_tools.json",), interact, input=PROMPT,
              tools=[{"type": "function", **FUNCTION}]),
        *each(("interactions.sse",), interact, input=PROMPT, stream=True),
        *each(("interactions_tools.sse",), interact, input=PROMPT, stream=True,
              tools=[{"type": "function", **FUNCTION}]),
    ]


def mistral_calls(base, sync):
    client = Mistral(api_key=key("mistral"), server_url=f"{base}/mistral")

    def of(resource, name):
        """One client has both kinds, the async ones by another name."""
        return getattr(resource, name if sync else f"{name}_async")

    complete, stream = of(client.chat, "complete"), of(client.chat, "stream")

    def each(files, function, **arguments):
        return [("mistral", f, partial(function, model=f, **arguments)) for f in files]

    return [
        *each(("chat.json", "chat_cached.json", "error_401.json", "error_422.json", UNAVAILABLE),
              complete, messages=HELLO),
        *each(("chat.sse", "error_422.json"), stream, messages=HELLO),
        *each(("chat_tools.json",), complete, messages=HELLO, tools=TOOLS),
        *each(("chat_tools.sse",), stream, messages=HELLO, tools=TOOLS),
        *each(("embeddings.json",), of(client.embeddings, "create"), inputs=[PROMPT]),
        *each(("ocr_page.json",), of(client.ocr, "process"),
              document={"type": "document_url", "document_url": "https://example.com/a.pdf"}),
    ]


def cohere_calls(base, sync):
    place = {"api_key": key("cohere"), "base_url": f"{base}/cohere", "max_retries": 0}
    client = (cohere.ClientV2 if sync else cohere.AsyncClientV2)(**place)
    older = (cohere.Client if sync else cohere.AsyncClient)(**place)

    def each(files, function, **arguments):
        return [("cohere", f, partial(function, model=f, **arguments)) for f in files]

    return [
        *each(("v2_chat.json", "error_401.json", "error_429.json", UNAVAILABLE),
              client.chat, messages=HELLO),
        *each(("v2_chat.sse", "error_429.json"), client.chat_stream, messages=HELLO),
        *each(("v2_chat_tools.json",), client.chat, messages=HELLO, tools=TOOLS),
        *each(("v2_chat_tools.sse",), client.chat_stream, messages=HELLO, tools=TOOLS),
        *each(("embed.json",), client.embed, texts=[PROMPT], input_type="search_query",
              embedding_types=["float"]),
        *each(("rerank.json",), client.rerank, query=PROMPT, documents=["a", "b", "c", "d"]),
        *each(("v1_chat.json",), older.chat, message=PROMPT),
        *each(("v1_chat.ndjson",), older.chat_stream, message=PROMPT),
    ]


def groq_calls(base, sync):
    client = (groq.Groq if sync else groq.AsyncGroq)(
        api_key=key("groq"), base_url=f"{base}/groq", max_retries=0)

    def each(files, **arguments):
        create = client.chat.completions.create
        return [("groq", f, partial(create, model=f, messages=HELLO, **arguments)) for f in files]

    return [
        *each(("chat.json", "error_400.json", UNAVAILABLE)),
        *each(("chat.sse", "chat_include_usage.sse", "chat_error_midstream.sse", "error_400.json"),
              stream=True),
        *each(("chat_tools.json",), tools=TOOLS),
        *each(("chat_tools.sse",), tools=TOOLS, stream=True),
    ]


def together_calls(base, sync):
    client = (together.Together if sync else together.AsyncTogether)(
        api_key=key("together"), base_url=f"{base}/together", max_retries=0)
    create = client.chat.completions.create

    def each(files, function, **arguments):
        return [("together", f, partial(function, model=f, **arguments)) for f in files]

    return [
        *each(("chat.json", "error_401.json", UNAVAILABLE), create, messages=HELLO),
        *each(("chat.sse", "error_401.json"), create, messages=HELLO, stream=True),
        *each(("chat_tools.json",), create, messages=HELLO, tools=TOOLS),
        *each(("chat_tools.sse",), create, messages=HELLO, tools=TOOLS, stream=True),
        *each(("embeddings.json",), client.embeddings.create, input=PROMPT),
    ]


def ollama_calls(base, sync):
    # A server of one's own checks no key; the one that is sent must not show.
    client = (ollama.Client if sync else ollama.AsyncClient)(
        host=f"{base}/ollama", headers={"authorization": f"Bearer {key('ollama')}"})

    def each(files, function, **arguments):
        return [("ollama", f, partial(function, model=f, **arguments)) for f in files]

    return [
        *each(("chat.json", "error_404.json", UNAVAILABLE), client.chat, messages=HELLO),
        *each(("chat.ndjson", "chat_error_midstream.ndjson", "error_404.json"),
              client.chat, messages=HELLO, stream=True),
        *each(("chat_tools.json",), client.chat, messages=HELLO, tools=TOOLS),
        *each(("chat_tools.ndjson",), client.chat, messages=HELLO, tools=TOOLS, stream=True),
        *each(("generate.json",), client.generate, prompt=PROMPT),
        *each(("generate.ndjson",), client.generate, prompt=PROMPT, stream=True),
        *each(("embed.json",), client.embed, input=PROMPT),
    ]


SDKS = {
    "openai": openai_calls,
    "anthropic": anthropic_calls,
    "google": gemini_calls,
    "mistralai": mistral_calls,
    "cohere": cohere_calls,
    "groq": groq_calls,
    "together": together_calls,
    "ollama": ollama_calls,
}
