"""Tasks on the letters of words: spelling backwards and counting a letter."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from random import Random

from deepground.tasks.grading import gym_score, last_word, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_BACKWARD = (
    "Spell {w} backward",
    "Spell {w} backwards.",
    "Spell the word {w} backwards.",
    'Spell "{w}" backwards.',
    "Write {w} backwards.",
    'Write "{w}" backwards.',
    "Reverse {w}",
    "Reverse the word {w}.",
    'Reverse the word "{w}".',
    "Reverse the letters of {w}.",
    "What is {w} spelled backwards?",
    'What is "{w}" backwards?',
    "{w} backwards",
    "Spell this word backward (example: sun -> nus): {w}",
    "把 {w} 倒過來拼",
    "{w} 倒著寫是什麼？",
)
_COUNT = (
    "How many {l}s are in {w}?",
    'How many times does "{l}" appear in "{w}"?',
    "How many times does the letter {l} appear in {w}?",
    'How many times does the letter "{l}" appear in the text: "{w}"?',
    "Count the letter {l} in {w}.",
    "How often is {l} in {w}?",
    "How many letters {l} does {w} have?",
    "{w} 裡有幾個 {l}？",
)
_LENGTHS = ((3, 4), (4, 5), (6, 7), (8, 8), (9, 9))
_CONSONANTS = "bcdfghjklmnprstvwz"
_CLUSTERS = (
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "fr",
    "gr",
    "pl",
    "pr",
    "qu",
    "sh",
    "sl",
    "sp",
    "st",
    "str",
    "th",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "o", "ea", "ee", "oo", "ai", "ou")
_ENDINGS = ("", "", "n", "r", "t", "s", "l", "m", "ck", "ng", "nd", "st", "ll", "d", "y")


@cache
def common_words() -> dict[int, tuple[str, ...]]:
    """Common English words of 3 to 9 letters, by length."""
    words = files("deepground.tasks").joinpath("words.txt").read_text(encoding="utf-8").split()
    return {length: tuple(w for w in words if len(w) == length) for length in range(3, 10)}


def random_word(rng: Random, length: int) -> str:
    """A word: common English, or made up from syllables, or, now and then, any letters."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(common_words()[length])
    if kind < 0.9:
        word = ""
        while len(word) < length:
            start = rng.choice(_CLUSTERS) if rng.random() < 0.3 else rng.choice(_CONSONANTS)
            word += start + rng.choice(_VOWELS) + rng.choice(_ENDINGS)
        return word[:length]
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))


def numbered_letters(word: str, rng: Random) -> list[str]:
    """The letters, each after a digit; the digits go up from any, and 0 follows 9."""
    start = rng.randrange(10)
    return [f"{(start + i) % 10}{letter}" for i, letter in enumerate(word)]


class SpellBackward(ProceduralTask):
    """The letters are numbered, then listed from the last one down."""

    name = "spell_backward"
    description = "words of 3 to 8 letters spelled backwards"

    def draw(self, rng: Random, level: int) -> str:
        """Longer words with the level."""
        return random_word(rng, rng.randint(*_LENGTHS[level - 1]))

    def canonical(self, operands: str) -> str:
        """The word."""
        return operands

    def build(self, operands: str, rng: Random) -> Draft:
        """`7c8a9t`, then `9t8a7c`; the numbers begin anywhere, and 0 follows 9."""
        numbered = numbered_letters(operands, rng)
        lines = ["".join(numbered), "".join(reversed(numbered))]
        return Draft(ask(rng, _BACKWARD, w=operands), operands[::-1], lines, {"word": operands})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `spell_backward`, which ignores case."""
        candidate = last_word(reply)
        return 0.0 if candidate is None else gym_score("spell_backward", candidate, problem.answer)


class LetterCounting(ProceduralTask):
    """How often a letter is in a word."""

    name = "letter_counting"
    description = "how often a letter is in a word of 3 to 8 letters"

    def draw(self, rng: Random, level: int) -> tuple[str, str]:
        """A word and a letter, in most cases one of its own."""
        word = random_word(rng, rng.randint(*_LENGTHS[level - 1]))
        if rng.random() < 0.85:
            repeated = [c for c in word if word.count(c) > 1]
            return word, rng.choice(repeated if repeated and rng.random() < 0.6 else word)
        return word, rng.choice("abcdefghijklmnopqrstuvwxyz")

    def canonical(self, operands: tuple[str, str]) -> str:
        """The word and the letter."""
        return f"{operands[0]} {operands[1]}"

    def build(self, operands: tuple[str, str], rng: Random) -> Draft:
        """Each letter with the count so far: `b0a1n1a2n2a3`."""
        word, letter = operands
        steps = "".join(f"{c}{word[: i + 1].count(letter)}" for i, c in enumerate(word))
        question = ask(rng, _COUNT, w=word, l=letter)
        return Draft(question, str(word.count(letter)), [f"{letter}:{steps}"], {"word": word, "letter": letter})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `letter_counting`."""
        candidate = only_number(reply, "")
        return 0.0 if candidate is None else gym_score("letter_counting", candidate, problem.answer)
