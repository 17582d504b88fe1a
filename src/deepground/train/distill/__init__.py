"""A teacher's verified and curated reasoning as a training set."""

from deepground.train.distill.curate import FATES, Curation, CurationRules, Decision, curate, screen
from deepground.train.distill.overlap import contaminated, near_duplicates
from deepground.train.distill.quality import QualityRules
from deepground.train.distill.report import write_distill_report
from deepground.train.distill.run import DistillOutcome, DistillPlan, distill

__all__ = [
    "FATES",
    "Curation",
    "CurationRules",
    "Decision",
    "DistillOutcome",
    "DistillPlan",
    "QualityRules",
    "contaminated",
    "curate",
    "distill",
    "near_duplicates",
    "screen",
    "write_distill_report",
]
