"""`deepground chat`: a conversation in the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console

from deepground.cli.options import (
    ChatFormatOption,
    DraftTokensOption,
    Dtype,
    DtypeOption,
    MemoryLimitOption,
    ModelFolder,
    PrefixCacheOption,
    PrefixDirOption,
    PrefixDiskOption,
    PrefixGibOption,
    Speculate,
    SpeculateOption,
    ThreadsOption,
    gib_to_bytes,
    prefix_disk_folder,
)
from deepground.cli.startup import without_collection
from deepground.errors import DeepgroundError
from deepground.messages import Message, ReasoningDelta, SamplingParams, TextDelta, ToolCallDelta

if TYPE_CHECKING:
    from deepground.engine import ChatEvent, ChatRequest

_HELP = """\
/think on|off   show the model thinking before it answers, or answer at once
/reset          forget the conversation
/help           these lines
/exit           leave, as Ctrl-D does
Ctrl-C stops an answer; pressed twice at the empty prompt it leaves."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class BlockingChat(Protocol):
    """What continues a conversation; the engine's `ChatSession` does."""

    def start_chat_blocking(self, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        """Events of one reply; closing the generator aborts it."""
        ...


def chat(
    model: ModelFolder = None,
    think: Annotated[bool, typer.Option("--think/--no-think", help="Think before answering, if the model can.")] = True,
    system: Annotated[str | None, typer.Option(help="Instructions for the whole conversation.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 is greedy; else the model's own default.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one answer, thinking included.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.")] = None,
    dtype: DtypeOption = Dtype.AUTO,
    chat_format: ChatFormatOption = None,
    threads: ThreadsOption = None,
    memory_limit: MemoryLimitOption = None,
    speculate: SpeculateOption = Speculate.AUTO,
    draft_tokens: DraftTokensOption = None,
    prefix_cache: PrefixCacheOption = True,
    prefix_disk: PrefixDiskOption = True,
    prefix_cache_dir: PrefixDirOption = None,
    prefix_cache_disk_gib: PrefixGibOption = None,
) -> None:
    """Talk to a model in the terminal. Lines piped in are asked one after the other, in one conversation."""
    with without_collection():
        from deepground.engine import PILOT_FOLDER, ChatSession, EngineConfig, EngineService, load_engine
        from deepground.model import load_sampling_defaults

    config = EngineConfig(
        max_sequences=1,
        num_threads=threads,
        memory_limit=gib_to_bytes(memory_limit),
        speculate=speculate.value,
        draft_tokens=draft_tokens,
        prefix_cache=prefix_cache,
        prefix_disk=prefix_disk_folder(
            cache=prefix_cache, disk=prefix_disk, folder=prefix_cache_dir, gib=prefix_cache_disk_gib
        ),
        prefix_disk_bytes=gib_to_bytes(prefix_cache_disk_gib),
    )
    engine = load_engine(model, config, dtype=dtype.value, chat_format=chat_format)
    folder = model or PILOT_FOLDER
    params = load_sampling_defaults(folder)
    given: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    params = replace(params, **{name: value for name, value in given.items() if value is not None})
    interactive = sys.stdin.isatty()
    with EngineService(engine) as service:
        conversation = Conversation(
            ChatSession(service),
            params=params,
            system=system,
            thinking=think,
            out=Console(highlight=False),
            # Piped answers are for programs: thinking and errors stay out of them.
            aside=Console(highlight=False) if interactive else Console(stderr=True, highlight=False),
        )
        if interactive:
            conversation.aside.print(f"{folder.resolve().name}: /help for commands, Ctrl-D to leave", style="dim")
            run_interactively(conversation, _prompt_reader())
        elif not run_through(conversation, sys.stdin):
            raise typer.Exit(1)


@dataclass
class Conversation:
    """Turns so far, and how the next one is asked for and shown."""

    session: BlockingChat
    params: SamplingParams = field(default_factory=SamplingParams)
    system: str | None = None
    thinking: bool = True
    out: Console = field(default_factory=Console)
    """Answers."""
    aside: Console = field(default_factory=Console)
    """Thinking, notes and errors."""
    history: list[Message] = field(default_factory=list)
    """User and assistant turns, without their thinking."""

    def ask(self, question: str) -> bool:
        """Ask, and show the answer as it comes; False if it failed or was stopped.

        A stopped answer stays in the conversation as far as it came; a question without one does not.
        """
        from deepground.engine import ChatRequest

        head = [] if self.system is None else [Message.system(self.system)]
        turns = [*self.history, Message.user(question)]
        request = ChatRequest(messages=[*head, *turns], params=self.params, thinking=self.thinking)
        shown: list[str] = []
        whole = False
        try:
            with closing(self.session.start_chat_blocking(request)) as events:
                self._show(events, shown)
            whole = True
        except KeyboardInterrupt:
            self.aside.print("\nstopped", style="yellow")
        except DeepgroundError as error:
            self.aside.print(f"error: {error}", style="red", markup=False)
        if shown:
            self.history = [*turns, Message.assistant("".join(shown))]
        return whole

    def _show(self, events: Iterator[ChatEvent], shown: list[str]) -> None:
        thinking = False
        for event in events:
            for delta in event.deltas:
                match delta:
                    case ReasoningDelta(text):
                        thinking = True
                        self._write(self.aside, text, "dim")
                    case TextDelta(text):
                        if thinking:
                            self.aside.print("\n")
                            thinking = False
                        shown.append(text)
                        self._write(self.out, text, None)
                    case ToolCallDelta(_, name, arguments):
                        self._write(self.aside, f"\n[calls {name}] {arguments}" if name else arguments, "dim")
            if event.finish_reason == "length":
                self.aside.print("\n(the answer reached its limit of tokens)", style="yellow", end="")
        self.out.print()

    @staticmethod
    def _write(console: Console, text: str, style: str | None) -> None:
        # A model must not be able to send the terminal commands.
        safe = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        console.print(safe, style=style, end="", markup=False, emoji=False, soft_wrap=True)

    def command(self, line: str) -> bool:
        """Carry out a line that begins with a slash; False means leave."""
        match line.split():
            case ["/exit"]:
                return False
            case ["/help"]:
                self.aside.print(_HELP, markup=False)
            case ["/reset"]:
                self.history = []
                self.aside.print("a new conversation", style="dim")
            case ["/think", ("on" | "off") as wanted]:
                self.thinking = wanted == "on"
                self.aside.print(f"thinking is {wanted}", style="dim")
            case _:
                self.aside.print(f"no such command: {line}; /help lists them", style="yellow", markup=False)
        return True


def run_interactively(conversation: Conversation, read_line: Callable[[], str]) -> None:
    """Ask what the person types, until they leave.

    Args:
        conversation: answers.
        read_line: raises KeyboardInterrupt for Ctrl-C and EOFError for Ctrl-D.
    """
    interrupted = False
    while True:
        try:
            line = read_line().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                return
            interrupted = True
            conversation.aside.print("Ctrl-C again or Ctrl-D leaves", style="dim")
            continue
        interrupted = False
        if line.startswith("/"):
            if not conversation.command(line):
                return
        elif line:
            conversation.ask(line)


def run_through(conversation: Conversation, lines: Iterator[str]) -> bool:
    """Ask every line in turn; False if one failed, after which no other is asked."""
    for raw in lines:
        line = raw.strip()
        if line.startswith("/"):
            if not conversation.command(line):
                return True
        elif line and not conversation.ask(line):
            return False
    return True


def _prompt_reader() -> Callable[[], str]:
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession(reserve_space_for_menu=0)
    return lambda: session.prompt("> ")
