"""Near misses of calls: they come out as text, or as the call that was meant; nothing disappears."""

import pytest

from chat_samples import FORMATS, TOOLS, assemble, can_call, read
from deepground.model.chat_format import CHAT_FORMATS, ChatFormat
from deepground.model.chat_format.streaming import LONGEST_CALL_HEAD


def parse(name: str, text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """The same whether fed whole or by character."""
    whole, by_character = (
        assemble(read(CHAT_FORMATS[name].parser(in_reasoning=False, tools=TOOLS), pieces)) for pieces in ([text], text)
    )
    assert whole == by_character
    return whole


V31_CALL = "<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁call▁end｜>"


@pytest.mark.parametrize(
    "text",
    [
        "The marker <｜tool▁calls▁begin｜> opens a block.",
        "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>no separator<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>{}",
        "<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>cut o",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
        + "far " * LONGEST_CALL_HEAD
        + "<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        "half a marker <｜tool▁cal",
    ],
)
def test_v31_not_a_call(text: str) -> None:
    assert parse("deepseek-v3.1", text) == ("", text, [])


def test_v31_block_without_its_end() -> None:
    assert parse("deepseek-v3.1", f"So: <｜tool▁calls▁begin｜>{V31_CALL}") == ("", "So: ", [("add", "{}")])


def test_v31_words_between_and_after_calls() -> None:
    text = f"<｜tool▁calls▁begin｜>{V31_CALL} hm <｜tool▁calls▁end｜> done"
    assert parse("deepseek-v3.1", text) == ("", "hm <｜tool▁calls▁end｜> done", [("add", "{}")])


def test_v31_broken_json_is_passed_on() -> None:
    text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{x: 1,<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    assert parse("deepseek-v3.1", text) == ("", "", [("add", "{x: 1,")])


def test_v31_a_missing_end_of_call() -> None:
    text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁calls▁end｜>"
    assert parse("deepseek-v3.1", text) == ("", "", [("add", "{}")])


def test_r1_call_without_the_fence_is_text() -> None:
    text = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add {}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    )
    assert parse("deepseek-r1", text) == ("", text, [])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>soon</tool_call>",
        '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
        '<tool_call>\n["add"]\n</tool_call>',
        '<tool_call>\n{"name": "add"',
        '<tool_call>\n{"name": "a\\ud8g", "arguments": {}}</tool_call>',
        "write <tool_call> and then",
    ],
)
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_chatml_not_a_call(name: str, text: str) -> None:
    assert parse(name, text) == ("", text, [])


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "add", "arguments": {"x": "}</tool_call>{"}}', '{"x": "}</tool_call>{"}'),
        ('{"arguments": {"x": 1}, "name": "add"}', '{"x": 1}'),
        ('{"name": "add", "parameters": {"x": 1}}', '{"x": 1}'),
        ('{"type": "function", "name": "add", "arguments": {}}', "{}"),
        ('{"name": "add"}', "{}"),
        ('{"name": "add", "arguments": "{\\"x\\": 1}"}', '{"x": 1}'),
        ('{"name": "add", "arguments": null}', "null"),
        ('  {  "name"  :  "add"  ,  "arguments"  :  {"x" : [1, {"y": 2}]}  }  ', '{"x" : [1, {"y": 2}]}'),
        ('{"name": "add", "arguments": {"x": 1}', '{"x": 1}'),
    ],
)
def test_chatml_calls_in_odd_shapes(body: str, arguments: str) -> None:
    assert parse("qwen3", f"<tool_call>{body}</tool_call>") == ("", "", [("add", arguments)])


def test_chatml_more_keys_after_the_arguments_stay_visible() -> None:
    _, content, calls = parse("qwen3", '<tool_call>{"name": "add", "arguments": {}, "id": 7}</tool_call>')
    assert calls == [("add", "{}")]
    assert '"id": 7' in content


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        ('{"name": "add", "parameters": {"x": 1}}', [("add", '{"x": 1}')], ""),
        ('<|python_tag|>{"name": "add", "parameters": {}}', [("add", "{}")], ""),
        ('{"name": "add", "parameters": {}}; {"name": "b", "parameters": {}}', [("add", "{}"), ("b", "{}")], ""),
        ('{"name": "Anna", "age": 3}', [], '{"name": "Anna", "age": 3}'),
        ('{"answer": 42}', [], '{"answer": 42}'),
        ('  {"name": "cut', [], '  {"name": "cut'),
        ("{", [], "{"),
        ('Look: {"name": "add", "parameters": {}}', [], 'Look: {"name": "add", "parameters": {}}'),
    ],
)
def test_llama_calls_are_told_from_json_answers(text: str, calls: list[tuple[str, str]], content: str) -> None:
    assert parse("llama3", text) == ("", content, calls)


DSML = "｜DSML｜"


@pytest.mark.parametrize(
    "text",
    [
        f"<{DSML}function_calls>\n</{DSML}function_calls>",
        f'<{DSML}function_calls>\n<{DSML}invoke nam="add">\n',
        f'<{DSML}function_calls>\n<{DSML}invoke name="ad',
        f"see <{DSML}function_calls> there",
    ],
)
def test_v32_not_a_call(text: str) -> None:
    assert parse("deepseek-v3.2", text) == ("", text, [])


def test_v32_bad_parameter_stays_visible() -> None:
    text = (
        f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="add">\n<{DSML}parameter key="x">1</{DSML}parameter>\n'
        f'<{DSML}parameter name="y" string="false">2</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}function_calls>'
    )
    _, content, calls = parse("deepseek-v3.2", text)
    assert calls == [("add", '{"y": 2}')]
    assert 'key="x">1' in content


def test_glm_schema_tells_strings_from_numbers() -> None:
    body = "<arg_key>x</arg_key>\n<arg_value>5</arg_value>\n<arg_key>note</arg_key>\n<arg_value>5</arg_value>\n"
    assert parse("glm-4.5", f"\n<tool_call>add\n{body}</tool_call>") == ("", "", [("add", '{"x": 5, "note": "5"}')])
    other = f"<tool_call>unknown\n{body}</tool_call>"
    assert parse("glm-4.5", other) == ("", "", [("unknown", '{"x": 5, "note": 5}')])


@pytest.mark.parametrize("text", ["<tool_call>{json}</tool_call>", "<tool_call></tool_call>", "<tool_call>cut of"])
def test_glm_not_a_call(text: str) -> None:
    assert parse("glm-4.5", text) == ("", text, [])


def test_glm_parameter_in_the_wrong_shape_stays_visible() -> None:
    _, content, calls = parse("glm-4.5", "<tool_call>add\n<arg_key>x</arg_key>oops</arg_value></tool_call>")
    assert calls == [("add", "{}")]
    assert "<arg_key>x</arg_key>oops</arg_value>" in content


def test_kimi_names_without_their_prefix() -> None:
    section = "<|tool_calls_section_begin|><|tool_call_begin|>{}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    for head in ("functions.add:12", " add:0 ", "add"):
        assert parse("kimi-k2", section.format(head)) == ("", "", [("add", "{}")])


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if can_call(f)], ids=lambda f: f.name)
def test_an_empty_reply_is_empty(chat_format: ChatFormat) -> None:
    parser = chat_format.parser(in_reasoning=False)
    assert read(parser, ["", ""]) == []
    assert parser.finish() == []
