"""From new tokens to outputs: where a request's answer ends, and the text on the way there.

Several tokens of one step are taken one after the other, and the first that ends the request is the last that is
taken: the result is the same as if each had had a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepground.engine.detokenizer import Detokenizer
from deepground.engine.request import Request, StepOutput
from deepground.engine.sampler import Sampled, SampledToken
from deepground.errors import DeepgroundError, EngineError
from deepground.messages import FinishReason, TokenLogprob
from deepground.model import Tokenizer


class Publisher:
    """Appends tokens to requests, makes text of them, and sees when a request is finished.

    Args:
        tokenizer: of the model.
        end_ids: tokens that end the model's turn; they are no part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._detokenizers: dict[str, Detokenizer] = {}

    def publish(self, request: Request, sampled: Sampled) -> StepOutput:
        """Take in what a request got in a step; the output has a finish reason if that was all."""
        detokenizer = self._detokenizers.get(request.id)
        if detokenizer is None:
            detokenizer = self._detokenizers[request.id] = Detokenizer(self._tokenizer, request.params.stop)
        pieces: list[str] = []
        reason: FinishReason | None = None
        error: DeepgroundError | None = None
        for token_id, _, _ in sampled.tokens:
            if pieces:
                request.num_computed += 1  # The token before was a draft that the step has computed.
            request.append(token_id)
            piece, reason = self._take(request, detokenizer, token_id)
            pieces.append(piece)
            if reason is not None:
                break
        taken = sampled.tokens[: len(pieces)]
        if reason is None and sampled.verdict is not None:
            pieces[-1] += detokenizer.finish()
            reason = "stop" if detokenizer.stopped else sampled.verdict
        if reason is None and sampled.failure is not None:
            pieces[-1:] = [(pieces[-1] if pieces else "") + detokenizer.finish()]
            reason, error = "error", _error(request, sampled)
        return StepOutput(
            request_id=request.id,
            token_ids=tuple([token.token_id for token in taken]),
            pieces=tuple(pieces),
            logprobs=None if request.params.logprobs is None or not taken else self._logprobs(taken),
            finish_reason=reason,
            stop_string=detokenizer.stop_string,
            prompt_tokens=request.prompt_length,
            cached_tokens=request.num_cached,
            completion_tokens=request.num_generated,
            error=error,
            timing=None if reason is None else request.timing(),
        )

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._detokenizers.pop(request_id, None)

    def _take(self, request: Request, detokenizer: Detokenizer, token_id: int) -> tuple[str, FinishReason | None]:
        """The text that one token lets go, and why the request ends with it, if it does."""
        params = request.params
        is_end = token_id in self._end_ids
        stopped = (is_end and not params.ignore_eos) or token_id in params.stop_token_ids
        text = "" if stopped or is_end else detokenizer.feed(token_id)
        if stopped or detokenizer.stopped:
            return text + detokenizer.finish(), "stop"
        if request.num_generated < request.max_tokens:
            return text, None
        text += detokenizer.finish()
        # The text that was held back may turn out to hold a stop string in the very last token.
        return text, "stop" if detokenizer.stopped else "length"

    def _logprobs(self, tokens: Sequence[SampledToken]) -> tuple[TokenLogprob, ...]:
        return tuple(self._describe(id_, logprob, top) for id_, logprob, top in tokens if logprob is not None)

    def _describe(self, token_id: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> TokenLogprob:
        token = self._tokenizer.token_bytes(token_id)
        return TokenLogprob(
            token_id=token_id,
            token=token.decode("utf-8", errors="replace"),
            bytes=token,
            logprob=logprob,
            top=tuple(self._describe(rival, value) for rival, value in top),
        )


def _error(request: Request, sampled: Sampled) -> DeepgroundError:
    if isinstance(sampled.failure, DeepgroundError):
        return sampled.failure
    if sampled.failure == "dead end":
        return EngineError(
            f"request {request.id}: its constraint allows no token after {request.num_generated} generated tokens; "
            "give it an end token where the text may end"
        )
    return EngineError(
        f"request {request.id}: the model's numbers overflowed after {request.num_tokens} tokens "
        "(its logits hold NaN or infinity); load the model in float32, or check its weights"
    )
