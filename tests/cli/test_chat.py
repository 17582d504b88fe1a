"""The conversation in the terminal."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deepground.cli import app
from deepground.cli.chat import Conversation, run_interactively, run_through
from deepground.engine import ChatEvent, ChatRequest
from deepground.errors import ContextLengthError
from deepground.messages import Message, ReasoningDelta, SamplingParams, TextDelta, Usage
from tiny_models import tiny_model_folder


@dataclass
class ScriptedChat:
    """Echoes the question, thinking first if asked to; "interrupt" presses Ctrl-C in the middle, "fail" fails."""

    requests: list[ChatRequest] = field(default_factory=list)
    closed: int = 0

    def start_chat_blocking(self, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        self.requests.append(request)
        question = request.messages[-1].text
        if question == "fail":
            raise ContextLengthError("too long")
        return self._events(question, request.thinking)

    def _events(self, question: str, thinking: bool) -> Generator[ChatEvent, None, None]:
        try:
            if thinking:
                yield ChatEvent(deltas=(ReasoningDelta("hmm"),))
            yield ChatEvent(deltas=(TextDelta("you said "),))
            if question == "interrupt":
                signal.raise_signal(signal.SIGINT)
            yield ChatEvent(deltas=(TextDelta(question),))
            yield ChatEvent(finish_reason="stop", usage=Usage(1, 2))
        finally:
            self.closed += 1


@dataclass
class Terminal:
    chat: ScriptedChat
    conversation: Conversation
    out: io.StringIO
    aside: io.StringIO


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as a terminal has it: a test run in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def terminal() -> Terminal:
    chat, out, aside = ScriptedChat(), io.StringIO(), io.StringIO()
    conversation = Conversation(chat, out=Console(file=out), aside=Console(file=aside), params=SamplingParams(seed=1))
    return Terminal(chat, conversation, out, aside)


def typed(*lines: str | BaseException) -> Callable[[], str]:
    """A prompt at which someone types these lines, then Ctrl-D."""
    waiting = [*lines, EOFError()]

    def read() -> str:
        line = waiting.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    return read


def test_thinking_stands_apart_and_history_grows_without_it(terminal: Terminal) -> None:
    run_interactively(terminal.conversation, typed("one", "", "two"))
    assert terminal.out.getvalue() == "you said one\nyou said two\n"
    assert "hmm" in terminal.aside.getvalue()
    assert terminal.chat.requests[1].messages == [
        Message.user("one"), Message.assistant("you said one"), Message.user("two"),
    ]  # fmt: skip
    assert terminal.chat.requests[1].params.seed == 1


def test_thinking_is_dimmed() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard")
    Conversation(ScriptedChat(), out=console, aside=console).ask("x")
    assert "\x1b[2mhmm\x1b[0m" in out.getvalue()
    assert "you said " in out.getvalue()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_the_answer_not_the_program(terminal: Terminal) -> None:
    run_interactively(terminal.conversation, typed("interrupt", "next"))
    assert terminal.chat.closed == 2
    assert "stopped" in terminal.aside.getvalue()
    assert terminal.out.getvalue().endswith("you said next\n")
    assert terminal.conversation.history[:2] == [Message.user("interrupt"), Message.assistant("you said ")]


def test_ctrl_c_twice_at_the_prompt_leaves(terminal: Terminal) -> None:
    run_interactively(
        terminal.conversation, typed(KeyboardInterrupt(), "one", KeyboardInterrupt(), KeyboardInterrupt(), "two")
    )
    assert [request.messages[-1].text for request in terminal.chat.requests] == ["one"]


def test_commands(terminal: Terminal) -> None:
    lines = ["/help", "/think off", "one", "/think maybe", "/reset", "two", "/exit", "three"]
    run_interactively(terminal.conversation, typed(*lines))
    assert [request.thinking for request in terminal.chat.requests] == [False, False]
    assert terminal.chat.requests[1].messages == [Message.user("two")]
    assert "/reset" in terminal.aside.getvalue()
    assert "no such command: /think maybe" in terminal.aside.getvalue()


def test_a_failure_is_told_and_the_question_forgotten(terminal: Terminal) -> None:
    run_interactively(terminal.conversation, typed("one", "fail", "two"))
    assert "error: too long" in terminal.aside.getvalue()
    assert terminal.chat.requests[2].messages[:2] == terminal.conversation.history[:2]
    assert len(terminal.conversation.history) == 4


def test_piped_lines_stop_at_a_failure(terminal: Terminal) -> None:
    assert run_through(terminal.conversation, iter(["one\n", "\n", "/think off\n", "two\n"]))
    assert not run_through(terminal.conversation, iter(["fail\n", "three\n"]))
    assert terminal.out.getvalue() == "you said one\nyou said two\n"


def test_a_model_cannot_send_the_terminal_commands(terminal: Terminal) -> None:
    terminal.conversation.ask("\x1b[2Jboo\x07[bold]:smile:")
    assert terminal.out.getvalue() == "you said \ufffd[2Jboo\ufffd[bold]:smile:\n"


def test_system_message_leads(terminal: Terminal) -> None:
    terminal.conversation.system = "be brief"
    terminal.conversation.ask("one")
    assert list(terminal.chat.requests[0].messages) == [Message.system("be brief"), Message.user("one")]


def run(arguments: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_with_piped_questions(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "tiny")
    options = ["--max-tokens", "6", "--seed", "1", "--dtype", "float32"]
    code, out, err = run(["chat", str(folder), "--no-think", *options], "hello\nand you?\n")
    assert code == 0
    assert len(out.splitlines()) >= 2
    assert "limit of tokens" in err
    code, out, err = run(["chat", str(folder), "--max-tokens", "600"], "hello\n")
    assert code == 1
    assert "exceed" in err
