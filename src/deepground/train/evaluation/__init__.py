"""How good a model is, with intervals, and what training changed."""

from deepground.train.evaluation.report import text_table, write_report
from deepground.train.evaluation.results import EvaluationResults, SuiteResult, compare, summarize
from deepground.train.evaluation.run import EvaluationPlan, evaluate_suites, plan_questions, questions_digest
from deepground.train.evaluation.statistics import Change, Share, clustered_share, paired_change, pass_at_k
from deepground.train.evaluation.suites import suite_questions

__all__ = [
    "Change",
    "EvaluationPlan",
    "EvaluationResults",
    "Share",
    "SuiteResult",
    "clustered_share",
    "compare",
    "evaluate_suites",
    "paired_change",
    "pass_at_k",
    "plan_questions",
    "questions_digest",
    "suite_questions",
    "summarize",
    "text_table",
    "write_report",
]
