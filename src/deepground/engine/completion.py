"""Text in, text out, without a conversation; and the model's tokens for those who count them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from deepground.engine.chat import ChatRequest, ChatSession, prepare_chat
from deepground.engine.config import EngineStats
from deepground.engine.reply_reader import ChatEvent
from deepground.engine.request import StepOutput
from deepground.errors import RequestError
from deepground.messages import SamplingParams, TextDelta, Usage
from deepground.model import fill_markers, fill_prompt


class ModelSession(ChatSession):
    """Everything that a running engine can be asked for: conversations, plain texts, and its tokens.

    Args:
        service: a started service whose engine has a chat format.

    Raises:
        RequestError: the model has no chat format.
    """

    @property
    def stats(self) -> EngineStats:
        """The engine's counters."""
        return self.service.stats

    def start_completion(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        suffix: str | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """Check a text and hand out what follows it, as events with text alone; closing the generator aborts it.

        Args:
            prompt: a text, which never becomes special tokens, or token ids.
            params: how to continue it.
            suffix: what comes after the text that is to be written; None: nothing does.
            cache_salt: whose cached prefixes may be used.

        Raises:
            RequestError: the request can never run, or the model cannot fill in a middle.
            EngineError: the service has failed or is stopping.
        """
        prompt_ids = self._text_ids(prompt, suffix)
        self.service.validate(prompt_ids, params)
        return self._text_events(prompt_ids, params, cache_salt)

    def prompt_ids(self, request: ChatRequest) -> list[int]:
        """The tokens that a conversation is rendered to.

        Raises:
            ChatFormatError: the model's chat format cannot express the messages.
        """
        return prepare_chat(self.service.engine, request).prompt_ids

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Token ids of plain text, never a special token but the beginning-of-text token, where the model has one."""
        tokenizer = self.service.engine.tokenizer
        start = [tokenizer.bos_id] if add_bos and tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return start + tokenizer.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens.

        Raises:
            RequestError: an id is outside the vocabulary.
        """
        limit = self.service.engine.decoder.config.vocab_size
        wrong = next((id_ for id_ in token_ids if not 0 <= id_ < limit), None)
        if wrong is not None:
            raise RequestError(f"tokens holds {wrong}; the ids are 0 to {limit - 1}", field="tokens")
        return self.service.engine.tokenizer.decode(token_ids)

    def _text_ids(self, prompt: str | Sequence[int], suffix: str | None) -> list[int]:
        if suffix is None:
            return self.encode(prompt, add_bos=True) if isinstance(prompt, str) else list(prompt)
        if not isinstance(prompt, str):
            raise RequestError("suffix needs a prompt that is a text, not token ids", field="suffix")
        tokenizer = self.service.engine.tokenizer
        markers = fill_markers(tokenizer)
        if markers is None:
            raise RequestError(
                "this model cannot fill in the middle of a text (its tokenizer has no markers for it); "
                "leave suffix out",
                field="suffix",
            )
        return self.encode("", add_bos=True) + tokenizer.encode_prompt(fill_prompt(markers, prompt, suffix))

    async def _text_events(
        self, prompt_ids: Sequence[int], params: SamplingParams, cache_salt: str | None
    ) -> AsyncGenerator[ChatEvent, None]:
        stream = self.service.submit(prompt_ids, params, cache_salt=cache_salt)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                yield self._text_event(output)

    def _text_event(self, output: StepOutput) -> ChatEvent:
        if output.error is not None:
            raise output.error
        end_ids = self.service.engine.end_ids
        return ChatEvent(
            deltas=(TextDelta(output.text),) if output.text else (),
            content_logprobs=tuple(entry for entry in output.logprobs or () if entry.token_id not in end_ids),
            prompt_tokens=output.prompt_tokens,
            completion_tokens=output.completion_tokens,
            finish_reason=output.finish_reason,
            stop_string=output.stop_string,
            usage=None
            if output.finish_reason is None
            else Usage(output.prompt_tokens, output.completion_tokens, prompt_cache_hit_tokens=output.cached_tokens),
        )
