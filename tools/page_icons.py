"""Draw the page's PNG icons from icon.svg with Chromium: python tools/page_icons.py [CHROMIUM]."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ICONS = Path("src/deepground/server/page/static/icons")
SIZES = {"icon-192.png": (192, False), "icon-512.png": (512, False), "icon-maskable-512.png": (512, True)}


def main(chromium: str) -> None:
    """Write every PNG; a maskable one fills its square, with the drawing inside the safe zone."""
    svg = (ICONS / "icon.svg").read_text("utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        for name, (size, maskable) in SIZES.items():
            page = browser.new_page(viewport={"width": size, "height": size})
            side = size * 0.8 if maskable else size
            background = "#0d5c54" if maskable else "transparent"
            page.set_content(
                f"<style>body{{margin:0;height:100vh;display:grid;place-items:center;background:{background}}}"
                f"svg{{width:{side}px;height:{side}px}}</style>{svg}"
            )
            page.screenshot(path=ICONS / name, omit_background=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "/usr/bin/chromium")
