"""What a request asks of its reply, made into the constraint that holds the model to it."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from deepground.engine.argument_rules import arguments_rule, arguments_schema, parameters_rule
from deepground.engine.grammar import Grammar, GrammarCompiler
from deepground.engine.json_schema import Enforcement, Schema, check_schema, schema_error
from deepground.engine.reply_constraint import Phase, ReplyConstraint, ReplyRules
from deepground.engine.reply_grammar import CallRules, reply_grammar
from deepground.engine.rule_book import RuleBook
from deepground.engine.thinking import Alphabet, ThinkingMarkers, thinking_markers
from deepground.errors import RequestError, SchemaError
from deepground.messages import JsonSchema, NamedTool, OutputFormat, SamplingParams, Tool, ToolChoice
from deepground.model import CallLayout, ChatFormat, ParameterList, Tokenizer

PATIENCE_S = 0.9
"""Most time that goes into the grammars of one request, in seconds."""


@dataclass(frozen=True)
class ReplyPlan:
    """How a reply is led and what is left to be checked at its end."""

    constraint: ReplyConstraint
    recheck: Schema | None = None
    """The grammar holds only a part of this schema: whether the answer fits it shows when it is there."""


@dataclass(frozen=True, kw_only=True)
class ReplyWish:
    """What a conversation asks of its next reply, besides sampling."""

    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    in_reasoning: bool = False
    """The prompt ends inside the thinking."""
    may_think: bool = False
    """The model may open its thinking itself."""
    after_thinking: bool = False
    """The prompt holds thinking that is closed."""
    given: str = ""
    """The beginning of the answer, which the prompt holds already."""


class ReplyPlanner:
    """Plans replies for one model. Thread-safe.

    Args:
        tokenizer: of the model.
        chat_format: how it writes conversations; None: it does not.
        end_ids: tokens that end the model's turn.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat | None, end_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._chat_format = chat_format
        self._end_ids = end_ids
        self.compiler = GrammarCompiler(tokenizer, end_ids)

    @cached_property
    def _markers(self) -> ThinkingMarkers | None:
        return thinking_markers(self._chat_format, self._tokenizer) if self._chat_format is not None else None

    @cached_property
    def _alphabet(self) -> Alphabet:
        return Alphabet(self._tokenizer, self._end_ids, self._markers)

    def plan_text(self, params: SamplingParams) -> ReplyPlan | None:
        """For a text that is gone on with, without a conversation; None if any token may come at any time.

        Raises:
            SchemaError: what the text must look like cannot be enforced.
        """
        if params.output is None and params.loop_detection != "all":
            return None
        grammar, recheck = self._compile("", params.output, None) if params.output is not None else (None, None)
        return self._plan("answer", grammar, recheck, params, ())

    def plan_chat(self, params: SamplingParams, wish: ReplyWish) -> ReplyPlan:
        """For the reply of a conversation.

        Raises:
            SchemaError: the output or the parameters of a tool cannot be enforced; the error names the place.
            RequestError: the wishes contradict each other.
        """
        chat_format = self._chat_format
        assert chat_format is not None
        calls = _calls(chat_format.call_layout, wish)
        thinks = wish.in_reasoning or wish.may_think or wish.after_thinking
        lead = "" if wish.given else chat_format.lead_after_thinking if thinks else chat_format.lead
        if wish.may_think and lead != chat_format.lead:
            lead = f"(?:{lead})|(?:{chat_format.lead})" if chat_format.lead else lead
        if params.ignore_eos and params.output is None and calls is not None and not calls.required:
            calls = None  # Text without an end never comes to an end of its calls either.
        grammar, recheck = self._compile(lead, params.output, calls)
        given_ids = tuple(self._tokenizer.encode(wish.given)) if grammar is not None else ()
        if grammar is not None and not _accepts(grammar, given_ids):
            raise RequestError(
                "the beginning of the answer that the last message gives does not fit the wanted output; change one of "
                "them",
                field="messages",
            )
        phase: Phase = "thinking" if wish.in_reasoning else "opening" if wish.may_think and not wish.given else "answer"
        if phase == "opening" and (self._markers is None or self._markers.open_id is None):
            phase = "answer"
        return self._plan(phase, grammar, recheck, params, given_ids)

    def _plan(
        self,
        phase: Phase,
        grammar: Grammar | None,
        recheck: Schema | None,
        params: SamplingParams,
        given_ids: tuple[int, ...],
    ) -> ReplyPlan:
        if grammar is not None and params.ignore_eos:
            raise RequestError(
                "ignore_eos contradicts an output that has an end; leave one of them out", field="output"
            )
        rules = ReplyRules(
            phase=phase,
            grammar=grammar,
            given_ids=given_ids,
            markers=self._markers,
            budget=params.thinking_budget,
            loop_detection=params.loop_detection,
        )
        return ReplyPlan(ReplyConstraint(rules, self._alphabet, self._tokenizer), recheck)

    def _compile(
        self, lead: str, output: OutputFormat | None, calls: CallRules | None
    ) -> tuple[Grammar | None, Schema | None]:
        """The grammar, and the schema that it holds only in part, if there is one."""
        deadline = time.monotonic() + PATIENCE_S
        if isinstance(output, JsonSchema):
            check_schema(output.schema)
        for number, (tool, _) in enumerate(calls.tools if calls is not None else ()):
            check_schema(tool.parameters, field="tools", tool=number)
        try:
            return self._build(lead, output, "exact", calls, deadline), None
        except SchemaError as error:
            if calls is None and not isinstance(output, JsonSchema):
                raise
            if calls is None and isinstance(output, JsonSchema) and output.strict:
                raise schema_error(error, output.schema) from None
        held: Enforcement = "exact"
        if isinstance(output, JsonSchema):
            held = self._output_enforcement(output, deadline)
        if calls is not None:
            tools = [
                (tool, self._tool_enforcement(calls.layout, tool, number, deadline))
                for number, (tool, _) in enumerate(calls.tools)
            ]
            calls = replace(calls, tools=tools)
        recheck = output.schema if isinstance(output, JsonSchema) and held != "exact" else None
        return self._build(lead, output, held, calls, deadline), recheck

    def _build(
        self,
        lead: str,
        output: OutputFormat | None,
        enforcement: Enforcement,
        calls: CallRules | None,
        deadline: float,
    ) -> Grammar | None:
        source = reply_grammar(self._tokenizer, lead=lead, output=output, enforcement=enforcement, calls=calls)
        return None if source is None else self._compile_in_time(source, deadline)

    def _compile_in_time(self, source: str, deadline: float) -> Grammar:
        left = deadline - time.monotonic()
        if left <= 0:
            raise SchemaError("the schemas of this request take too long to compile together; make them simpler")
        return self.compiler.compile(source, budget_s=left)

    def _output_enforcement(self, output: JsonSchema, deadline: float) -> Enforcement:
        ways: tuple[Enforcement, ...] = ("exact",) if output.strict else ("exact", "lenient", "any")
        for way in ways:
            form = output if way != "any" else JsonSchema(True)
            try:
                self._build("", form, way, None, deadline)
            except SchemaError as error:
                if way == ways[-1] or time.monotonic() > deadline:
                    raise schema_error(error, output.schema) from None
            else:
                return way
        raise AssertionError

    def _tool_enforcement(self, layout: CallLayout, tool: Tool, number: int, deadline: float) -> Enforcement:
        ways: tuple[Enforcement, ...] = ("exact",) if tool.strict else ("exact", "lenient", "any")
        for way in ways:
            try:
                book = RuleBook(self._tokenizer)
                lists = [part for part in layout.call(tool.name) if isinstance(part, ParameterList)]
                rule = parameters_rule(tool, way, lists[0], book) if lists else arguments_rule(tool, way, book)
                self._compile_in_time(f"start: {rule.expression}\n{book.text}\n", deadline)
            except SchemaError as error:
                if way == ways[-1] or time.monotonic() > deadline:
                    named = schema_error(error, arguments_schema(tool), field="tools", tool=number)
                    raise named if not error.path else _in_tool(error, number) from None
            else:
                return way
        raise AssertionError


def _calls(layout: CallLayout | None, wish: ReplyWish) -> CallRules | None:
    choice = wish.tool_choice
    if choice == "none" or not wish.tools:
        if choice not in ("none", "auto"):
            raise RequestError("tool_choice asks for a call, but there are no tools", field="tool_choice")
        return None
    tools = [tool for tool in wish.tools if not isinstance(choice, NamedTool) or tool.name == choice.name]
    if not tools:
        assert isinstance(choice, NamedTool)
        raise RequestError(f"tool_choice names {choice.name!r}, which is not among the tools", field="tool_choice")
    if layout is None:
        raise RequestError("this model's chat format has no tool calls; leave the tools out", field="tools")
    return CallRules(
        layout=layout,
        tools=[(tool, "exact") for tool in tools],
        required=choice != "auto",
        parallel=wish.parallel_tool_calls,
    )


def _accepts(grammar: Grammar, token_ids: Sequence[int]) -> bool:
    state = grammar.start()
    return all(state.advance(token_id) for token_id in token_ids)


def _in_tool(error: SchemaError, number: int) -> SchemaError:
    return SchemaError(str(error), field="tools", path=error.path, tool=number)
