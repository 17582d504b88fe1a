"""Questions, who answers them, and a journal of the answers: what distillation, evaluation and RL have in common."""

from deepground.train.answering.chat_json import message_from_json, message_to_json, split_think_tags, tool_from_json
from deepground.train.answering.collect import Answer, Collection, CollectSettings, collect
from deepground.train.answering.endpoint import Endpoint, EndpointSettings, only_model
from deepground.train.answering.journal import Journal, RunFolder
from deepground.train.answering.local import LocalModel
from deepground.train.answering.question import Question, majority_share, task_questions
from deepground.train.answering.readers import FieldNames, read_questions
from deepground.train.answering.respondent import Reply, Respondent
from deepground.train.answering.rows import FILE_KINDS, read_rows

__all__ = [
    "FILE_KINDS",
    "Answer",
    "CollectSettings",
    "Collection",
    "Endpoint",
    "EndpointSettings",
    "FieldNames",
    "Journal",
    "LocalModel",
    "Question",
    "Reply",
    "Respondent",
    "RunFolder",
    "collect",
    "majority_share",
    "message_from_json",
    "message_to_json",
    "only_model",
    "read_questions",
    "read_rows",
    "split_think_tags",
    "task_questions",
    "tool_from_json",
]
