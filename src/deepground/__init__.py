"""deepground: open-weight reasoning models on your own machines.

    from deepground import LLM, SamplingParams

    llm = LLM("path/to/model")          # or LLM() for the bundled pilot
    print(llm.chat([Message.user("What is 17 + 25?")])[0].text)

Names are loaded on first use, so that `import deepground` stays quick and free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepground.engine import LLM, CompletionOutput
    from deepground.errors import DeepgroundError
    from deepground.messages import Message, SamplingParams, Tool, Usage

__version__ = "0.1.0"

__all__ = ["LLM", "CompletionOutput", "DeepgroundError", "Message", "SamplingParams", "Tool", "Usage", "__version__"]

_HOMES = {
    "LLM": "deepground.engine",
    "CompletionOutput": "deepground.engine",
    "DeepgroundError": "deepground.errors",
    "Message": "deepground.messages",
    "SamplingParams": "deepground.messages",
    "Tool": "deepground.messages",
    "Usage": "deepground.messages",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepground' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
