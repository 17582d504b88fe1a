"""The run that makes the bundled pilot: every number of it is in this file.

    python recipes/pilot.py tokenizer   # a minute: runs/pilot/tokenizer/
    python recipes/pilot.py train       # 90 minutes on one core; killed at any time, it goes on where it was
    python recipes/pilot.py export      # src/deepground/pilot/, FP8 with power-of-two scales
    python recipes/pilot.py evaluate    # accuracies of the exported folder, and its model card
    python recipes/pilot.py mtp         # 25 minutes on one core: the layer that drafts tokens; the model stays as it is
    python recipes/pilot.py attach      # the layer into src/deepground/pilot/
    python recipes/pilot.py acceptance  # how often the drafts are right, into the model card

docs/guides/pilot.md tells how long each step takes and what to expect.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from deepground.engine import LLM, PILOT_FOLDER
from deepground.model import CHAT_FORMATS, Decoder, ModelConfig, Tokenizer, load_model
from deepground.model.config import MlaConfig, MoeConfig, RopeConfig
from deepground.tasks import TASK_WEIGHTS, TASKS, training_conversation
from deepground.train import (
    DraftAcceptance,
    EvaluationConfig,
    OptimizerConfig,
    PretrainConfig,
    RunReporter,
    Schedule,
    TaskResult,
    Trainer,
    add_mtp_layer,
    draft_acceptance,
    export_checkpoint,
    greedy_replies,
    initialize,
    list_checkpoints,
    load_main_model,
    markdown_table,
    mean_accuracy,
    mixture_samples,
    pretrain,
    read_state,
    sample_seed,
    save_results,
    save_tokenizer,
    train_tokenizer,
)
from deepground.train import evaluate as run_evaluation

REPOSITORY = Path(__file__).resolve().parent.parent
RUN = REPOSITORY / "runs" / "pilot"
MTP_RUN = REPOSITORY / "runs" / "pilot_mtp"
CARD = REPOSITORY / "recipes" / "pilot_card.md"
CHAT_FORMAT = CHAT_FORMATS["deepseek-v3.1"]

VOCAB_SIZE = 4096
CONTEXT = 2048
SEED = 7
PAD_ID = 2

MODEL = ModelConfig(
    family="deepseek_v3",
    vocab_size=VOCAB_SIZE,
    hidden_size=256,
    num_layers=4,
    intermediate_size=768,
    max_positions=CONTEXT,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention=MlaConfig(
        num_heads=4,
        q_lora_rank=None,
        kv_lora_rank=128,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=64,
    ),
    rope=RopeConfig(theta=10000.0, rotary_dim=32, interleaved=True),
    moe=MoeConfig(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=256,
        shared_intermediate_size=256,
        scoring="sigmoid",
        correction_bias=True,
        group_score="top2_sum",
        normalize_topk=True,
        routed_scaling_factor=1.0,
    ),
    moe_layers=frozenset({1, 2, 3}),
    bos_token_id=0,
    eos_token_ids=(1,),
)

TRAINING = PretrainConfig(
    schedule=Schedule(total_steps=1900, warmup_steps=40, decay_share=0.5),
    num_rows=20,
    row_length=256,
    micro_rows=20,
    optimizer=OptimizerConfig(matrix_lr=6e-3, embedding_lr=3e-2, head_lr=6e-3, vector_lr=3e-3, weight_decay=0.2),
    balance_gamma=5e-3,
    checkpoint_steps=50,
)
MTP_TRAINING = PretrainConfig(
    schedule=Schedule(total_steps=800, warmup_steps=20, decay_share=0.5),
    num_rows=12,
    row_length=256,
    micro_rows=12,
    optimizer=TRAINING.optimizer,
    balance_gamma=5e-3,
    checkpoint_steps=50,
    mtp_drafts=2,
)
"""The second phase: the exported model is frozen, its multi-token-prediction layer is trained."""
MTP_SEED = 8
EASY_SAMPLES = 30_000
"""Samples over which the mixture moves from easy levels to all levels alike."""

TOKENIZER_SAMPLES = 30_000
SPELLED_SHARE = 0.3
"""Weight of the two tasks about letters in the tokenizer's text: low, so that the words they hold stay rare."""
MIN_COUNT = 4
"""Times that a word must occur to become a token; rarer words are spelled letter by letter."""
BOILERPLATE = (
    '{"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "number"}}, "required": ["name"]}',
    '{"type": "array", "items": {"type": "integer"}, "enum": ["true", "false", "null"], "additionalProperties": false}',
    "## Tools\nYou have access to the following tools:\n\n### \nDescription: \n\nParameters: ",
    "IMPORTANT: ALWAYS adhere to this exact format for tool use:\ntool_call_name tool_call_arguments",
    "Where:\n- must be an exact match to one of the available tools\n- must be valid JSON that strictly follows the "
    "tool's Parameters Schema\n- For multiple tool calls, chain them directly without separators or spaces",
    "def function(arguments): return result\nfor i in range(10): print(i)\nimport json, error, list, number",
    "Answer in JSON with the keys answer, question, city, date, location, temperature, expression, calculate, search.",
)

DRAFTS_SECTION = """\
## Drafted tokens

A multi-token-prediction layer of {parameters:.1f}M parameters drafts tokens for speculative decoding. It was trained
after everything else, for {steps} steps or {tokens:.1f}M tokens, with the main model frozen: what the model answers is
what it answered without the layer. The table has the share of drafts that are the token which the model then chooses
greedily, on its own replies to {n} held-out problems per task; a draft counts where those before it were right. The
last column is what one pass of the main model gives if all of them are verified.

{table}

Repeat it with `python recipes/pilot.py acceptance --n {n}`.
"""

DRAFTS_PATTERN = re.compile(r"## Drafted tokens\n.*?(?=## )", re.DOTALL)

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
console = Console()


@app.command()
def tokenizer(run: Annotated[Path, typer.Option(help="Folder of the run.")] = RUN) -> None:
    """Make the tokenizer from the mixture's own text."""
    trained = train_tokenizer(tokenizer_texts(), VOCAB_SIZE, min_count=MIN_COUNT)
    save_tokenizer(trained, run / "tokenizer", max_positions=CONTEXT)
    print(f"{trained.get_vocab_size()} tokens in {run / 'tokenizer'}")


@app.command()
def train(
    total_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = TRAINING.schedule.total_steps,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time; run again to go on.")] = None,
    curves: Annotated[bool, typer.Option(help="Write TensorBoard curves.")] = True,
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = RUN,
) -> None:
    """Train, or go on; a changed --total-steps moves the decay at the end of the schedule."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    schedule = replace(TRAINING.schedule, total_steps=total_steps)
    settings = replace(TRAINING, schedule=schedule, max_minutes=max_minutes)
    decoder = Decoder(MODEL)
    initialize(decoder, SEED)
    samples = mixture_samples(
        Tokenizer.from_folder(run / "tokenizer"), CHAT_FORMAT, seed=SEED, easy_samples=EASY_SAMPLES
    )
    trainer = Trainer(decoder, samples, settings, pad_id=PAD_ID)
    pretrain(trainer, run, RunReporter(run, console, curves=curves))


@app.command()
def mtp(
    total_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = MTP_TRAINING.schedule.total_steps,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time; run again to go on.")] = None,
    curves: Annotated[bool, typer.Option(help="Write TensorBoard curves.")] = True,
    model: Annotated[Path, typer.Option(help="The exported model, which stays as it is.")] = PILOT_FOLDER,
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = MTP_RUN,
) -> None:
    """Train a multi-token-prediction layer for the exported model, or go on."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    schedule = replace(MTP_TRAINING.schedule, total_steps=total_steps)
    settings = replace(MTP_TRAINING, schedule=schedule, max_minutes=max_minutes)
    decoder = add_mtp_layer(load_main_model(model), MTP_SEED)
    samples = mixture_samples(Tokenizer.from_folder(model), CHAT_FORMAT, seed=MTP_SEED, easy_samples=0)
    trainer = Trainer(decoder, samples, settings, pad_id=PAD_ID)
    pretrain(trainer, run, RunReporter(run, console, curves=curves))


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = RUN,
    output: Annotated[Path, typer.Option(help="Where to write.")] = PILOT_FOLDER,
) -> None:
    """Write the newest checkpoint as an FP8 model folder; evaluate it next, for the model card."""
    step = export_checkpoint(run, MODEL, output, weight_format="fp8-ue8m0", tokenizer_from=run / "tokenizer")
    note_training(run, step)
    print(f"step {step}: {output}")


@app.command()
def attach(
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = MTP_RUN,
    model: Annotated[Path, typer.Option(help="The model that the layer was trained for.")] = PILOT_FOLDER,
    output: Annotated[Path, typer.Option(help="Where to write.")] = PILOT_FOLDER,
) -> None:
    """Write the model's own files and, beside them, the newest checkpoint of its multi-token-prediction layer."""
    step = export_checkpoint(run, model, output)
    note_training(run, step)
    print(f"step {step}: {output}")


@app.command()
def evaluate(
    n: Annotated[int, typer.Option("--n", help="Problems per task.")] = 300,
    model: Annotated[Path, typer.Option(help="Model folder.")] = PILOT_FOLDER,
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = RUN,
) -> None:
    """Measure the exported model on held-out problems, and write its model card."""
    config = EvaluationConfig(problems_per_task=n)
    results = run_evaluation(
        LLM(model), config, lambda r: print(f"{r.task} thinking={r.thinking}: {r.correct}/{r.total}", flush=True)
    )
    save_results(results, config, run / "evaluation.json")
    trained = json.loads((run / "trained.json").read_text(encoding="utf-8"))
    card, path = model_card(results, n, **trained), model / "README.md"
    if path.exists() and (drafts := DRAFTS_PATTERN.search(path.read_text(encoding="utf-8"))):
        card = with_drafts_section(card, drafts[0])
    path.write_text(card, encoding="utf-8")
    print(markdown_table(results))


@app.command()
def acceptance(
    n: Annotated[int, typer.Option("--n", help="Problems per task and mode.")] = 20,
    drafts: Annotated[int, typer.Option(help="Tokens drafted ahead.")] = 3,
    model: Annotated[Path, typer.Option(help="Model folder.")] = PILOT_FOLDER,
    run: Annotated[Path, typer.Option(help="Folder of the layer's run.")] = MTP_RUN,
) -> None:
    """Measure how often drafted tokens are right, and put it into the model card."""
    decoder, llm = load_model(model, dtype="float32"), LLM(model)
    rows: dict[str, list[DraftAcceptance]] = {}
    for mode, thinking in (("with thinking", True), ("without thinking", False)):
        replies = greedy_replies(llm, tuple(TASKS), problems_per_task=n, thinking=thinking)
        if thinking:
            rows |= {task: draft_acceptance(decoder, samples, drafts) for task, samples in replies.items()}
        rows[f"**all, {mode}**"] = draft_acceptance(decoder, [s for part in replies.values() for s in part], drafts)
    table = acceptance_table(rows)
    print(table)
    card = model / "README.md"
    trained = json.loads((run / "trained.json").read_text(encoding="utf-8"))
    text = DRAFTS_SECTION.format(
        parameters=sum(p.numel() for p in decoder.model.mtp_layers.parameters()) / 1e6,
        steps=trained["steps"],
        tokens=trained["tokens"] / 1e6,
        n=n,
        table=table,
    )
    card.write_text(with_drafts_section(card.read_text(encoding="utf-8"), text), encoding="utf-8")


def acceptance_table(rows: Mapping[str, list[DraftAcceptance]]) -> str:
    """Markdown: one row per task, one column per draft, and the tokens that one pass of the main model gives."""
    drafts = len(next(iter(rows.values())))
    lines = [
        "| replies | " + " | ".join(f"draft {d + 1}" for d in range(drafts)) + " | tokens per pass |",
        "|---|" + "---|" * (drafts + 1),
    ]
    for name, results in rows.items():
        reached = tokens = 1.0
        for result in results:
            reached *= result.share
            tokens += reached
        lines.append(f"| {name} | " + " | ".join(f"{r.share:.1%}" for r in results) + f" | {tokens:.2f} |")
    return "\n".join(lines)


def with_drafts_section(card: str, text: str) -> str:
    """The card with the section about drafts, in place of an older one or before the tasks."""
    card = DRAFTS_PATTERN.sub("", card)
    return card.replace("## What the tasks are\n", f"{text.rstrip()}\n\n## What the tasks are\n")


def note_training(run: Path, step: int) -> None:
    """What the model card tells of a run."""
    tokens = read_state(list_checkpoints(run)[-1])["tokens"]
    (run / "trained.json").write_text(json.dumps({"steps": step, "tokens": tokens}) + "\n", encoding="utf-8")


def model_card(results: list[TaskResult], n: int, *, steps: int, tokens: int) -> str:
    """The README.md of the exported folder."""
    total = sum(parameter.numel() for parameter in Decoder(MODEL).parameters())
    assert MODEL.moe is not None
    per_expert = 3 * MODEL.hidden_size * MODEL.moe.intermediate_size
    idle = (MODEL.moe.num_experts - MODEL.moe.experts_per_token) * per_expert * len(MODEL.moe_layers)
    levels = "\n".join(f"- {name}: {task.description}" for name, task in TASKS.items())
    return CARD.read_text(encoding="utf-8").format(
        total=total / 1e6,
        active=(total - idle) / 1e6,
        steps=steps,
        tokens=tokens / 1e6,
        n=n,
        table=markdown_table(results),
        tasks=levels,
        thinking=mean_accuracy(results, thinking=True),
        direct=mean_accuracy(results, thinking=False),
        context=CONTEXT,
    )


def tokenizer_texts() -> Iterator[str]:
    """Conversations, the phrases of tools and JSON, and the longer words of a public-domain story.

    Short words of the story are left out: they are what the tasks about letters ask for, and a word that is one token
    has to be learnt by heart before it can be spelled.
    """
    import reasoning_gym

    weights = {**TASK_WEIGHTS, "spell_backward": SPELLED_SHARE, "letter_counting": SPELLED_SHARE}
    for index in range(TOKENIZER_SAMPLES):
        for message in training_conversation(sample_seed(SEED, index), weights=weights).messages:
            yield from (message.text, message.reasoning)
    yield from BOILERPLATE * 20
    story = Path(reasoning_gym.__file__).parent / "data" / "in_the_year_2889.txt"
    words = re.findall(r"[A-Za-z]+", story.read_text(encoding="utf-8"))
    yield from MIN_COUNT * [" ".join(word for word in words if len(word) >= 10 or word[0].isupper())]


if __name__ == "__main__":
    app()
