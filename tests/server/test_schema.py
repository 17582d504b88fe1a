"""Which requests are let through, and what the others are told."""

import typing

import pytest
from openai.types.chat import completion_create_params
from pydantic import ValidationError

from deepground.server.chat.schema import ChatCompletionRequest
from deepground.server.errors import problem_of

HELLO = [{"role": "user", "content": "hello"}]


def body(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": HELLO, **fields}


def objection(request: object) -> tuple[str | None, str, str]:
    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate(request)
    problem = problem_of(caught.value)
    assert problem.status == 400
    return problem.param, problem.message, problem.code


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 2.0, "top_p": 1e-9, "top_k": 0, "min_p": 1, "seed": -(2**63)},
        {"frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 1.1},
        {"stop": "x"},
        {"stop": ["x"] * 16},
        {"stop": []},
        {"stop": None, "tools": None, "tool_choice": None, "response_format": None, "user": None},
        {"max_tokens": 1, "max_completion_tokens": 1},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": False},
        {"thinking": {"type": "disabled"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": False, "parameters": {}}}]},
        {"response_format": {"type": "text"}},
        {"user_id": "a-B_9", "user": "a-B_9"},
        {"user": "someone@example.org"},
        {"n": 1, "logit_bias": {}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
        {"n": 16, "logit_bias": {"5": -100, "7": 1.5}, "parallel_tool_calls": False},
        {"reasoning_effort": "max", "thinking": {"type": "enabled", "budget_tokens": 0, "language": "English"}},
        {
            "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": True, "strict": True}}},
        {"messages": [*HELLO, {"role": "assistant", "content": "x", "prefix": True}]},
        {"messages": [{"role": "user", "content": "x", "name": "Ann"}], "loop_detection": "all"},
        {"reasoning_effort": None, "functions": [], "modalities": ["text"], "metadata": {}},
    ],
)
def test_accepts(fields: dict[str, object]) -> None:
    ChatCompletionRequest.model_validate(body(**fields))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2**40}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": 5}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"thinking": {"type": "auto"}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five.[key]"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}, *HELLO]}, "messages[0].prefix"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"user_id": "a b"}, "user_id"),
        ({"user_id": "a" * 513}, "user_id"),
        ({"user": "line\nbreak"}, "user"),
        ({"user": "a", "user_id": "b"}, "user"),
        ({"tempreature": 1}, "tempreature"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour"),
        ({"messages": [*HELLO, {"role": "assistant"}]}, "messages[1].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ],
)
def test_rejects_and_names_the_field(fields: dict[str, object], param: str) -> None:
    named, message, code = objection(body(**fields))
    assert named == param
    assert param in message
    assert code == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"audio": {}}, "audio"),
        ({"store": True}, "store"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x", "name": "f"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_says_what_is_not_supported(fields: dict[str, object], param: str) -> None:
    named, message, code = objection(body(**fields))
    assert (named, code) == (param, "unsupported_field")
    assert message.startswith(param)
    assert "support" in message


def test_every_field_of_openai_is_known() -> None:
    known = set(ChatCompletionRequest.model_fields) | set(ChatCompletionRequest.refused)
    theirs = set(typing.get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert theirs <= known


def test_several_mistakes_are_told_together() -> None:
    _, message, _ = objection(body(temperature=9, top_p=9, top_k=-1, min_p=9, seed="x"))
    assert "temperature" in message
    assert "(and 2 more)" in message


def test_history_from_a_reply_is_accepted_as_it_came() -> None:
    call = {"index": 0, "id": "call_00_a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = {"role": "assistant", "content": None, "refusal": None, "annotations": None, "audio": None,
             "function_call": None, "reasoning_content": "", "tool_calls": [call]}  # fmt: skip
    result = {"role": "tool", "tool_call_id": "call_00_a", "content": "ok"}
    request = ChatCompletionRequest.model_validate(body(messages=[*HELLO, reply, result]))
    assert len(request.messages) == 3
