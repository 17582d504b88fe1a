"""Supervised fine-tuning: all weights or adapters, on conversations, for any family and chat format."""

from deepground.train.sft.export import ExportCheck, export_model, trained_decoder
from deepground.train.sft.run import SftOutcome, SftPlan, load_for_training, optimizer_settings, run_sft
from deepground.train.sft.samples import (
    Conversation,
    EncodedSet,
    encode_set,
    read_conversations,
    shuffled_mix,
    split_off,
)
from deepground.train.sft.trainer import SftConfig, SftResult, SftTrainer, Validation, fine_tune, validation_loss

__all__ = [
    "Conversation",
    "EncodedSet",
    "ExportCheck",
    "SftConfig",
    "SftOutcome",
    "SftPlan",
    "SftResult",
    "SftTrainer",
    "Validation",
    "encode_set",
    "export_model",
    "fine_tune",
    "load_for_training",
    "optimizer_settings",
    "read_conversations",
    "run_sft",
    "shuffled_mix",
    "split_off",
    "trained_decoder",
    "validation_loss",
]
