"""Training on more than one worker: Ray starts them and begins anew when one dies, FSDP2 shards the model."""

from deepground.train.distributed.run import run_pretrain_on_workers, run_sft_on_workers
from deepground.train.distributed.sharded import ShardedTrainer, check_settings, shard

__all__ = ["ShardedTrainer", "check_settings", "run_pretrain_on_workers", "run_sft_on_workers", "shard"]
