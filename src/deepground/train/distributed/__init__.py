"""Training on more than one worker: Ray starts them and begins anew when one dies, FSDP2 shards the model."""

from deepground.train.distributed.grpo import ShardedGrpoTrainer, check_grpo_settings
from deepground.train.distributed.run import run_pretrain_on_workers, run_rl_on_workers, run_sft_on_workers
from deepground.train.distributed.sharded import ShardedTrainer, check_settings

__all__ = [
    "ShardedGrpoTrainer",
    "ShardedTrainer",
    "check_grpo_settings",
    "check_settings",
    "run_pretrain_on_workers",
    "run_rl_on_workers",
    "run_sft_on_workers",
]
