"""Sampling from the policy: our engine on the very weights that are being trained.

The engine holds the decoder itself, not a copy, so a step of the optimizer is a new policy without any transfer.
Cached keys and values are those of old weights after that: every policy gets an engine of its own, in which the
samples of one question share their prompt.

Sampling is at temperature 1 without filters: anything else would be another distribution than the one being trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deepground.engine import Engine, EngineConfig, StepOutput, assemble_reply
from deepground.errors import ChatFormatError, ContextLengthError, TrainingError
from deepground.messages import Message, SamplingParams
from deepground.model import ChatFormat, Decoder, Prompt, Tokenizer
from deepground.train.answering import Question, Reply
from deepground.train.answering.collect import answer_seed
from deepground.train.rl.environment import Environment, Episode

_PAGE = 16


@dataclass(frozen=True)
class Turn:
    """One reply of an episode, as tokens."""

    prompt_ids: list[int]
    token_ids: list[int]
    """What was sampled, end token included."""
    logprobs: list[float]
    """Of `token_ids`, as the sampler found them."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One episode, over."""

    question: str
    """Its id."""
    sample: int
    turns: tuple[Turn, ...]
    reply: Reply
    """The last reply, which is graded."""
    truncated: bool
    """A reply reached the token limit, or the conversation the context's end: nobody knows how it would have ended."""

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all turns."""
        return sum(len(turn.token_ids) for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        """Plain values; exact, since JSON keeps every bit of a float."""
        turns = [[turn.prompt_ids, turn.token_ids, turn.logprobs] for turn in self.turns]
        return {**vars(self), "turns": turns, "reply": self.reply.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Attempt:
        """What `to_json` wrote."""
        turns = tuple(Turn(*turn) for turn in value["turns"])
        return cls(**{**value, "turns": turns, "reply": Reply.from_json(value["reply"])})


@dataclass
class _Running:
    question: Question
    sample: int
    episode: Episode
    prompt: Prompt = field(default_factory=lambda: Prompt(()))
    prompt_ids: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    outputs: list[StepOutput] = field(default_factory=list)


class PolicySampler:
    """Makes attempts with the decoder as it is now.

    Args:
        decoder: the policy.
        tokenizer: of the model.
        chat_format: of the model.
        environment: where it acts.
        max_tokens: of one reply.
        thinking: think before answering.
        max_sequences: attempts computed at one time.
        autocast: products in this type, as in training; float32: none.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        chat_format: ChatFormat,
        environment: Environment,
        *,
        max_tokens: int,
        thinking: bool = True,
        max_sequences: int = 64,
        autocast: torch.dtype = torch.float32,
    ) -> None:
        self._decoder, self._tokenizer, self._format = decoder, tokenizer, chat_format
        self._environment, self._max_tokens, self._thinking = environment, max_tokens, thinking
        self._max_sequences, self._autocast = max_sequences, autocast

    def sample(self, wanted: Sequence[tuple[Question, int]], *, seed: int, greedy: bool = False) -> list[Attempt]:
        """One attempt for each question and sample number, in order; the same seed gives the same ones.

        Raises:
            TrainingError: a question does not fit in the model's context.
        """
        was_training = self._decoder.training
        self._decoder.eval()
        try:
            with self._products():
                return _Batch(self, wanted, seed, greedy).run()
        finally:
            self._decoder.train(was_training)

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        device = next(self._decoder.parameters()).device.type
        with torch.autocast(device, self._autocast, enabled=self._autocast != torch.float32):
            yield

    def new_engine(self, num_attempts: int) -> Engine:
        """An engine for the present weights, with room for so many attempts."""
        context = self._decoder.config.max_positions
        sequences = max(1, min(self._max_sequences, num_attempts))
        config = EngineConfig(
            max_sequences=sequences,
            max_batch_tokens=max(1024, sequences),
            num_pages=sequences * -(-min(context, 4 * self._max_tokens + 512) // _PAGE) + 1,
            page_size=_PAGE,
            speculate="off",
        )
        return Engine(self._decoder, self._tokenizer, self._format, config)


class _Batch:
    """All attempts of one call."""

    def __init__(self, sampler: PolicySampler, wanted: Sequence[tuple[Question, int]], seed: int, greedy: bool) -> None:
        self._sampler, self._seed, self._greedy = sampler, seed, greedy
        self._engine = sampler.new_engine(len(wanted))
        self._running: dict[str, _Running] = {}
        self._done: dict[tuple[str, int], Attempt] = {}
        self._wanted = wanted

    def run(self) -> list[Attempt]:
        for question, sample in self._wanted:
            running = _Running(question, sample, self._sampler._environment.start(question))
            if not self._begin_turn(running):
                raise TrainingError(
                    f"question {question.id} does not fit in the context of {self._engine.context_length} tokens; "
                    "remove it"
                )
        while self._engine.has_work:
            for output in self._engine.step():
                running = self._running[output.request_id]
                running.outputs.append(output)
                if output.finish_reason is not None:
                    del self._running[output.request_id]
                    self._end_turn(running, output)
        return [self._done[(question.id, sample)] for question, sample in self._wanted]

    def _begin_turn(self, running: _Running) -> bool:
        """Ask for the next reply; False if the context has no room for one."""
        sampler, episode = self._sampler, running.episode
        try:
            running.prompt = sampler._format.render(episode.messages, tools=episode.tools, thinking=sampler._thinking)
        except ChatFormatError as error:
            raise TrainingError(f"question {running.question.id} cannot be written for this model: {error}") from error
        running.prompt_ids = sampler._tokenizer.encode_prompt(running.prompt)
        running.outputs = []
        key = (running.question.id, f"turn {len(running.turns)}", running.sample)
        params = SamplingParams(
            temperature=0.0 if self._greedy else 1.0,
            max_tokens=sampler._max_tokens,
            seed=answer_seed(self._seed, key),
            logprobs=0,
        )
        try:
            self._running[self._engine.add(running.prompt_ids, params)] = running
        except ContextLengthError:
            return False
        return True

    def _end_turn(self, running: _Running, last: StepOutput) -> None:
        if last.error is not None:
            raise last.error
        ids = [id_ for output in running.outputs for id_ in output.token_ids]
        logprobs = [entry.logprob for output in running.outputs for entry in output.logprobs or ()]
        running.turns.append(Turn(running.prompt_ids, ids, logprobs))
        message = self._read(running)
        truncated = last.finish_reason == "length"
        if not truncated and running.episode.respond(message):
            truncated = not self._begin_turn(running)
            if not truncated:
                return
        reply = Reply(
            text=message.text,
            reasoning=message.reasoning,
            tool_calls=message.tool_calls,
            finish_reason="length" if truncated else str(last.finish_reason),
            prompt_tokens=last.prompt_tokens,
            completion_tokens=sum(len(turn.token_ids) for turn in running.turns),
        )
        self._done[(running.question.id, running.sample)] = Attempt(
            question=running.question.id,
            sample=running.sample,
            turns=tuple(running.turns),
            reply=reply,
            truncated=truncated,
        )

    def _read(self, running: _Running) -> Message:
        parser = self._sampler._format.parser(in_reasoning=running.prompt.in_reasoning, tools=running.episode.tools)
        deltas = parser.feed("".join(output.text for output in running.outputs))
        message = assemble_reply([*deltas, *parser.finish()])
        # Ids that depend on nothing random, so that a repeated run has the same conversation.
        calls = tuple(
            type(call)(f"call_{len(running.turns)}_{i}", call.name, call.arguments)
            for i, call in enumerate(message.tool_calls)
        )
        return Message.assistant(message.text, reasoning=message.reasoning, tool_calls=calls)
