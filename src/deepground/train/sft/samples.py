"""Conversations from files as training samples, in an order that depends on the seed and the index alone.

One sample per assistant message that is trained on, each with exactly the prompt that a server would make of what
comes before it: chat formats write earlier turns differently from the one that is being written (they drop its
thinking), so turns cannot share one sequence.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from deepground.errors import ChatFormatError, TokenizerError, TrainingError
from deepground.messages import Message, Tool
from deepground.model import ChatFormat, Tokenizer
from deepground.tasks import training_conversation
from deepground.train.answering import message_from_json, read_rows, tool_from_json
from deepground.train.data import Sample, encode_conversation, sample_seed

Turns = Literal["last", "all"]
ThinkingMode = Literal["auto", "on", "off"]
_PAIRS = (
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),
    ("problem", "solution"),
    ("prompt", "response"),
    ("問題", "答案"),
    ("題目", "解答"),
)


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant's, and the tools it was offered."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


@dataclass
class EncodedSet:
    """Samples of one set, as compact arrays."""

    samples: list[tuple[array[int], int]] = field(default_factory=list)
    """Token ids, and how many of them are the prompt."""
    too_long: int = 0
    """Left out: cut short, they would teach not to stop."""
    without_thinking: int = 0
    """Samples that answer at once."""

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> Sample:
        """One of them."""
        ids, prompt_length = self.samples[index]
        return Sample(list(ids), prompt_length)

    @property
    def num_tokens(self) -> int:
        """Of all samples, prompts included."""
        return sum(len(ids) for ids, _ in self.samples)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max((len(ids) for ids, _ in self.samples), default=0)


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a training file.

    Understood are `messages` (OpenAI; also `conversations`, ShareGPT) with `tools`; and pairs of texts: prompt and
    completion (TRL), question and answer, instruction (with `input`) and output (Alpaca), problem and solution. The
    answer's thinking may be in a column `reasoning`, `reasoning_content` or `thinking`, or in a `<think>` block.

    Raises:
        TrainingError: names the file, the row and the field, and what is wrong.
    """
    conversations = [_conversation(row, f"{path} row {number}") for number, row in read_rows(path)]
    if not conversations:
        raise TrainingError(f"{path} holds no conversations")
    return conversations


def task_conversations(count: int, seed: int) -> list[Conversation]:
    """Conversations of our own tasks' training mixture, which the bundled model was trained on."""
    made = (training_conversation(sample_seed(seed, index)) for index in range(count))
    return [Conversation(conversation.messages, conversation.tools) for conversation in made]


def encode_set(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
    *,
    max_length: int,
    turns: Turns = "last",
    thinking: ThinkingMode = "auto",
) -> EncodedSet:
    """Conversations as samples.

    Args:
        conversations: what to learn.
        tokenizer: of the model.
        chat_format: of the model; writes prompts, replies and the end of a turn.
        max_length: longer samples are left out.
        turns: train on the last reply of each conversation or on every one.
        thinking: on: all replies think, those without thinking learn an empty block; off: thinking is removed;
            auto: a reply that has thinking is learnt in the thinking mode, another in the direct mode.

    Raises:
        TrainingError: the model's chat format cannot express a conversation; names it.
    """
    found = EncodedSet()
    for number, conversation in enumerate(conversations, start=1):
        for messages in _trained_prefixes(conversation.messages, turns):
            reply = messages[-1]
            if thinking == "off" or not chat_format.supports_thinking:
                reply = Message.assistant(reply.text, tool_calls=reply.tool_calls)
            thinks = bool(reply.reasoning) if thinking == "auto" else thinking == "on"
            try:
                sample = encode_conversation(
                    (*messages[:-1], reply), tokenizer, chat_format, thinking=thinks, tools=conversation.tools
                )
            except (ChatFormatError, TokenizerError) as error:
                raise TrainingError(f"conversation {number} cannot be written for this model: {error}") from error
            if len(sample.token_ids) > max_length:
                found.too_long += 1
                continue
            found.without_thinking += not reply.reasoning
            found.samples.append((array("i", sample.token_ids), sample.prompt_length))
    return found


def split_off(found: EncodedSet, share: float, seed: int) -> tuple[EncodedSet, EncodedSet]:
    """Samples to train on and to validate with.

    Samples with the same prompt go to the same side, so that validation asks nothing that was trained on.

    Raises:
        TrainingError: share is not from 0 to below 1, or nothing is left to train on.
    """
    if not 0 <= share < 1:
        raise TrainingError(f"the validation share is {share}; it must be from 0 to below 1")
    prompts = sorted({bytes(ids[:prompt]) for ids, prompt in found.samples})
    Random(f"validation {seed}").shuffle(prompts)
    held_out = set(prompts[: math.ceil(share * len(prompts))])
    parts = [[s for s in found.samples if (bytes(s[0][: s[1]]) in held_out) == side] for side in (False, True)]
    if not parts[0]:
        raise TrainingError("no sample is left to train on; give more data or a smaller validation share")
    return EncodedSet(parts[0], found.too_long, found.without_thinking), EncodedSet(parts[1])


def shuffled_mix(main: EncodedSet, general: EncodedSet | None, share: float, seed: int) -> Callable[[int], Sample]:
    """A function from a sample's index to the sample: endless, each pass over a set in a new order.

    Args:
        main: what is to be learnt.
        general: what is not to be forgotten.
        share: of the drawn samples, those that come from `general`; spread evenly.
        seed: of the orders.

    Raises:
        TrainingError: the share is not from 0 to below 1, or has nothing to draw from.
    """
    if not 0 <= share < 1:
        raise TrainingError(f"the share of general data is {share}; it must be from 0 to below 1")
    if share and not general:
        raise TrainingError("a share of general data was asked for, and there is none; name its file")
    orders: dict[tuple[str, int], list[int]] = {}

    def draw(name: str, found: EncodedSet, index: int) -> Sample:
        epoch, position = divmod(index, len(found))
        if (name, epoch) not in orders:
            order = list(range(len(found)))
            Random(f"{name} {seed} {epoch}").shuffle(order)
            orders[(name, epoch)] = order
            orders.pop((name, epoch - 2), None)
        return found.sample(orders[(name, epoch)][position])

    def make_sample(index: int) -> Sample:
        before = math.floor(index * share)
        if general and math.floor((index + 1) * share) > before:
            return draw("general", general, before)
        return draw("main", main, index - before)

    return make_sample


def _trained_prefixes(messages: Sequence[Message], turns: Turns) -> list[tuple[Message, ...]]:
    if turns == "last":
        return [tuple(messages)]
    return [tuple(messages[: i + 1]) for i, message in enumerate(messages) if message.role == "assistant"]


def _conversation(row: Mapping[str, Any], where: str) -> Conversation:
    tools = tuple(tool_from_json(tool, f"{where}: tools[{i}]") for i, tool in enumerate(row.get("tools") or ()))
    listed = row.get("messages") or row.get("conversations")
    if isinstance(listed, list):
        messages = [message_from_json(value, f"{where}: messages[{i}]") for i, value in enumerate(listed)]
    else:
        messages = _pair(row, where)
    if not messages or messages[-1].role != "assistant":
        raise TrainingError(f"{where} must end with the assistant's message, which is what is learnt")
    if not messages[-1].text.strip() and not messages[-1].tool_calls:
        raise TrainingError(f"{where}: the assistant's last message is empty; remove the row")
    return Conversation(tuple(messages), tools)


def _pair(row: Mapping[str, Any], where: str) -> list[Message]:
    for asked, answered in _PAIRS:
        question, answer = row.get(asked), row.get(answered)
        if isinstance(question, list) and isinstance(answer, list):  # TRL's conversational form.
            return [message_from_json(v, f"{where}: {asked}[{i}]") for i, v in enumerate([*question, *answer])]
        if isinstance(question, str) and isinstance(answer, str):
            extra = row.get("input") if asked == "instruction" else ""
            text = f"{question}\n\n{extra}" if isinstance(extra, str) and extra else question
            reply = {"role": "assistant", "content": answer}
            reasoning = row.get("reasoning_content") or row.get("reasoning") or row.get("thinking")
            if isinstance(reasoning, str):
                reply["reasoning_content"] = reasoning
            system = row.get("system")
            first = [Message.system(system)] if isinstance(system, str) and system else []
            return [*first, Message.user(text), message_from_json(reply, where)]
    raise TrainingError(
        f"{where} has neither messages nor a pair of texts ({', '.join(' and '.join(pair) for pair in _PAIRS)})"
    )
