"""GRPO: sample groups, grade, keep those that teach, step, log; and go on after a kill as if nothing had happened.

Legend: N sampled tokens of some rows.

The attempts of a step are written down before anything is learnt from them. A run that is killed goes on from its
newest checkpoint; attempts that are on disk already are read and not sampled again, and since the same seeds give
the same attempts, the run ends with the weights of one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from deepground.errors import CheckpointError, TrainingError
from deepground.model import Decoder, RowBatch
from deepground.train import checkpoint
from deepground.train.answering import Question
from deepground.train.data import PackedBatch, Sample, pack_rows
from deepground.train.lora import LoraConfig
from deepground.train.loss import IGNORED
from deepground.train.optim import OptimizerConfig, Schedule, build_optimizers, set_step_sizes
from deepground.train.pretrain import Precision, choose_precision
from deepground.train.rl.groups import Attempts, Grades, Group, GroupStore, Trial, collect_groups
from deepground.train.rl.loss import LossConfig, LossSums, TokenTargets, policy_loss, sampled_logprobs
from deepground.train.rl.rewards import RewardConfig
from deepground.train.trained_part import TrainedPart


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Everything that decides a run, besides the model and the questions."""

    schedule: Schedule
    questions_per_step: int = 16
    """Groups that are learnt from in one step."""
    attempts: int = 8
    """Per question: the size of a group."""
    most_rounds: int = 3
    """Times that as many questions are sampled, to replace groups that teach nothing."""
    minibatches: int = 1
    """Optimizer steps per step: above 1, later ones learn from a policy that is a little old."""
    max_tokens: int = 512
    """Of one reply."""
    thinking: bool = True
    max_sequences: int = 64
    row_length: int
    """Tokens per row; an attempt that is longer is left out."""
    micro_rows: int = 4
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    lora: LoraConfig | None = None
    precision: Precision = "float32"
    """Of the products, in sampling and training alike."""
    checkpoint_steps: int = 10
    keep_checkpoints: int = 2
    seed: int = 0
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("questions_per_step", "most_rounds", "minibatches", "max_tokens", "micro_rows"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.attempts < 2:
            raise TrainingError(f"attempts is {self.attempts}; a group needs at least 2 to compare")


@dataclass(frozen=True, kw_only=True)
class GrpoStep:
    """What one step has to tell; means over what was sampled, unless it says otherwise."""

    step: int
    right: float
    """Share of right answers: the figure that matters."""
    reward: float
    form: float
    """Share of replies in their proper form."""
    tokens: float
    """Of an attempt."""
    truncated: float
    groups_sampled: int
    groups_kept: int
    """Groups with right and wrong answers, which are learnt from."""
    all_right: float
    """Share of the sampled groups."""
    all_wrong: float
    trained_tokens: int
    entropy: float
    """Nats per trained token."""
    clipped: float
    """Share of trained tokens."""
    kl: float
    mismatch: float
    """Mean absolute difference of the sampler's and the trainer's log-probability, per trained token."""
    worst_mismatch: float
    sampler_kl: float
    gradient_norm: float
    lr_factor: float
    undecided: int
    """Attempts on which the grader failed or ran out of time."""
    sampling_seconds: float
    training_seconds: float


class GrpoTrainer:
    """A run in progress.

    Args:
        decoder: the policy; its adapters, if any, are in place.
        sampler: of the same decoder.
        questions: what is practised.
        pool: grades.
        config: the run's settings.
        pad_id: token of the unused ends of rows.
        digest: stands for model and questions; a run goes on with the same only.
        first: the policy that a penalty keeps close to; needed if there is one.
    """

    writes = True
    """Whether this process writes what all workers share."""

    def __init__(
        self,
        decoder: Decoder,
        sampler: Attempts,
        questions: Sequence[Question],
        pool: Grades,
        config: GrpoConfig,
        *,
        pad_id: int,
        digest: str = "",
        first: Decoder | None = None,
    ) -> None:
        if not questions:
            raise TrainingError("there are no questions to practise; name a task or a file")
        if config.loss.kl > 0 and first is None:
            raise TrainingError("a penalty for leaving the first policy needs that policy")
        self.decoder, self.sampler, self.config = decoder, sampler, config
        self._questions, self._pool, self._first = list(questions), pool, first
        self._device = next(decoder.parameters()).device
        self._prepare()
        self.step = self.position = 0
        self.trained = TrainedPart(self.decoder, with_biases=False)
        self.optimizers = build_optimizers(self.decoder, config.optimizer)
        self.precision, _ = choose_precision(config.precision, self._device)
        self._pad_id, self._digest = pad_id, digest

    def _prepare(self) -> None:
        """What has to be done to the model before its parameters are looked at."""

    @property
    def num_questions(self) -> int:
        """That are practised."""
        return len(self._questions)

    def run_step(self, store: GroupStore) -> GrpoStep:
        """Sample, learn, log."""
        began = time.monotonic()
        groups = self._groups(store)
        sampled = time.monotonic()
        kept = [group for group in groups if group.teaches][: self.config.questions_per_step]
        factor = self.config.schedule.factor(self.step)
        set_step_sizes(self.optimizers, factor)
        sums, norms = self._learn(kept)
        self.step += 1
        return _tell(self.step, groups, kept, sums, norms, factor, sampled - began, time.monotonic() - sampled)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything that the next step depends on."""
        return checkpoint.save_checkpoint(
            folder, self.step, self.trained, self.optimizers, self.state(), keep=self.config.keep_checkpoints
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides tensors: plain JSON values."""
        return {"position": self.position, "digest": self._digest, "config": dataclasses.asdict(self.config)}

    def load(self, path: Path) -> None:
        """Put the tensors of a checkpoint back.

        Raises:
            CheckpointError: it is damaged, or of another model.
        """
        checkpoint.load_model_weights(path, self.trained)
        checkpoint.load_training_state(path, self.optimizers)

    def agree(self, stop: bool) -> bool:
        """Whether to stop, if several workers may want to."""
        return stop

    def resume(self, path: Path) -> list[str]:
        """Go on from a checkpoint.

        Returns:
            Settings that differ from those it was written with.

        Raises:
            CheckpointError: it is damaged, or of another model or other questions.
        """
        state = checkpoint.read_state(path)
        try:
            if state["digest"] != self._digest:
                raise CheckpointError(
                    f"{path} was written for another model or other questions; name those of the run, or an empty "
                    "folder"
                )
            before: Mapping[str, Any] = state["config"]
            self.step, self.position = int(state["step"]), int(state["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path / checkpoint.STATE_FILE} is incomplete: {error!r}") from error
        self.load(path)
        now = json.loads(json.dumps(dataclasses.asdict(self.config)))
        return [f"{name}: {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]

    def _groups(self, store: GroupStore) -> list[Group]:
        """This step's groups, from the store or sampled anew; moves the position."""
        found = self._stored(store)
        if found is None:
            found = collect_groups(
                self._next_questions(),
                self.sampler,
                self._pool,
                wanted=self.config.questions_per_step,
                attempts=self.config.attempts,
                most_rounds=self.config.most_rounds,
                seed=hash_seed(self.config.seed, self.step),
                rewards=self.config.rewards,
                thinking=self.config.thinking,
            )
            if self.writes:
                store.save(self.step, found)
        self.position += len(found)
        return found

    def _stored(self, store: GroupStore) -> list[Group] | None:
        """This step's groups, if they were sampled before."""
        return store.load(self.step, {question.id: question for question in self._questions})

    def _next_questions(self) -> Iterator[Question]:
        """From the position on, each pass in a new order."""
        position = self.position
        while True:
            epoch, place = divmod(position, len(self._questions))
            order = list(range(len(self._questions)))
            Random(f"practice {self.config.seed} {epoch}").shuffle(order)
            for index in order[place:]:
                yield self._questions[index]
            position += len(order) - place

    def _learn(self, kept: Sequence[Group]) -> tuple[LossSums, list[float]]:
        sums, norms = LossSums(), list[float]()
        trials = [trial for group in kept for trial in group.trials if not trial.attempt.truncated]
        count = min(self.config.minibatches, len(kept))
        parts = [[t for t in trials if t.group % count == n] for n in range(count)] if count else []
        prepared = [packed for part in parts if (packed := self._pack(part)) is not None]
        if len(prepared) > 1:  # Before the first step, while the policy is the one that sampled.
            prepared = [(batch, self._with_old(batch, known)) for batch, known in prepared]
        for batch, known in prepared:
            self.decoder.train()
            step_sums = self._accumulate(batch, known)
            if not torch.isfinite(torch.tensor([step_sums.entropy, step_sums.mismatch])).all():
                raise TrainingError(
                    f"step {self.step + 1}: the policy's probabilities are no numbers any more; lower the learning "
                    "rate and start again: the run goes on from its last checkpoint"
                )
            sums.add(step_sums)
            norms.append(self._clip_gradients())
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return sums, norms

    def _accumulate(self, batch: PackedBatch, known: TokenTargets) -> LossSums:
        """Gradients of a batch."""
        sums, total = LossSums(), max(1, batch.num_trained)
        for rows, targets_T, part in self._passes(batch, known):
            with self._products():
                loss, part_sums = policy_loss(self.decoder, rows, targets_T, self._with_first(rows, targets_T, part),
                                              self.config.loss)  # fmt: skip
            if part_sums.tokens:
                (loss / total).backward()  # type: ignore[no-untyped-call]
            sums.add(part_sums)
        return sums

    def _clip_gradients(self) -> float:
        """The norm of the whole gradient before."""
        parameters = [p for p in self.decoder.parameters() if p.requires_grad]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.gradient_clip))

    def _passes(self, batch: PackedBatch, known: TokenTargets) -> Iterator[tuple[RowBatch, Tensor, TokenTargets]]:
        """Rows of one pass, their targets, and what is known of these."""
        start = 0
        for rows, targets_T in batch.split(self.config.micro_rows, self._device):
            count = int((targets_T != IGNORED).sum())
            yield rows, targets_T, _slice(known, start, start + count, self._device)
            start += count

    def _with_first(self, rows: RowBatch, targets_T: Tensor, known: TokenTargets) -> TokenTargets:
        """With the first policy's log-probabilities, if there is a penalty for leaving it."""
        if self._first is None or self.config.loss.kl == 0:
            return known
        with torch.no_grad():
            return dataclasses.replace(known, first_logprob_N=sampled_logprobs(self._first, rows, targets_T))

    @torch.no_grad()
    def _with_old(self, batch: PackedBatch, known: TokenTargets) -> TokenTargets:
        self.decoder.train()
        with self._products():
            old = [sampled_logprobs(self.decoder, rows, targets_T) for rows, targets_T, _ in self._passes(batch, known)]
        return dataclasses.replace(known, old_logprob_N=torch.cat(old).cpu())

    def _pack(self, trials: Sequence[Trial]) -> tuple[PackedBatch, TokenTargets] | None:
        """Rows of attempts, longest first, with what is known of their tokens in the same order; None if none fits."""
        entries = []
        for trial in trials:
            for turn in trial.attempt.turns:
                sample = Sample([*turn.prompt_ids, *turn.token_ids], len(turn.prompt_ids))
                if len(sample.token_ids) <= self.config.row_length:
                    entries.append((sample, trial.advantage, turn.logprobs))
        if not entries:
            return None
        entries.sort(key=lambda entry: -len(entry[0].token_ids))
        rows: list[list[tuple[Sample, float, list[float]]]] = []
        free: list[int] = []
        for entry in entries:
            length = len(entry[0].token_ids)
            place = next((r for r, room in enumerate(free) if room >= length), None)
            if place is None:
                rows.append([])
                free.append(self.config.row_length)
                place = len(rows) - 1
            rows[place].append(entry)
            free[place] -= length
        batch = pack_rows([[entry[0] for entry in row] for row in rows], self.config.row_length, self._pad_id)
        placed = [entry for row in rows for entry in row]
        advantages = [torch.full((len(logprobs),), advantage) for _, advantage, logprobs in placed]
        known = TokenTargets(
            advantage_N=torch.cat(advantages),
            sampler_logprob_N=torch.tensor([value for _, _, logprobs in placed for value in logprobs]),
            old_logprob_N=None,
            first_logprob_N=None,
        )
        return batch, known

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            yield


def hash_seed(seed: int, step: int) -> int:
    """A seed for each step."""
    return Random(f"step {seed} {step}").getrandbits(40)


def _slice(known: TokenTargets, start: int, end: int, device: torch.device) -> TokenTargets:
    def part(values_N: Tensor | None) -> Tensor | None:
        return None if values_N is None else values_N[start:end].to(device)

    advantage_N, sampler_N = part(known.advantage_N), part(known.sampler_logprob_N)
    assert advantage_N is not None
    assert sampler_N is not None
    return TokenTargets(advantage_N, sampler_N, part(known.old_logprob_N), part(known.first_logprob_N))


def _tell(
    step: int,
    groups: Sequence[Group],
    kept: Sequence[Group],
    sums: LossSums,
    norms: Sequence[float],
    factor: float,
    sampling_seconds: float,
    training_seconds: float,
) -> GrpoStep:
    trials = [trial for group in groups for trial in group.trials]
    count = max(1, len(trials))
    num_groups = max(1, len(groups))
    return GrpoStep(
        step=step,
        right=sum(t.reward.is_right for t in trials) / count,
        reward=sum(t.reward.total for t in trials) / count,
        form=sum(t.reward.has_form for t in trials) / count,
        tokens=sum(t.attempt.num_tokens for t in trials) / count,
        truncated=sum(t.attempt.truncated for t in trials) / count,
        groups_sampled=len(groups),
        groups_kept=len(kept),
        all_right=sum(group.num_right == len(group.trials) for group in groups) / num_groups,
        all_wrong=sum(group.num_right == 0 for group in groups) / num_groups,
        trained_tokens=sums.tokens,
        entropy=sums.mean("entropy"),
        clipped=sums.mean("clipped"),
        kl=sums.mean("kl"),
        mismatch=sums.mean("mismatch"),
        worst_mismatch=sums.worst_mismatch,
        sampler_kl=sums.mean("sampler_kl"),
        gradient_norm=sum(norms) / max(1, len(norms)),
        lr_factor=factor,
        undecided=sum(t.undecided for t in trials),
        sampling_seconds=round(sampling_seconds, 2),
        training_seconds=round(training_seconds, 2),
    )
