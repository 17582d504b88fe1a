"""Replies for tests of the page: what a model might write at best and at worst, by the question's first word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepground.engine import ChatEvent
from deepground.errors import EngineError, RequestAbortedError
from deepground.messages import (
    Delta,
    FinishReason,
    Message,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    Tool,
    ToolCallDelta,
    Usage,
)
from server_fakes import TextTools

MARKDOWN = r"""The **quadratic formula** solves any equation of the form $ax^2 + bx + c = 0$ with $a \ne 0$:

$$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$

## In code

Here is the same thing in Python, with the *discriminant* checked first.

```python
import math

def solve(a: float, b: float, c: float) -> tuple[float, float] | None:
    # Roots of a quadratic, or None when they are not real.
    d = b * b - 4 * a * c
    if d < 0:
        return None
    return (-b + math.sqrt(d)) / (2 * a), (-b - math.sqrt(d)) / (2 * a)
```

1. Compute the discriminant `d`.
2. Stop if it is negative.
   - Complex roots need `cmath`.
3. Return both roots.

| equation | roots |
|---|--:|
| $x^2 - 5x + 6$ | 2 and 3 |
| $x^2 + 1$ | none |

> A negative discriminant means that the curve never meets the axis.

More at [Wikipedia](https://en.wikipedia.org/wiki/Quadratic_formula).
"""

CHINESE = """**「一元二次方程式」**的公式解如下，其中 $a \\ne 0$：

$$x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$$

1. 先算**判別式**。
2. 若為負數，就沒有實數解。

```python
d = b * b - 4 * a * c
```
"""

HOSTILE = r"""<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">

<svg onload="window.pwned = 3"><a xlink:href="javascript:window.pwned = 4">x</a></svg>

[script](javascript:window.pwned=5) [data](data:text/html,<script>window.pwned=6</script>)
[vb](vbscript:msgbox) [case](JaVaScRiPt:window.pwned=7) [entity](java&#115;cript:window.pwned=8)
[file](file:///etc/passwd) [tab](<java	script:window.pwned=9>) [relative](/v1/models)

![tracker](https://tracker.invalid/pixel.png?secret=1) ![local](/health)

<iframe src="https://tracker.invalid/"></iframe><style>@import "https://tracker.invalid/a.css";
body{display:none}</style>
<meta http-equiv="refresh" content="0;url=https://tracker.invalid/"><base href="https://tracker.invalid/">
<form action="https://tracker.invalid/"><input name=q autofocus onfocus="window.pwned=10"></form>

$\href{javascript:window.pwned=11}{click}$ $\includegraphics{https://tracker.invalid/x.png}$
$\htmlStyle{position:fixed;inset:0}{x}$ $\url{javascript:window.pwned=12}$ $\def\a{\a\a}\a$ $\rule{9999em}{9999em}$

```html"><script>window.pwned=13</script>
</code></pre><script>window.pwned = 14</script>
```

[ref]: javascript:window.pwned=15
[ref] <javascript:window.pwned=16> <https://ok.invalid/"onmouseover="window.pwned=17>

__proto__ constructor {{constructor.constructor('window.pwned=18')()}} ${window.pwned=19}
"""

THINKING = "The question asks for a formula. I recall it, check it with an example, and add code.\n\nDone."


@dataclass
class PageAsked:
    """One conversation that the service was given."""

    messages: tuple[Message, ...]
    params: SamplingParams
    tools: tuple[Tool, ...]
    thinking: bool


@dataclass
class PageService(TextTools):
    """Answers by the first word of the last message; a real implementation of the server's protocol.

    "echo ..." repeats the rest, "slow ..." does it with a pause before every word, "forever" never ends, "fail" breaks
    after one word, "tool" calls the first tool, "markdown", "chinese", "hostile" and "json" say what stands above.
    """

    is_healthy: bool = True
    pace_s: float = 0.0
    """Pause between pieces."""
    asked: list[PageAsked] = field(default_factory=list)
    aborted: int = 0
    stopped: bool = False
    answers: int = 0

    def stop(self) -> None:
        """End what runs, as an engine that is stopped does."""
        self.stopped = True

    def start_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        tools: Sequence[Tool] = (),
        thinking: bool = True,
        **_others: Any,
    ) -> AsyncGenerator[ChatEvent, None]:
        self.asked.append(PageAsked(tuple(messages), params, tuple(tools), thinking))
        return self._run(messages[-1], tuple(tools), thinking)

    def start_completion(
        self, prompt: str | Sequence[int], params: SamplingParams, **_others: Any
    ) -> AsyncGenerator[ChatEvent, None]:
        """As a conversation whose last message is the prompt."""
        return self._run(Message.user(str(prompt)), (), False)

    async def _run(self, last: Message, tools: tuple[Tool, ...], thinking: bool) -> AsyncGenerator[ChatEvent, None]:
        finished = False
        count = 0
        try:
            async for delta in self._deltas(last, tools, thinking):
                count += 1
                yield ChatEvent(deltas=(delta,))
            finished = True
            reason: FinishReason = "tool_calls" if last.text == "tool" else "stop"
            yield ChatEvent(finish_reason=reason, usage=Usage(7, count, reasoning_tokens=2 if thinking else 0))
        finally:
            self.aborted += not finished

    async def _deltas(self, last: Message, tools: tuple[Tool, ...], thinking: bool) -> AsyncGenerator[Delta, None]:
        self.answers += 1
        command, _, rest = last.text.partition(" ")
        pause = 0.15 if command == "slow" else self.pace_s
        if thinking:
            for piece in _pieces(THINKING):
                yield ReasoningDelta(piece)
                await asyncio.sleep(pause)
        if command == "tool" and tools:
            yield ToolCallDelta(0, tools[0].name, "")
            yield ToolCallDelta(0, None, '{"city": ')
            yield ToolCallDelta(0, None, '"Oslo", "days": 3}')
            return
        if command == "forever":
            while not self.stopped:
                yield TextDelta("on and ")
                await asyncio.sleep(0.01)
            raise RequestAbortedError("the engine was stopped")
        if command == "fail":
            yield TextDelta("one")
            await asyncio.sleep(0.05)
            raise EngineError("the model broke")
        known = {
            "markdown": MARKDOWN,
            "chinese": CHINESE,
            "hostile": HOSTILE,
            "json": '{"city": "Oslo", "days": [1, 2]}',
        }
        text = known.get(command) or (rest if command in ("echo", "slow") else f"answer {self.answers}")
        for piece in _pieces(text):
            yield TextDelta(piece)
            await asyncio.sleep(pause)


def _pieces(text: str) -> list[str]:
    """Short pieces, about as long as tokens."""
    return [text[i : i + 5] for i in range(0, len(text), 5)]
