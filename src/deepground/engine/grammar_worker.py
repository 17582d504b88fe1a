"""Tries grammars out in a process of its own, where one that takes too long or too much memory can be killed.

Run as a file, so that it loads nothing of the package but this: `python grammar_worker.py MEMORY_BYTES`. Lines of JSON
go in and out. The first line holds the vocabulary; each line after it a grammar, or a schema and an answer that shall
fit it. The reply to each is a line with an error text, empty if all is well.
"""

from __future__ import annotations

import base64
import json
import resource
import sys
from collections.abc import Sequence
from typing import Any

import llguidance

TRIAL_STEPS = 8
"""Tokens that are tried after compiling: some grammars show only then how costly they are."""


def make_tokenizer(
    tokens: Sequence[bytes], special_ids: Sequence[int], end_ids: Sequence[int], encode: Any
) -> llguidance.LLTokenizer:
    """The engine's view of a vocabulary.

    Args:
        tokens: bytes by id.
        special_ids: tokens that are markers and never text.
        end_ids: tokens that end a text; at least one.
        encode: bytes to token ids.
    """
    special = set(special_ids)

    class Vocabulary:
        eos_token_id = end_ids[0]
        bos_token_id = None
        special_token_ids = sorted(special)

        def __init__(self) -> None:
            # 0xFF cannot begin UTF-8 text; the library marks with it what is no text.
            self.tokens = [
                b"\xff" + (token or b"<unused %d>" % id_) if id_ in special or not token else token
                for id_, token in enumerate(tokens)
            ]

        def __call__(self, text: bytes) -> list[int]:
            ids: list[int] = encode(text)
            return ids

    slices = llguidance.LLTokenizer.json_slices() + llguidance.LLTokenizer.general_slices()
    return llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(Vocabulary()),
        n_vocab=len(tokens),
        eos_token=list(end_ids),
        slices=list(dict.fromkeys(slices)),
    )


class Greedy:
    """Encodes by the longest token that fits: close enough to a real tokenizer for a trial.

    Args:
        tokens: bytes by id.
        special_ids: tokens that are no text.
    """

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int]) -> None:
        special = set(special_ids)
        self._ids = {token: id_ for id_, token in enumerate(tokens) if token and id_ not in special}
        self._longest = max(map(len, self._ids), default=0)

    def encode(self, text: bytes) -> list[int]:
        """Token ids; bytes that no token stands for are left out."""
        ids, at = [], 0
        while at < len(text):
            for length in range(min(self._longest, len(text) - at), 0, -1):
                id_ = self._ids.get(text[at : at + length])
                if id_ is not None:
                    ids.append(id_)
                    break
            else:
                length = 1
            at += length
        return ids


def try_grammar(tokenizer: llguidance.LLTokenizer, source: str) -> str:
    """What is wrong with a grammar; empty if nothing is."""
    matcher = llguidance.LLMatcher(tokenizer, source, log_level=0)
    if matcher.is_error():
        return str(matcher.get_error())
    for _ in range(TRIAL_STEPS):
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            return str(matcher.get_error())
        token_id = _last(mask)
        if token_id is None or matcher.is_stopped() or not matcher.consume_token(token_id):
            break
    return ""


def check_instance(schema: Any, instance: str) -> str:
    """What keeps a text from being JSON that fits a schema; empty if nothing does."""
    # Few servers ever check an answer, and the import takes longer than everything else here.
    import jsonschema

    try:
        value = json.loads(instance)
    except ValueError as error:
        return f"it is not JSON: {error}"
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        checker = validator(schema, format_checker=validator.FORMAT_CHECKER)
        first = next(iter(sorted(checker.iter_errors(value), key=jsonschema.exceptions.relevance, reverse=True)), None)
    except Exception as problem:  # a schema that is none: the library raises what its parts raise
        return f"the schema itself is wrong: {problem}"
    return "" if first is None else f"{first.json_path}: {first.message}"[:300]


def _last(mask: bytes) -> int | None:
    """The highest token of a set."""
    for place in range(len(mask) - 1, -1, -1):
        if mask[place]:
            return 8 * place + mask[place].bit_length() - 1
    return None


def _answer(error: str) -> None:
    sys.stdout.write(json.dumps(error) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until the input ends."""
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    vocabulary = json.loads(sys.stdin.readline())
    tokens = [base64.b64decode(token) for token in vocabulary["tokens"]]
    longest_first = Greedy(tokens, vocabulary["special_ids"])
    tokenizer = make_tokenizer(tokens, vocabulary["special_ids"], vocabulary["end_ids"], longest_first.encode)
    _answer("")
    for line in sys.stdin:
        try:
            task = json.loads(line)
            error = try_grammar(tokenizer, task["grammar"]) if "grammar" in task else check_instance(**task)
        except (ValueError, RuntimeError) as problem:
            error = str(problem)
        _answer(error)


if __name__ == "__main__":
    main()
