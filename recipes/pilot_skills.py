"""The run that teaches the pilot more: from the shipped weights on, with the whole mixture of tasks.

    python recipes/pilot_skills.py tokenizer   # the shipped tokenizer with more words, names spelled
    python recipes/pilot_skills.py train       # killed at any time, it goes on where it was
    python recipes/pilot_skills.py export OUT  # FP8 with power-of-two scales
    python recipes/pilot_skills.py mtp OUT     # 5 minutes: the drafting layer, from the shipped one on
    python recipes/pilot_skills.py attach OUT  # the layer into OUT

The old tokens keep their ids, and so the weights their meaning. docs/guides/pilot.md tells more.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from pilot import CHAT_FORMAT, CONTEXT, MODEL, PAD_ID, REPOSITORY, VOCAB_SIZE, note_training
from rich.console import Console

from deepground.engine import PILOT_FOLDER
from deepground.model import Tokenizer, load_model
from deepground.model.prompt import Text
from deepground.tasks import TASK_WEIGHTS, training_conversation
from deepground.tasks.agent_steps import FINISH, SYSTEM
from deepground.tasks.entities import CITIES, COMPANY_ENDINGS, FIRST_NAMES, ITEMS, LAST_NAMES
from deepground.tasks.trips import CITIES as TRIP_CITIES
from deepground.tasks.words import common_words
from deepground.train import (
    OptimizerConfig,
    PretrainConfig,
    RunReporter,
    Schedule,
    Trainer,
    add_mtp_layer,
    count_pieces,
    export_checkpoint,
    extend_tokenizer,
    load_main_model,
    mixture_samples,
    pretrain,
    retire_words,
    sample_seed,
)

RUN = REPOSITORY / "runs" / "pilot_skills"
SEED = 19
TOKENIZER_SAMPLES = 12_000
MIN_COUNT = 12
"""Times that a word must occur to become a token."""
SPELLED_MIN_COUNT = 60
"""For words that the tasks about letters may ask for: a word that is one token cannot be spelled by copying."""
CHARACTER_MIN_COUNT = 40
"""For Chinese characters: those of wordings, not those that only names have, which are then copied byte by byte."""
SELDOM = 3
"""A word that occurs less often has no use as a token, and no training."""
NAMES = frozenset(
    word
    for names in (FIRST_NAMES, LAST_NAMES, CITIES, ITEMS, COMPANY_ENDINGS, TRIP_CITIES)
    for name in names
    for word in name.split()
)
"""Words that are spelled even if they are frequent: as one token after a space and letters in JSON, a name could be
known, but not copied."""
PHRASES = (
    "\n\n## Tools\nYou have access to the following tools:\n\n",
    "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n",
    "tool_call_name",
    "tool_call_arguments",
    "{additional_tool_calls}",
    "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n- `tool_call_arguments` must "
    "be valid JSON that strictly follows the tool's Parameters Schema\n- For multiple tool calls, chain them directly "
    "without separators or spaces",
    *("### ", "\nDescription: ", "\n\nParameters: ", '{"type": "object", "properties": {"', '": {"type": "string"'),
    *('": {"type": "integer"', ', "description": "', '}, "', '"}, "', '}}, "required": ["', '"}}, "required": ["'),
    *('"]}\n\n', '"]}', '", "', '": "', '": ', '{"', '"}', ', "', "```python\n", "\n```"),
    *("\n    ", "\n        ", "\n            ", " == ", " += ", " -= ", " *= ", "):\n"),
)
"""Texts of tool lists, JSON and code that become one token each: a list of tools is then a third as long."""
AGENT_PHRASES = (
    *(f"{sentence}." for sentence in SYSTEM.removesuffix(".").split(". ")),
    f"finish\nDescription: {FINISH.description}",
    json.dumps(FINISH.parameters),
    *('{"type": "object", "properties": {}, "required": []}', '": {"type": "array", "items": {"type": "string"}}, "'),
    *(
        '": ["',
        '"], "',
        '": "done"}',
        '": "cannot"}',
        "\\n",
        "\\n    ",
        "\\n        ",
        "\\n            ",
        '    """',
        '."""',
    ),
    *('\\"\\"\\"', ".py", '": {}}', "==", "].", "]"),
)
"""The same for the steps of an agent."""

TRAINING = PretrainConfig(
    schedule=Schedule(total_steps=2000, warmup_steps=25, decay_share=0.6),
    num_rows=11,
    row_length=480,
    micro_rows=11,
    optimizer=OptimizerConfig(
        matrix_lr=4e-3, embedding_lr=2e-2, head_lr=4e-3, vector_lr=2e-3, weight_decay=0.2, muon_bfloat16=True
    ),
    balance_gamma=5e-3,
    checkpoint_steps=25,
)

MTP_TRAINING = replace(
    TRAINING,
    schedule=Schedule(total_steps=450, warmup_steps=10, decay_share=0.6),
    num_rows=9,
    micro_rows=9,
    mtp_drafts=2,
)
"""The second phase: the exported model is frozen, and the shipped drafting layer follows it."""
MTP_SEED = 20

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
RunFolder = Annotated[Path, typer.Option(help="Folder of the run.")]


def words_without_token(counts: Mapping[str, int]) -> Callable[[str], bool]:
    """Which words of a vocabulary are to be spelled, from how often each occurs."""

    def retired(entry: str) -> bool:
        word = entry.removeprefix("\u0120")
        return word.isascii() and word.isalpha() and (word in NAMES or counts.get(entry, 0) < SELDOM)

    return retired


def texts(weights: Mapping[str, float], samples: int) -> Iterator[str]:
    """Prompts and replies of these tasks as they are shown, without the markers."""
    for index in range(samples):
        talk = training_conversation(sample_seed(SEED, index), weights=weights)
        *context, reply = talk.messages
        prompt = CHAT_FORMAT.render(context, tools=talk.tools, thinking=talk.thinking)
        answer = CHAT_FORMAT.render_reply(reply, in_reasoning=prompt.in_reasoning)
        yield from (part.text for part in (*prompt.segments, *answer.segments) if isinstance(part, Text))


def min_count(piece: str) -> int:
    """How often a piece must occur to become a token."""
    word = piece.removeprefix("\u0120")
    if word in NAMES:
        return sys.maxsize
    if not word.isascii():
        return CHARACTER_MIN_COUNT
    word = word.lower()
    return SPELLED_MIN_COUNT if word in common_words().get(len(word), ()) else MIN_COUNT


@app.command()
def tokenizer(run: RunFolder = RUN) -> None:
    """Copy the shipped model as the run's beginning, and fit its tokenizer to the tasks."""
    base, folder = run / "base", run / "tokenizer"
    if not base.exists():
        shutil.copytree(PILOT_FOLDER, base)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(base / name, folder / name)
    definition = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    mixture = list(texts(TASK_WEIGHTS, TOKENIZER_SAMPLES))
    extended = extend_tokenizer(
        definition, mixture, VOCAB_SIZE, phrases=(*AGENT_PHRASES, *PHRASES), min_count=min_count
    )
    extended = retire_words(extended, words_without_token(count_pieces(extended, mixture)))
    (folder / "tokenizer.json").write_text(json.dumps(extended, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{Tokenizer.from_folder(folder).vocab_size} tokens in {folder}; context {CONTEXT}")


@app.command()
def train(
    total_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = TRAINING.schedule.total_steps,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time; run again to go on.")] = None,
    curves: Annotated[bool, typer.Option(help="Write TensorBoard curves.")] = True,
    run: RunFolder = RUN,
) -> None:
    """Train, or go on; a changed --total-steps moves the decay at the end of the schedule."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    settings = replace(TRAINING, schedule=replace(TRAINING.schedule, total_steps=total_steps), max_minutes=max_minutes)
    decoder = load_main_model(run / "base").requires_grad_(True)
    samples = mixture_samples(Tokenizer.from_folder(run / "tokenizer"), CHAT_FORMAT, seed=SEED, easy_samples=0)
    trainer = Trainer(decoder, samples, settings, pad_id=PAD_ID)
    pretrain(trainer, run, RunReporter(run, Console(), curves=curves))


@app.command()
def export(output: Annotated[Path, typer.Argument(help="Where to write.")], run: RunFolder = RUN) -> None:
    """Write the newest checkpoint as an FP8 model folder."""
    step = export_checkpoint(run, MODEL, output, weight_format="fp8-ue8m0", tokenizer_from=run / "tokenizer")
    note_training(run, step)
    print(f"step {step}: {output}")


@app.command()
def mtp(
    model: Annotated[Path, typer.Argument(help="The exported model, which stays as it is.")],
    total_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = MTP_TRAINING.schedule.total_steps,
    run: RunFolder = RUN,
) -> None:
    """Train the shipped model's drafting layer for the exported model, or go on."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    settings = replace(MTP_TRAINING, schedule=replace(MTP_TRAINING.schedule, total_steps=total_steps))
    decoder = add_mtp_layer(load_main_model(model), MTP_SEED)
    shipped = load_model(run / "base", dtype="float32")
    decoder.model.mtp_layers.load_state_dict(shipped.model.mtp_layers.state_dict())
    samples = mixture_samples(Tokenizer.from_folder(model), CHAT_FORMAT, seed=MTP_SEED, easy_samples=0)
    trainer = Trainer(decoder, samples, settings, pad_id=PAD_ID)
    pretrain(trainer, run / "mtp", RunReporter(run / "mtp", Console()))


@app.command()
def attach(model: Annotated[Path, typer.Argument(help="The exported model.")], run: RunFolder = RUN) -> None:
    """Write the newest checkpoint of the drafting layer beside the exported model's own files."""
    step = export_checkpoint(run / "mtp", model, model)
    note_training(run / "mtp", step)
    print(f"step {step}: {model}")


if __name__ == "__main__":
    app()
