"""The engine room: requests in, tokens, text and replies out.

engine = Engine.from_folder("path/to/model")            # add, step, abort
service = EngineService(load_engine("path/to/model"))   # the same in a thread, for many callers
session = ChatSession(service)                          # conversations instead of tokens; ModelSession: texts too
llm = LLM("path/to/model")                              # for scripts: all results, in order
"""

from deepground.engine.chat import ChatRequest, ChatSession, assemble_reply
from deepground.engine.completion import ModelSession
from deepground.engine.config import EngineConfig, EngineStats
from deepground.engine.constraint import Constraint, TokenAutomaton
from deepground.engine.engine import PILOT_FOLDER, Engine
from deepground.engine.llm import LLM, CompletionOutput
from deepground.engine.reply_reader import ChatEvent
from deepground.engine.request import RequestTiming, StepOutput
from deepground.engine.runner import ForwardModel
from deepground.engine.service import AsyncTokenStream, BlockingTokenStream, EngineService, ServiceHealth, load_engine

__all__ = [
    "LLM",
    "PILOT_FOLDER",
    "AsyncTokenStream",
    "BlockingTokenStream",
    "ChatEvent",
    "ChatRequest",
    "ChatSession",
    "CompletionOutput",
    "Constraint",
    "Engine",
    "EngineConfig",
    "EngineService",
    "EngineStats",
    "ForwardModel",
    "ModelSession",
    "RequestTiming",
    "ServiceHealth",
    "StepOutput",
    "TokenAutomaton",
    "assemble_reply",
    "load_engine",
]
