"""From a model folder and files of conversations to a fine-tuned folder that has been checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deepground.errors import TrainingError
from deepground.model import ChatFormat, Decoder, Tokenizer, WeightFormat, chat_format_for, load_config, load_model
from deepground.train.answering import RunFolder
from deepground.train.data import Sample
from deepground.train.lora import LoraConfig, add_lora
from deepground.train.optim import OptimizerConfig, Schedule
from deepground.train.pretrain import Precision
from deepground.train.reporting import Reporter
from deepground.train.sft.export import ExportCheck, export_model
from deepground.train.sft.report import write_sft_report
from deepground.train.sft.samples import (
    EncodedSet,
    ThinkingMode,
    Turns,
    encode_set,
    read_conversations,
    shuffled_mix,
    split_off,
    task_conversations,
)
from deepground.train.sft.trainer import SftConfig, SftResult, SftTrainer, fine_tune

OWN_TASKS = Path("tasks")
"""In place of a file: the mixture of tasks that the bundled model was trained on."""
_OWN_TASKS_SAMPLES = 6000
_ROUND_TO = 64
_EXPECTED_FILL = 0.95
"""Share of a packed row that samples usually fill."""


@dataclass(frozen=True, kw_only=True)
class SftPlan:
    """A whole fine-tuning, as the command line has it."""

    model: Path
    data: tuple[Path, ...]
    general: tuple[Path, ...] = ()
    """Conversations that keep the model from forgetting: files, or `OWN_TASKS`; learnt in the modes that they have,
    whatever `thinking` says."""
    general_share: float = 0.2
    """Of the samples, those from `general`, if there are any."""
    validation_share: float = 0.05
    epochs: float = 3.0
    """Passes over `data`; gives the number of steps."""
    steps: int | None = None
    """Overrides `epochs`."""
    lr: float | None = None
    """None: 1e-5 for all weights, 2e-4 for adapters."""
    muon: bool = False
    """Train matrices with Muon instead of AdamW; for models that were pretrained with it."""
    weight_decay: float = 0.0
    warmup_share: float = 0.05
    lora: LoraConfig | None = None
    rows: int = 8
    micro_rows: int = 1
    row_length: int | None = None
    """None: the longest sample, at most the model's context."""
    turns: Turns = "last"
    thinking: ThinkingMode = "auto"
    precision: Precision = "auto"
    fp8: bool = False
    balance_gamma: float = 0.0
    checkpoint_steps: int = 50
    patience: int | None = None
    max_minutes: float | None = None
    weight_format: WeightFormat = "bfloat16"
    chat_format: str | None = None
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class SftOutcome:
    """What a run left behind."""

    training: SftResult
    export: ExportCheck | None
    """None if the run has not finished."""
    model: Path
    """Folder of the exported model."""
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """What a plan comes to with its data; the same in every process that prepares it."""

    training: EncodedSet
    general: EncodedSet | None
    held_out: list[Sample]
    settings: SftConfig
    pad_id: int
    digest: str
    """Of data and settings: a run goes on with the same only."""
    notes: tuple[str, ...]


Train = Callable[[SftPlan, PreparedRun, Path, Reporter], SftResult]


def prepare(plan: SftPlan) -> PreparedRun:
    """Read and encode the data, and settle what follows from it.

    Raises:
        TrainingError: data or settings that cannot be trained with; names them.
        ModelFolderError: the model's folder is incomplete.
    """
    config = load_config(plan.model)
    tokenizer = Tokenizer.from_folder(plan.model)
    tokenizer.check_vocab_size(config.vocab_size)
    chat_format = chat_format_for(plan.model, config, plan.chat_format)

    limit = min(plan.row_length or config.max_positions, config.max_positions)
    encode = partial(_encode, plan, limit, tokenizer, chat_format)
    found = encode(plan.data, plan.thinking)
    general = encode(plan.general, "auto") if plan.general else None
    notes = [*_notes(found, "the data"), *(_notes(general, "the general data") if general is not None else ())]
    training, validation = split_off(found, plan.validation_share, plan.seed)
    settings = _settings(plan, training, max(training.longest, general.longest if general else 0))
    return PreparedRun(
        training=training,
        general=general,
        held_out=[validation.sample(i) for i in range(len(validation))],
        settings=settings,
        pad_id=tokenizer.eos_ids[0] if tokenizer.eos_ids else 0,
        digest=_digest([training, validation, *([general] if general else [])], plan),
        notes=tuple(notes),
    )


def make_trainer(plan: SftPlan, prepared: PreparedRun, kind: type[SftTrainer] = SftTrainer) -> SftTrainer:
    """The trainer of a run at its beginning, of this class.

    Raises:
        ModelFolderError: the model cannot be loaded.
    """
    share = plan.general_share if prepared.general else 0.0
    return kind(
        load_for_training(plan.model, plan.lora, plan.seed, plan.device),
        shuffled_mix(prepared.training, prepared.general, share, plan.seed),
        prepared.held_out,
        prepared.settings,
        pad_id=prepared.pad_id,
        data_digest=prepared.digest,
        device=plan.device,
    )


def _train_here(plan: SftPlan, prepared: PreparedRun, folder: Path, reporter: Reporter) -> SftResult:
    return fine_tune(make_trainer(plan, prepared), folder, reporter)


def run_sft(
    plan: SftPlan, folder: Path, reporter: Reporter, *, train: Train = _train_here, kind: str = "sft"
) -> SftOutcome:
    """Read, encode, train, export, compare; goes on where it was if it is started again.

    Args:
        plan: what to do.
        folder: of the run; the model goes to `model/` in it.
        reporter: told of every step.
        train: does the training; in this process, if not given.
        kind: of the run, which goes on as the same only.

    Raises:
        TrainingError: data or settings that cannot be trained with; names them.
        ModelFolderError: the model cannot be loaded.
    """
    prepared = prepare(plan)
    lora = None if plan.lora is None else vars(plan.lora)
    with RunFolder(folder, {"kind": kind, "data": prepared.digest, "lora": lora}):
        settings = prepared.settings
        sizes = (
            f"{len(prepared.training)} samples to train on, {len(prepared.held_out)} to validate with, "
            f"{settings.schedule.total_steps} steps of {settings.num_rows} rows of {settings.row_length} tokens"
        )
        for note in (*prepared.notes, sizes):
            reporter.note(note)
        result = train(plan, prepared, folder, reporter)
        write_sft_report(folder, list(prepared.notes))
        if not result.finished:
            return SftOutcome(result, None, folder / "model", prepared.notes)
        few = [prepared.training.sample(i) for i in range(min(32, len(prepared.training)))]
        check = export_model(
            plan.model,
            result.checkpoint,
            folder,
            lora=plan.lora,
            seed=plan.seed,
            weight_format=plan.weight_format,
            held_out=prepared.held_out or few,
            pad_id=prepared.pad_id,
        )
        reporter.note(check.sentence())
    return SftOutcome(result, check, folder / "model", prepared.notes)


def _encode(
    plan: SftPlan,
    limit: int,
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
    sources: Sequence[Path],
    thinking: ThinkingMode,
) -> EncodedSet:
    """The conversations of some files, or of our own tasks, at most `limit` tokens each."""
    conversations = [
        conversation
        for source in sources
        for conversation in (
            task_conversations(_OWN_TASKS_SAMPLES, plan.seed) if source == OWN_TASKS else read_conversations(source)
        )
    ]
    return encode_set(conversations, tokenizer, chat_format, max_length=limit, turns=plan.turns, thinking=thinking)


def load_for_training(model: Path, lora: LoraConfig | None, seed: int, device: str = "cpu") -> Decoder:
    """A decoder whose weights may be trained: all of them in float32, or adapters beside weights as they are served.

    Raises:
        ModelFolderError: the model cannot be loaded.
    """
    decoder = load_model(model, dtype="float32" if lora is None else "auto", device=device)
    if lora is not None:
        add_lora(decoder, lora, seed)
    else:
        decoder.requires_grad_(True)
    return decoder


def optimizer_settings(*, lr: float, muon: bool, weight_decay: float) -> OptimizerConfig:
    """One step size for all parameters."""
    return OptimizerConfig(
        matrix_lr=lr, embedding_lr=lr, head_lr=lr, vector_lr=lr, weight_decay=weight_decay, muon=muon
    )


def _settings(plan: SftPlan, training: EncodedSet, longest: int) -> SftConfig:
    row_length = plan.row_length or -(-longest // _ROUND_TO) * _ROUND_TO
    per_step = plan.rows * row_length * _EXPECTED_FILL * (1 - (plan.general_share if plan.general else 0.0))
    steps = plan.steps or max(1, math.ceil(plan.epochs * training.num_tokens / per_step))
    lr = plan.lr if plan.lr is not None else (1e-5 if plan.lora is None else 2e-4)
    if not 0 < lr < 1:
        raise TrainingError(f"the learning rate is {lr}; it must be above 0 and below 1")
    return SftConfig(
        schedule=Schedule(total_steps=steps, warmup_steps=max(1, round(plan.warmup_share * steps)), decay_share=1.0),
        num_rows=plan.rows,
        row_length=row_length,
        micro_rows=plan.micro_rows,
        optimizer=optimizer_settings(lr=lr, muon=plan.muon, weight_decay=plan.weight_decay),
        lora=plan.lora,
        balance_gamma=plan.balance_gamma,
        precision=plan.precision,
        fp8=plan.fp8,
        checkpoint_steps=plan.checkpoint_steps,
        patience=plan.patience,
        max_minutes=plan.max_minutes,
    )


def _digest(sets: Sequence[EncodedSet], plan: SftPlan) -> str:
    digest = hashlib.blake2b(repr((plan.seed, plan.general_share)).encode(), digest_size=16)
    for found in sets:
        for ids, prompt_length in found.samples:
            digest.update(prompt_length.to_bytes(4, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()


def _notes(found: EncodedSet, what: str) -> list[str]:
    notes = []
    if found.too_long:
        notes.append(f"{found.too_long} samples of {what} are longer than a row and are left out, not cut")
    if not len(found):
        raise TrainingError(f"no sample of {what} fits in a row; give a larger row length")
    if found.without_thinking == len(found):
        notes.append(f"no reply in {what} has any thinking: the model learns to answer at once")
    elif found.without_thinking:
        notes.append(f"{found.without_thinking} of {len(found)} replies in {what} have no thinking")
    return notes
