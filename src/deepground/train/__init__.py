"""Training: tokenizer, data, loss, optimizers, the pretraining loop, and evaluation."""

from deepground.train.acceptance import DraftAcceptance, draft_acceptance, greedy_replies
from deepground.train.checkpoint import list_checkpoints, load_model_weights, read_state
from deepground.train.data import PackedStream, Sample, encode_conversation, pack_rows, sample_seed
from deepground.train.evaluate import (
    EvaluationConfig,
    TaskResult,
    evaluate,
    greedy_answers,
    markdown_table,
    mean_accuracy,
    save_results,
    wilson_interval,
)
from deepground.train.export import export_checkpoint
from deepground.train.initialize import initialize
from deepground.train.mixture import mixture_samples
from deepground.train.mtp import add_mtp_layer, load_main_model
from deepground.train.optim import OptimizerConfig, Schedule
from deepground.train.pretrain import PretrainConfig, PretrainResult, Trainer, pretrain
from deepground.train.reporting import Reporter, RunReporter
from deepground.train.tokenizer import (
    count_pieces,
    extend_tokenizer,
    retire_words,
    save_tokenizer,
    train_tokenizer,
)

__all__ = [
    "DraftAcceptance",
    "EvaluationConfig",
    "OptimizerConfig",
    "PackedStream",
    "PretrainConfig",
    "PretrainResult",
    "Reporter",
    "RunReporter",
    "Sample",
    "Schedule",
    "TaskResult",
    "Trainer",
    "add_mtp_layer",
    "count_pieces",
    "draft_acceptance",
    "encode_conversation",
    "evaluate",
    "export_checkpoint",
    "extend_tokenizer",
    "greedy_answers",
    "greedy_replies",
    "initialize",
    "list_checkpoints",
    "load_main_model",
    "load_model_weights",
    "markdown_table",
    "mean_accuracy",
    "mixture_samples",
    "pack_rows",
    "pretrain",
    "read_state",
    "retire_words",
    "sample_seed",
    "save_results",
    "save_tokenizer",
    "train_tokenizer",
    "wilson_interval",
]
