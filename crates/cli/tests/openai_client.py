"""The official `openai` client against an endpoint: python openai_client.py BASE_URL [KEY]

What it asserts holds for any model; what the answers say is not looked at.
"""

import json
import sys

import openai
from openai import OpenAI

url, key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "none"
client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=300)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name three colours."}]
checks = []


def check(function):
    checks.append(function)
    return function


def refused(status, code, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        assert error.body["message"] and error.body["code"] == code, error.body
        return error
    raise AssertionError(f"not refused with {status} {code}")


def chat(**options):
    options.setdefault("messages", CHAT)
    options.setdefault("max_tokens", 24)
    return client.chat.completions.create(model=MODEL, **options)


MODEL = client.models.list().data[0].id


@check
def models():
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.object == "model" and model.root
    assert model.sled["context"] > 0 and model.sled["modes"]
    refused(404, "model_not_found", lambda: client.models.retrieve("no-such-model"))
    refused(404, "model_not_found", lambda: client.chat.completions.create(model="no-such-model", messages=CHAT))


@check
def whole_answers():
    answer = chat(temperature=0, user="me")
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == MODEL
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 24 and usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    sled = answer.sled
    assert sled["provisional_tokens"] == len(sled["provisional"]) and sled["mode"] in ("sled", "device", "server")


@check
def streams():
    chunks = list(chat(temperature=0, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    first, finish, usage = chunks[0], chunks[-2], chunks[-1]
    assert first.choices[0].delta.role == "assistant" and first.choices[0].delta.content is None
    assert finish.choices[0].finish_reason in ("stop", "length") and not finish.choices[0].delta.content
    assert usage.choices == [] and usage.usage.completion_tokens > 0
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-2])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == chat(temperature=0).choices[0].message.content
    without = list(chat(temperature=0, stream=True))
    assert without[-1].choices[0].finish_reason and all(chunk.usage is None for chunk in without)


@check
def parts_and_roles():
    parts = [{"type": "text", "text": "Name a"}, {"type": "text", "text": "colour."}]
    answer = chat(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    assert answer.choices[0].message.content
    turns = [*CHAT, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "Another?"}]
    assert chat(messages=turns).choices[0].message.content
    image = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
    refused(400, "invalid_value", lambda: chat(messages=[{"role": "user", "content": image}]))


@check
def seeds_and_sampling():
    options = dict(temperature=0.8, top_p=0.95, frequency_penalty=0.2, presence_penalty=0.1, seed=7)
    extensions = dict(top_k=40, min_p=0.02, repetition_penalty=1.05)
    one, two = (chat(extra_body=extensions, **options) for _ in range(2))
    assert one.choices[0].message.content == two.choices[0].message.content and one.sled["seed"] == 7
    drawn = chat(temperature=0.8)
    again = chat(temperature=0.8, seed=drawn.sled["seed"])
    assert drawn.choices[0].message.content == again.choices[0].message.content


@check
def limits_and_stops():
    short = chat(max_tokens=2, temperature=0)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    assert chat(max_tokens=None, max_completion_tokens=2, temperature=0).usage.completion_tokens == 2
    text = chat(temperature=0).choices[0].message.content
    stop = text[3:6]
    stopped = chat(temperature=0, stop=[stop, "\0never\0"])
    assert stopped.choices[0].finish_reason == "stop" and stopped.choices[0].message.content == text[: text.index(stop)]
    chunks = chat(temperature=0, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text[: text.index(stop)]


@check
def logprobs():
    choice = chat(temperature=0, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)
    streamed = []
    for chunk in chat(temperature=0, logprobs=True, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert all(token.top_logprobs == [] for token in streamed)


@check
def logit_bias():
    banned = chat(temperature=0, max_tokens=1, logprobs=True).choices[0].logprobs.content[0].token
    token = client.post(f"{url}/tokenize", cast_to=object, body={"content": banned})["tokens"]
    assert len(token) == 1
    assert chat(temperature=0, max_tokens=1, logit_bias={str(token[0]): -100}).choices


@check
def tokens():
    post = lambda path, **body: client.post(f"{url}/{path}", cast_to=object, body=body)
    ids = post("tokenize", content="Grüße 🦀")["tokens"]
    assert post("detokenize", tokens=ids)["content"] == "Grüße 🦀"
    vllm = post("tokenize", model=MODEL, prompt="Grüße 🦀", add_special_tokens=False, return_token_strs=True)
    assert vllm["tokens"] == ids and vllm["count"] == len(vllm["token_strs"]) == len(ids)
    chat_tokens = post("tokenize", model=MODEL, messages=CHAT)
    assert chat_tokens["count"] == chat(max_tokens=1).usage.prompt_tokens


@check
def completions():
    create = lambda **options: client.completions.create(model=MODEL, temperature=0, max_tokens=8, **options)
    answer = create(prompt="Once upon a time", logprobs=2)
    choice = answer.choices[0]
    assert answer.object == "text_completion" and choice.finish_reason in ("stop", "length")
    shape = choice.logprobs
    assert len(shape.tokens) == len(shape.token_logprobs) == len(shape.top_logprobs) == len(shape.text_offset)
    chunks = list(create(prompt="Once upon a time", stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == choice.text
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
    ids = client.post(f"{url}/tokenize", cast_to=object, body={"content": "Once upon a time"})["tokens"]
    assert create(prompt=ids).choices[0].text == create(prompt=[ids]).choices[0].text
    for options in (dict(echo=True), dict(suffix="x"), dict(best_of=2), dict(n=2)):
        refused(400, "invalid_value", lambda: create(prompt="x", **options))


@check
def provenance():
    answer = chat(temperature=0, extra_body={"sled": {"provenance": True}})
    tokens = answer.sled["tokens"]
    assert "".join(token["text"] for token in tokens) == answer.choices[0].message.content
    kinds = {"accepted", "corrected", "bonus", "provisional"}
    assert all(token["provenance"] in kinds for token in tokens)
    streamed = []
    for chunk in chat(temperature=0, stream=True, extra_body={"sled": {"provenance": True}}):
        streamed += (chunk.sled if getattr(chunk, "sled", None) else {}).get("tokens", [])
    assert "".join(token["text"] for token in streamed) == answer.choices[0].message.content
    for mode in client.models.retrieve(MODEL).sled["modes"]:
        assert chat(extra_body={"sled": {"mode": mode}}).sled["mode"] == mode


@check
def json_mode():
    answer = chat(max_tokens=200, temperature=0, response_format={"type": "json_object"})
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    schema = {"type": "object", "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
              "required": ["colour"], "additionalProperties": False}
    named = {"type": "json_schema", "json_schema": {"name": "colour", "strict": True, "schema": schema}}
    answer = chat(max_tokens=200, temperature=0, response_format=named)
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "blue")


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"],
    "additionalProperties": False}}}


@check
def tools():
    ask = [{"role": "user", "content": "What is the weather in Rome?"}]
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        options = dict(messages=ask, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, temperature=0, max_tokens=200)
        answer = chat(**options).choices[0]
        call = answer.message.tool_calls[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        assert call.id and call.type == "function" and call.function.name == "get_weather"
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
        chunks = list(chat(stream=True, **options))
        deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
        assert deltas[0].id and deltas[0].function.name == "get_weather" and {delta.index for delta in deltas} == {0}
        assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
    history = [*ask, answer.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"}]
    assert chat(messages=history, tools=[TOOL], tool_choice="none").choices[0].message.content
    automatic = chat(messages=ask, tools=[TOOL], temperature=0, max_tokens=200).choices[0]
    assert automatic.message.content or automatic.message.tool_calls


@check
def errors():
    refused(400, "invalid_value", lambda: chat(n=2))
    error = refused(400, "invalid_value", lambda: chat(temperature=-1))
    assert isinstance(error, openai.BadRequestError) and error.body["param"] == "temperature"
    refused(400, "invalid_value", lambda: chat(messages=[]))
    refused(400, "context_length_exceeded", lambda: chat(messages=[{"role": "user", "content": "many words " * 40000}]))
    refused(404, "not_found", lambda: client.get("/nothing", cast_to=object))
    if key != "none":
        wrong = OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        refused(401, "invalid_api_key", lambda: wrong.models.list())


@check
def a_stream_that_is_left():
    stream = chat(stream=True, max_tokens=200)
    next(iter(stream))
    stream.close()
    assert chat(max_tokens=1).choices


for function in checks:
    function()
    print(f"{function.__name__}: ok", flush=True)
print(f"{len(checks)} checks passed with openai {openai.__version__}")
