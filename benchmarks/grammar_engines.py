"""Which grammar engine holds JSON Schema best: coverage, soundness and speed, on the official test suite and our own.

    pip install --no-deps xgrammar apache-tvm-ffi   # beside llguidance, which deepground needs anyway
    python benchmarks/grammar_engines.py SUITE [--vocab 2000 128000]

SUITE is a checkout of the official JSON-Schema-Test-Suite (the source distribution of the jsonschema package holds one
as json/). Every instance is written as compact JSON, encoded, and fed token by token; an engine takes it if it lets
every token pass and may end there. A grammar fixes the order of properties, so an instance is also tried in the
schema's order.

    refused          schemas that the engine says it cannot hold
    wrongly refused  valid instances that it does not let pass, of schemas that it compiled
    let through      invalid instances that it lets pass: what the engine promises and does not hold
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import llguidance
import llguidance.numpy
import numpy as np
from schema_samples import SAMPLES

from deepground.engine import PILOT_FOLDER
from deepground.model import Tokenizer


class Matcher(Protocol):
    """One text being checked."""

    def mask(self) -> None:
        """Compute which tokens may come next."""
        ...

    def take(self, token_id: int) -> bool:
        """Whether the token is allowed; if so it is consumed."""
        ...

    def may_end(self) -> bool:
        """The text may end here."""
        ...


class _Vocabulary:
    """Tokens as bytes: those of the pilot, padded with made-up words to a size."""

    def __init__(self, size: int) -> None:
        self.tokenizer = Tokenizer.from_folder(PILOT_FOLDER)
        count = self.tokenizer.vocab_size
        self.tokens = [self.tokenizer.token_bytes(id_) for id_ in range(count)]
        generator = np.random.default_rng(0)
        letters = np.frombuffer(b" etaoinshrdlcumwfgypbvk0123456789.,:{}[]\"'", dtype=np.uint8)
        seen = set(self.tokens)
        while len(self.tokens) < size:
            word = generator.choice(letters, size=int(generator.integers(2, 9))).tobytes()
            if word not in seen:
                seen.add(word)
                self.tokens.append(word)
        self.eos = self.tokenizer.eos_ids[0]
        self.special = [
            id_ for text in self.tokenizer.special_tokens if (id_ := self.tokenizer.special_id(text)) is not None
        ]


class LLGuidance:
    """llguidance, without lenience."""

    name = f"llguidance {llguidance.__version__}"

    def __init__(self, vocabulary: _Vocabulary) -> None:
        tokens = [b"\xff" + t if i in set(vocabulary.special) else t for i, t in enumerate(vocabulary.tokens)]

        class Wrapped:
            eos_token_id = vocabulary.eos
            bos_token_id = None
            special_token_ids = vocabulary.special

            def __init__(self) -> None:
                self.tokens = tokens

            def __call__(self, text: bytes) -> list[int]:
                return vocabulary.tokenizer.encode(text.decode(errors="replace"))

        wrapper = llguidance.TokenizerWrapper(Wrapped())
        self._tokenizer = llguidance.LLTokenizer(
            wrapper, n_vocab=len(tokens), slices=llguidance.LLTokenizer.json_slices()
        )
        self._mask = llguidance.numpy.allocate_token_bitmask(1, len(tokens))

    def compile(self, schema: Any) -> Matcher:
        """Raises ValueError if the engine refuses the schema."""
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        mask = self._mask

        class Adapter:
            def mask(self) -> None:
                llguidance.numpy.fill_next_token_bitmask(matcher, mask)

            def take(self, token_id: int) -> bool:
                return matcher.try_consume_tokens([token_id]) == 1

            def may_end(self) -> bool:
                return matcher.is_accepting()

        return Adapter()


class XGrammar:
    """xgrammar, with additional properties allowed where the schema allows them."""

    def __init__(self, vocabulary: _Vocabulary) -> None:
        import xgrammar

        self.name = f"xgrammar {importlib.metadata.version('xgrammar')}"
        tokens = list(vocabulary.tokens)
        info = xgrammar.TokenizerInfo(
            tokens, xgrammar.VocabType.RAW, vocab_size=len(tokens), stop_token_ids=[vocabulary.eos]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._mask = xgrammar.allocate_token_bitmask(1, len(tokens))
        self._make: Callable[[Any], Any] = xgrammar.GrammarMatcher

    def compile(self, schema: Any) -> Matcher:
        """Raises RuntimeError if the engine refuses the schema."""
        matcher = self._make(self._compiler.compile_json_schema(json.dumps(schema), strict_mode=False))
        mask = self._mask

        class Adapter:
            def mask(self) -> None:
                matcher.fill_next_token_bitmask(mask)

            def take(self, token_id: int) -> bool:
                return bool(matcher.accept_token(token_id))

            def may_end(self) -> bool:
                return bool(matcher.is_completed())

        return Adapter()


Engine = LLGuidance | XGrammar


@dataclass
class Score:
    """What one engine did with one set of schemas."""

    schemas: int = 0
    refused: int = 0
    valid: int = 0
    taken: int = 0
    invalid: int = 0
    stopped: int = 0
    compile_ms: list[float] = field(default_factory=list)
    mask_us: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A schema, what fits it and what does not."""

    name: str
    schema: Any
    valid: Sequence[Any]
    invalid: Sequence[Any]


def suite_cases(folder: Path, draft: str) -> Iterator[Case]:
    """The official suite, formats included; references to other documents left out, which no engine follows."""
    tests = folder / "tests" / draft
    for path in sorted([*tests.glob("*.json"), *(tests / "optional" / "format").glob("*.json")]):
        if path.stem in ("refRemote", "vocabulary", "dynamicRef", "anchor", "unevaluatedItems-dynamic"):
            continue
        for group in json.loads(path.read_text(encoding="utf-8")):
            marked = group["tests"]
            yield Case(
                f"{path.stem}: {group['description']}",
                group["schema"],
                [test["data"] for test in marked if test["valid"]],
                [test["data"] for test in marked if not test["valid"]],
            )


def own_cases() -> Iterator[Case]:
    """Our own schemas."""
    for sample in SAMPLES:
        yield Case(sample.name, sample.schema, sample.valid, sample.invalid)


def _in_schema_order(value: Any, schema: Any) -> Any:
    if isinstance(value, dict) and isinstance(schema, dict):
        known = schema.get("properties")
        order = [*(known if isinstance(known, dict) else ()), *(schema.get("required") or ())]
        keys = [*dict.fromkeys(k for k in order if k in value), *(k for k in value if k not in order)]
        return {k: _in_schema_order(value[k], (known or {}).get(k)) for k in keys}
    return value


def _accepts(matcher: Matcher, ids: Sequence[int], timings: list[float]) -> bool:
    for id_ in ids:
        begun = time.perf_counter()
        matcher.mask()
        timings.append(1e6 * (time.perf_counter() - begun))
        if not matcher.take(id_):
            return False
    return matcher.may_end()


def judge(engine: Engine, vocabulary: _Vocabulary, cases: Iterator[Case]) -> Score:
    """Run every case."""
    score = Score()
    for case in cases:
        score.schemas += 1
        begun = time.perf_counter()
        try:
            engine.compile(case.schema)
        except (ValueError, RuntimeError) as error:
            score.refused += 1
            score.failures.append(f"refused         {case.name}: {str(error).splitlines()[0][:140]}")
            continue
        score.compile_ms.append(1e3 * (time.perf_counter() - begun))

        def takes(value: Any, case: Case = case) -> bool:
            texts = {
                json.dumps(v, ensure_ascii=False, separators=(",", ":")): v
                for v in (value, _in_schema_order(value, case.schema))
            }
            return any(
                _accepts(engine.compile(case.schema), vocabulary.tokenizer.encode(text), score.mask_us)
                for text in texts
            )

        for value in case.valid:
            score.valid += 1
            if takes(value):
                score.taken += 1
            else:
                score.failures.append(f"wrongly refused {case.name}: {json.dumps(value)[:100]}")
        for value in case.invalid:
            score.invalid += 1
            if takes(value):
                score.failures.append(f"let through     {case.name}: {json.dumps(value)[:100]}")
            else:
                score.stopped += 1
    return score


def _row(name: str, what: str, score: Score) -> str:
    compiled = score.schemas - score.refused
    percentile = statistics.quantiles(score.mask_us, n=100)
    return (
        f"| {name} | {what} | {compiled} of {score.schemas} | {score.taken} of {score.valid} | "
        f"{score.invalid - score.stopped} of {score.invalid} | {statistics.median(score.compile_ms):.2f} / "
        f"{max(score.compile_ms):.1f} | {percentile[49]:.0f} / {percentile[98]:.0f} / {max(score.mask_us):.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--draft", default="draft2020-12")
    parser.add_argument("--vocab", type=int, nargs="+", default=[0])
    parser.add_argument("--failures", action="store_true", help="list every failure")
    args = parser.parse_args()
    print(
        "| engine | schemas | compiled | valid taken | invalid let through | compile ms median / max "
        "| mask us p50 / p99 / max |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in args.vocab:
        vocabulary = _Vocabulary(size)
        for engine in (LLGuidance(vocabulary), XGrammar(vocabulary)):
            for what, cases in ((args.draft, suite_cases(args.suite, args.draft)), ("own", own_cases())):
                score = judge(engine, vocabulary, cases)
                print(_row(engine.name, f"{what}, {len(vocabulary.tokens)} tokens", score), flush=True)
                if args.failures:
                    print("\n".join(f"    {line}" for line in score.failures), flush=True)


if __name__ == "__main__":
    main()
