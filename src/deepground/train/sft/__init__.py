"""Supervised fine-tuning: all weights or adapters, on conversations, for any family and chat format."""

from deepground.train.sft.export import ExportCheck, export_model, trained_decoder
from deepground.train.sft.run import (
    OWN_TASKS,
    PreparedRun,
    SftOutcome,
    SftPlan,
    load_for_training,
    make_trainer,
    optimizer_settings,
    prepare,
    run_sft,
)
from deepground.train.sft.samples import (
    Conversation,
    EncodedSet,
    encode_set,
    read_conversations,
    shuffled_mix,
    split_off,
)
from deepground.train.sft.trainer import (
    SftConfig,
    SftResult,
    SftTrainer,
    Validation,
    fine_tune,
    is_stale,
    validation_loss,
)

__all__ = [
    "OWN_TASKS",
    "Conversation",
    "EncodedSet",
    "ExportCheck",
    "PreparedRun",
    "SftConfig",
    "SftOutcome",
    "SftPlan",
    "SftResult",
    "SftTrainer",
    "Validation",
    "encode_set",
    "export_model",
    "fine_tune",
    "is_stale",
    "load_for_training",
    "make_trainer",
    "optimizer_settings",
    "prepare",
    "read_conversations",
    "run_sft",
    "shuffled_mix",
    "split_off",
    "trained_decoder",
    "validation_loss",
]
