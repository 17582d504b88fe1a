"""What the agent can do: the tool protocol and the tools of the house."""

from deepground.agent.tools.code import code_toolset
from deepground.agent.tools.protocol import (
    Check,
    CheckResult,
    Effect,
    Tool,
    ToolContext,
    ToolFailure,
    ToolResult,
    Toolset,
)

__all__ = [
    "Check",
    "CheckResult",
    "Effect",
    "Tool",
    "ToolContext",
    "ToolFailure",
    "ToolResult",
    "Toolset",
    "code_toolset",
]
