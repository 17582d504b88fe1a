"""Whatever a model would like to write: answers fit their schemas, calls parse and fit theirs, thinking stays free."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from schema_samples import SAMPLES, SchemaSample

from chat_samples import FORMATS, TOOLS, assemble, can_call, can_call_often
from deepground.engine.bitmask import contains
from deepground.engine.reply_plan import ReplyWish
from deepground.errors import RequestError, SchemaError
from deepground.messages import Choices, JsonObject, JsonSchema, Message, NamedTool, Pattern, SamplingParams, Tool
from deepground.model import ChatFormat
from reply_walks import Walked, planner_of, walk, walker_tokenizer

CALLING = [f for f in FORMATS if can_call(f)]
THINKING = [f for f in FORMATS if f.supports_thinking]
V31 = next(f for f in FORMATS if f.name == "deepseek-v3.1")
_REFUSED = ("not", "unique items", "if then", "property names", "dependent required", "contains")
HELD = [sample for sample in SAMPLES if sample.name not in _REFUSED]
WALKS = range(3)


def names(formats: Sequence[ChatFormat]) -> list[str]:
    return [f.name for f in formats]


def parts(walked: Walked) -> tuple[str, str, list[tuple[str, str]]]:
    """Thinking, answer and calls."""
    return assemble([delta for event in walked.events for delta in event.deltas])


def fits(value: Any, schema: Any) -> bool:
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return bool(validator(schema, format_checker=validator.FORMAT_CHECKER).is_valid(value))


def refusal(wish: ReplyWish | None = None, chat_format: ChatFormat = V31, **params: Any) -> SchemaError | None:
    """Why a reply cannot be held to what is wanted."""
    try:
        planner_of(chat_format).plan_chat(SamplingParams(**params), wish or ReplyWish())
    except SchemaError as error:
        return error
    return None


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_every_schema_is_held_or_refused_by_name(sample: SchemaSample) -> None:
    """None is let through in part: the walks of a schema that compiles all fit it."""
    params = SamplingParams(output=JsonSchema(sample.schema))
    refused = refusal(output=JsonSchema(sample.schema))
    if refused is not None:
        assert sample not in HELD, refused
        assert refused.path, f"no place named: {refused}"
        assert refused.path.rpartition("/")[2] in json.dumps(sample.schema)
        return
    walks = [walk(V31, params, seed=seed, thinking=False) for seed in WALKS]
    for walked in walks:
        reasoning, text, calls = parts(walked)
        assert (reasoning, calls) == ("", [])
        if walked.ended:
            assert fits(json.loads(text), sample.schema), text
    assert any(walked.ended for walked in walks)


@pytest.mark.parametrize("sample", HELD, ids=lambda s: s.name)
def test_what_fits_can_be_written_and_what_does_not_cannot(sample: SchemaSample) -> None:
    tokenizer = walker_tokenizer()
    ends = [tokenizer.special_id(text) for text in V31.stop_markers]

    def writes(value: Any) -> bool:
        plan = planner_of(V31).plan_chat(SamplingParams(output=JsonSchema(sample.schema)), ReplyWish())
        text = json.dumps(value, ensure_ascii=False)
        if not all(plan.constraint.advance(id_) for id_ in tokenizer.encode(text)):
            return False
        mask_W = plan.constraint.mask()
        assert mask_W is not None
        return any(id_ is not None and contains(mask_W, id_) for id_ in ends)

    if sample.name != "decimal steps":  # only with as many digits as the step has: 2.50
        assert [value for value in sample.valid if not writes(value)] == []
    assert [value for value in sample.invalid if writes(value)] == []


@pytest.mark.parametrize("chat_format", FORMATS, ids=names(FORMATS))
@pytest.mark.parametrize("thinking", [False, True])
def test_json_in_every_format_after_free_thinking(chat_format: ChatFormat, thinking: bool) -> None:
    thought = False
    for seed in WALKS:
        params = SamplingParams(output=JsonObject(), thinking_budget=10)
        walked = walk(chat_format, params, seed=seed, thinking=thinking)
        reasoning, text, _ = parts(walked)
        thought = thought or bool(reasoning)
        if walked.ended:
            assert isinstance(json.loads(text), dict)
    assert thought == chat_format.render([Message.user("?")], thinking=thinking).in_reasoning


@pytest.mark.parametrize("chat_format", CALLING, ids=names(CALLING))
@pytest.mark.parametrize("choice", ["auto", "required", NamedTool("add")])
@pytest.mark.parametrize("special", [True, False])
def test_calls_parse_and_fit_in_every_format(chat_format: ChatFormat, choice: Any, special: bool) -> None:
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    counts = []
    for seed in WALKS:
        walked = walk(
            chat_format, SamplingParams(), seed=seed, thinking=False, tools=TOOLS, tool_choice=choice, special=special
        )
        _, text, calls = parts(walked)
        counts.append(len(calls))
        if special or walked.ended:  # a marker that is spelled may be cut off in its middle
            assert not any(marker in text for marker in ("tool▁call", "DSML", "<|tool_call", "<tool_call>"))
        if not walked.ended:
            continue
        for name, arguments in calls:
            assert fits(json.loads(arguments), schemas[name]), arguments
        if choice != "auto":
            assert calls
            assert not text.strip()
            assert walked.events[-1].finish_reason == "tool_calls"
        if isinstance(choice, NamedTool):
            assert {name for name, _ in calls} == {"add"}
    if choice != "auto":
        assert all(counts)


@pytest.mark.parametrize("chat_format", CALLING, ids=names(CALLING))
def test_one_call_at_most_when_asked(chat_format: ChatFormat) -> None:
    for seed in range(6):
        walked = walk(
            chat_format, SamplingParams(), seed=seed, thinking=False, tools=TOOLS, tool_choice="required",
            parallel_tool_calls=False,
        )  # fmt: skip
        assert len(parts(walked)[2]) == 1


def test_several_calls_can_be_written() -> None:
    wish: dict[str, Any] = {"thinking": False, "tools": [Tool("ping")], "tool_choice": "required"}
    for chat_format in filter(can_call_often, CALLING):
        walks = [walk(chat_format, SamplingParams(), seed=seed, patience=400, **wish) for seed in range(16)]
        assert max(len(parts(walked)[2]) for walked in walks) > 1, chat_format.name


@pytest.mark.parametrize("chat_format", CALLING, ids=names(CALLING))
def test_a_strict_tool_with_text_beside_it(chat_format: ChatFormat) -> None:
    """Parameters that look like markers, quotes within strings, and keys that need escapes."""
    schema = {
        "type": "object",
        "properties": {
            'say "it"': {"enum": ["</tool_call>", "<｜tool▁call▁end｜>", 'a "b"']},
            "n": {"type": "integer"},
        },
        "required": ['say "it"', "n"],
        "additionalProperties": False,
    }
    tool = Tool("odd-name_1", "", schema, strict=True)
    refused = refusal(ReplyWish(tools=[tool]), chat_format)
    if refused is not None:
        assert refused.field == "tools"
        return
    wish: dict[str, Any] = {"thinking": False, "tools": [tool], "tool_choice": "required"}
    for seed in WALKS:
        walked = walk(chat_format, SamplingParams(), seed=seed, **wish)
        _, _, calls = parts(walked)
        if walked.ended:
            assert fits(json.loads(calls[0][1]), schema)


def test_rolled_back_drafts_change_nothing() -> None:
    params = SamplingParams(output=JsonSchema(SAMPLES[1].schema), thinking_budget=6)
    for seed in range(4):
        walked = walk(V31, params, seed=seed, rollbacks=True)
        if walked.ended:
            assert fits(json.loads(parts(walked)[1]), SAMPLES[1].schema)


@pytest.mark.parametrize("chat_format", THINKING, ids=names(THINKING))
@pytest.mark.parametrize("special", [True, False])
def test_a_thinking_budget_ends_the_thinking_and_not_the_reply(chat_format: ChatFormat, special: bool) -> None:
    if not chat_format.render([Message.user("?")], thinking=True).in_reasoning:
        pytest.skip("this format lets the model open its thinking")
    walked = walk(chat_format, SamplingParams(thinking_budget=12), seed=3, special=special, patience=30)
    reasoning, _, _ = parts(walked)
    assert 0 < len(walker_tokenizer(special).encode(reasoning)) <= 30
    usage = walked.events[-1].usage
    assert usage is not None
    assert usage.reasoning_tokens <= 12 + len(walker_tokenizer(special).encode("\n</think>\n\n"))
    assert len(walked.token_ids) > usage.reasoning_tokens


def test_thinking_that_goes_in_circles_is_ended() -> None:
    planner, tokenizer = planner_of(V31), walker_tokenizer()
    plan = planner.plan_chat(SamplingParams(), ReplyWish(in_reasoning=True))
    circle = tokenizer.encode("the quick brown fox ")
    for step in range(2000):
        mask_W = plan.constraint.mask()
        wanted = circle[step % len(circle)]
        if mask_W is not None and not contains(mask_W, wanted):
            break
        assert plan.constraint.advance(wanted)
    assert 100 < step < 1000
    close = tokenizer.special_id("</think>")
    assert close is not None
    assert plan.constraint.advance(close)
    off = planner.plan_chat(SamplingParams(loop_detection="off"), ReplyWish(in_reasoning=True)).constraint
    assert all(off.advance(circle[step % len(circle)]) for step in range(2000))


def test_an_answer_that_goes_in_circles_is_ended_when_asked() -> None:
    circle = walker_tokenizer().encode("over and over ")
    plan = planner_of(V31).plan_chat(SamplingParams(loop_detection="all"), ReplyWish())
    for step in range(5000):
        assert plan.constraint.advance(circle[step % len(circle)])
        if plan.constraint.verdict is not None:
            break
    assert plan.constraint.verdict == "repetition"


def test_patterns_and_choices() -> None:
    for seed in WALKS:
        walked = walk(V31, SamplingParams(output=Pattern(r"[a-c]{2,4}-\d+")), seed=seed, thinking=False)
        if walked.ended:
            assert re.fullmatch(r"[a-c]{2,4}-\d+", parts(walked)[1])
        walked = walk(V31, SamplingParams(output=Choices(("yes", "no", '"maybe"'))), seed=seed, thinking=False)
        assert parts(walked)[1] in ("yes", "no", '"maybe"')


def test_json_or_a_call() -> None:
    kinds = set()
    for seed in range(12):
        walked = walk(V31, SamplingParams(output=JsonObject()), seed=seed, thinking=False, tools=TOOLS)
        _, text, calls = parts(walked)
        kinds.add("calls" if calls else "json")
        if walked.ended and not calls:
            json.loads(text)
    assert kinds == {"calls", "json"}


def test_a_given_beginning_binds_the_rest() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    params = SamplingParams(output=JsonSchema(schema))
    walked = walk(V31, params, seed=1, thinking=False, given='{"a": 4')
    if walked.ended:
        assert fits(json.loads('{"a": 4' + parts(walked)[1]), schema)
    with pytest.raises(RequestError, match="does not fit the wanted output") as caught:
        walk(V31, params, seed=1, thinking=False, given="Sure!")
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "/properties/a/not"),
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "/properties/a/items/uniqueItems"),
        ({"$ref": "https://example.org/other.json"}, "/$ref"),
        ({"type": "string", "pattern": "(a)\\1"}, "/pattern"),
        ({"type": "string", "pattern": "(?=a)b"}, "/pattern"),
    ],
)
def test_strict_names_what_cannot_be_enforced(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(SchemaError) as caught:
        planner_of(V31).plan_chat(SamplingParams(output=JsonSchema(schema)), ReplyWish())
    assert (caught.value.field, caught.value.path) == ("output", path)
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema}}, strict=True)
    with pytest.raises(SchemaError) as caught:
        planner_of(V31).plan_chat(SamplingParams(), ReplyWish(tools=[tool]))
    assert (caught.value.field, caught.value.tool) == ("tools", 0)


def test_without_strict_the_answer_is_checked_at_its_end() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    plan = planner_of(V31).plan_chat(SamplingParams(output=JsonSchema(schema, strict=False)), ReplyWish())
    assert plan.recheck == schema
    compiler = planner_of(V31).compiler
    assert compiler.check_instance(schema, "[1, 2]") == ""
    assert "non-unique" in compiler.check_instance(schema, "[1, 1]")
    assert "not JSON" in compiler.check_instance(schema, "[1,")
    for seed in WALKS:  # what a grammar can hold, it holds
        walked = walk(V31, SamplingParams(output=JsonSchema(schema, strict=False)), seed=seed, thinking=False)
        if walked.ended:
            assert all(isinstance(value, int | float) for value in json.loads(parts(walked)[1]))


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE = {
    "deep nesting": deep(5000),
    "huge enum": {"enum": [f"value {n}" for n in range(100_000)]},
    "exploding oneOf": {
        "allOf": [
            {"oneOf": [{"properties": {f"p{i}": {"const": j}}, "required": [f"p{i}"]} for j in range(8)]}
            for i in range(8)
        ]
    },
    "evil pattern": {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" * 30},
    "huge repetition": {"type": "string", "pattern": "(((a{1,1000}){1,1000}){1,1000})"},
    "huge bounds": {"type": "array", "items": {"type": "string", "minLength": 100_000}, "minItems": 100_000},
    "recursion without an end": {"$ref": "#"},
    "references in a ring": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "many properties": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(20_000)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_answered_within_a_second(name: str) -> None:
    planner = planner_of(V31)
    planner.plan_chat(SamplingParams(output=JsonObject()), ReplyWish())  # the processes are running
    start = time.monotonic()
    refused = refusal(output=JsonSchema(HOSTILE[name]))
    assert refused is None or len(str(refused)) < 1000
    assert time.monotonic() - start < 1.5  # one second, and what a busy machine adds
    planner.plan_chat(SamplingParams(output=JsonObject()), ReplyWish())
