"""Reinforcement learning with verifiable rewards: GRPO on our own engine, in one and in several turns."""

from deepground.train.rl.environment import Environment, Episode, SingleTurn, ToolEnvironment, calculator
from deepground.train.rl.groups import Group, GroupStore, Trial, collect_groups
from deepground.train.rl.loss import LossConfig, TokenTargets, group_advantages, policy_loss, sampled_logprobs
from deepground.train.rl.rewards import Reward, RewardConfig, reward
from deepground.train.rl.rollout import Attempt, PolicySampler, Turn
from deepground.train.rl.run import (
    Practice,
    RlOutcome,
    RlPlan,
    load_environment,
    make_trainer,
    note,
    practice_questions,
    practise,
    run_rl,
)
from deepground.train.rl.trainer import GrpoConfig, GrpoStep, GrpoTrainer

__all__ = [
    "Attempt",
    "Environment",
    "Episode",
    "Group",
    "GroupStore",
    "GrpoConfig",
    "GrpoStep",
    "GrpoTrainer",
    "LossConfig",
    "PolicySampler",
    "Practice",
    "Reward",
    "RewardConfig",
    "RlOutcome",
    "RlPlan",
    "SingleTurn",
    "TokenTargets",
    "ToolEnvironment",
    "Trial",
    "Turn",
    "calculator",
    "collect_groups",
    "group_advantages",
    "load_environment",
    "make_trainer",
    "note",
    "policy_loss",
    "practice_questions",
    "practise",
    "reward",
    "run_rl",
    "sampled_logprobs",
]
