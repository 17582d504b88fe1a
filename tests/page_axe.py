"""The rules of axe, tried on a page."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

AXE = (Path(__file__).parent / "page" / "vendor" / "axe-core" / "axe.min.js").read_text("utf-8")
SERIOUS = """async () => {
    const found = await axe.run(document, {resultTypes: ['violations']});
    return found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
        .map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | '));
}"""


def faults(page: Page) -> list[str]:
    """What axe finds that keeps people out."""
    page.evaluate(AXE)
    found: list[str] = page.evaluate(SERIOUS)
    return found
