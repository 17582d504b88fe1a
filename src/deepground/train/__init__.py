"""Training: tokenizer, data, loss, optimizers, the pretraining loop, and evaluation."""

from deepground.train.checkpoint import list_checkpoints, load_model_weights, read_state
from deepground.train.data import PackedStream, Sample, encode_conversation, pack_rows, sample_seed
from deepground.train.optim import OptimizerConfig, Schedule
from deepground.train.pretrain import PretrainConfig, PretrainResult, Trainer, pretrain
from deepground.train.reporting import Reporter, RunReporter
from deepground.train.tokenizer import save_tokenizer, train_tokenizer

__all__ = [
    "OptimizerConfig",
    "PackedStream",
    "PretrainConfig",
    "PretrainResult",
    "Reporter",
    "RunReporter",
    "Sample",
    "Schedule",
    "Trainer",
    "encode_conversation",
    "list_checkpoints",
    "load_model_weights",
    "pack_rows",
    "pretrain",
    "read_state",
    "sample_seed",
    "save_tokenizer",
    "train_tokenizer",
]
