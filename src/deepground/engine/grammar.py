"""Grammars as constraints: compiled once, tried out where they can do no harm, and followed token by token.

The engine is llguidance: an Earley parser over a lexer of derivatives, which computes masks as it goes. A grammar is
text in its Lark dialect; `reply_grammar` writes it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection

import llguidance
import numpy as np

from deepground.engine.bitmask import Bitmask, num_words
from deepground.engine.grammar_trial import BUDGET_S, GrammarTrial
from deepground.engine.grammar_worker import make_tokenizer
from deepground.engine.json_schema import Schema
from deepground.errors import EngineError, SchemaError
from deepground.model import Tokenizer

CACHED_GRAMMARS = 256
"""Most compiled grammars that are kept."""
CACHED_SOURCE_BYTES = 16 << 20
"""Most text of compiled grammars that are kept; what they take in memory grows with it."""
LONGEST_SOURCE = 2 << 20
"""Characters beyond which a grammar is not even tried."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer and keeps them. Thread-safe.

    Args:
        tokenizer: of the model.
        end_ids: tokens that end the model's turn; a grammar allows them where a text may end.
        budget_s: most time for one grammar, in seconds.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int], *, budget_s: float = BUDGET_S) -> None:
        self._tokenizer = tokenizer
        self._end_ids = sorted(id_ for id_ in end_ids if id_ < tokenizer.vocab_size)
        self._budget_s = budget_s
        self._lock = threading.Lock()
        self._engine: llguidance.LLTokenizer | None = None
        self._trial: GrammarTrial | None = None
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()
        self._cached_bytes = 0

    @property
    def num_cached(self) -> int:
        """Grammars that are kept at the moment."""
        return len(self._compiled)

    def compile(self, source: str, *, budget_s: float | None = None) -> Grammar:
        """A grammar ready for use; at once if it was compiled before.

        Args:
            source: its text.
            budget_s: most time for it, if that is less than usual.

        Raises:
            SchemaError: it is wrong, or takes too long or too much memory; the error has the engine's own words.
            EngineError: the model has no token that could end a text.
        """
        if len(source) > LONGEST_SOURCE:
            raise SchemaError(f"the schema has {len(source)} characters; the most is {LONGEST_SOURCE}")
        key = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        with self._lock:
            known = self._compiled.get(key)
            if known is not None:
                self._compiled.move_to_end(key)
                return known
            engine, trial = self._prepare()
        trial.check(source, self._budget_s if budget_s is None else min(budget_s, self._budget_s))
        matcher = llguidance.LLMatcher(engine, source, log_level=0)
        if matcher.is_error():
            raise SchemaError(str(matcher.get_error()))
        grammar = Grammar(matcher, self._tokenizer.vocab_size, len(source))
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = grammar
                self._cached_bytes += grammar.size
            while len(self._compiled) > CACHED_GRAMMARS or self._cached_bytes > CACHED_SOURCE_BYTES:
                self._cached_bytes -= self._compiled.popitem(last=False)[1].size
        return grammar

    def check_instance(self, schema: Schema, text: str) -> str:
        """What keeps a text from being JSON that fits a schema; empty if nothing does.

        Raises:
            SchemaError: to find out takes too long.
        """
        with self._lock:
            _, trial = self._prepare()
        return trial.check_instance(schema, text)

    def close(self) -> None:
        """End the processes that try grammars out."""
        if self._trial is not None:
            self._trial.close()

    def _prepare(self) -> tuple[llguidance.LLTokenizer, GrammarTrial]:
        if self._engine is None or self._trial is None:
            if not self._end_ids:
                raise EngineError(
                    "the model has no end token, so a grammar could never end; output cannot be held to one"
                )
            tokenizer = self._tokenizer
            tokens = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
            special = [id_ for text in tokenizer.special_tokens if (id_ := tokenizer.special_id(text)) is not None]

            def encode(text: bytes) -> list[int]:
                return tokenizer.encode(text.decode("utf-8", errors="replace"))

            self._engine = make_tokenizer(tokens, special, self._end_ids, encode)
            self._trial = GrammarTrial(tokens, special, self._end_ids)
        return self._engine, self._trial


class Grammar:
    """A compiled grammar; any number of texts can follow it at the same time."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.size = size
        """Characters of its text."""

    def start(self) -> GrammarState:
        """The state before the first token."""
        return GrammarState(self._matcher.deep_copy(), self._vocab_size)


class GrammarState:
    """How far one text has come in a grammar; a `Constraint`."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._mask_W: Bitmask = np.zeros(num_words(vocab_size), dtype=np.int32)
        self._address = self._mask_W.ctypes.data
        self._fresh = False

    @property
    def verdict(self) -> None:
        """A grammar ends a reply with an end token, and not otherwise."""
        return

    @property
    def may_end(self) -> bool:
        """The text may end here."""
        return self._matcher.is_accepting()

    def mask(self) -> Bitmask:
        """See `Constraint`.

        Raises:
            SchemaError: the grammar is too costly at this point.
        """
        if not self._fresh:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._mask_W.nbytes)
            if self._matcher.is_error():
                raise SchemaError(f"the schema is too complex to follow: {first_line(self._matcher.get_error())}")
            self._fresh = True
        return self._mask_W

    def advance(self, token_id: int) -> bool:
        """See `Constraint`."""
        taken = self._matcher.try_consume_tokens([token_id]) == 1
        if taken:
            self._fresh = False
        return taken

    def rollback(self, count: int) -> None:
        """See `Constraint`."""
        if count:
            self._matcher.rollback(count)
            self._fresh = False


def first_line(text: str) -> str:
    """The engine's messages go on with its inner state, which is nobody's business."""
    return (text.splitlines() or [""])[0][:300]
