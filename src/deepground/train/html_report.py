"""Reports as one HTML file that needs nothing else: text, tables and figures, everything escaped."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepground.errors import TrainingError
from deepground.train.answering.journal import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: .3rem .8rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; background: #fff; display: inline-block; max-width: 100%; }
figure svg { max-width: 100%; height: auto; } figcaption { color: #333; padding: .2rem .8rem .6rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .7rem; border-radius: .4rem; }
details { margin: .5rem 0; } .scroll { overflow-x: auto; }
"""


class HtmlReport:
    """Collects sections and writes them.

    Args:
        title: also the page's heading.
        lead: one paragraph below it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._parts: list[str] = []
        if lead:
            self.text(lead)

    def section(self, title: str) -> None:
        """A heading."""
        self._parts.append(f"<h2>{html.escape(title)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table; the first column names its rows."""
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def example(self, summary: str, parts: Sequence[tuple[str, str]]) -> None:
        """One folded example: named texts below a line that is always seen."""
        shown = "".join(
            f"<p><b>{html.escape(name)}</b></p><pre>{html.escape(_shortened(text))}</pre>" for name, text in parts
        )
        self._parts.append(f"<details><summary>{html.escape(summary)}</summary>{shown}</details>")

    def figure(self, caption: str, draw: Callable[[Axes], None], *, height: float = 3.2) -> None:
        """A plot.

        Args:
            caption: what it shows; also its text for readers who do not see it.
            draw: draws into matplotlib axes.
            height: in inches; the width is 8.

        Raises:
            TrainingError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise TrainingError("reports need matplotlib; run: pip install 'deepground[train]'") from error
        figure = Figure(figsize=(8, height), layout="constrained")
        draw(figure.add_subplot())
        picture = io.StringIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
        svg = picture.getvalue()
        svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1)
        self._parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        title = html.escape(self._title)
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
            f"<body><main><h1>{title}</h1>{''.join(self._parts)}</main></body></html>\n"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)


def _shortened(text: str, limit: int = 4000) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n[… {len(text) - limit} more characters]"
