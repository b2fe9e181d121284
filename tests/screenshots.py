"""Writes ``assets/screenshots``: ``PYTHONPATH=. python tests/screenshots.py`` (Chromium must be installed)."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app_server import ROOT, running_app, running_chromium

FOLDER = ROOT / "assets" / "screenshots"
MOST_BYTES = 600_000  # of all together
QUALITY = 44
DESKTOP = {"viewport": {"width": 1400, "height": 1000}}
DRAWN = "{} .ov-viewer:not([data-drawn='0'])"
TABS = {  # and what is there once a tab shows its answer
    "Segment": DRAWN.format("#viewer"),
    "Ensemble": DRAWN.format("#ensemble-viewer"),
    "Hierarchy": DRAWN.format("#tree-viewer"),
    "Features": ".ov-panels:not(:has(progress)) .ov-panel img",
}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def main() -> int:
    """Take them all; 1 where they are too large together."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as app, running_chromium() as browser:
        for scheme in ("light", "dark"):
            page = _open(browser, f"{app.url}/?__theme={scheme}", DESKTOP)
            for tab, answer in TABS.items():
                if scheme == "light" or tab == "Segment":
                    page.get_by_role("tab", name=tab).click()
                    expect(page.locator(answer).first).to_be_visible()
                    _save(page, f"{tab.lower()}-{scheme}")
        _save(_open(browser, f"{app.url}/?__theme=light", PHONE), "segment-phone")
    total = sum(file.stat().st_size for file in FOLDER.glob("*.webp"))
    print(f"{total:,} bytes in {FOLDER}")
    return int(total > MOST_BYTES)


def _open(browser: Browser, address: str, settings: dict) -> Page:
    """The worked example with its largest segment explained."""
    page = browser.new_context(**settings).new_page()
    page.goto(address)
    page.locator("#viewer .ov-row").first.click()
    expect(page.locator("#inspector .ov-inspector")).to_be_visible()
    return page


def _save(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        image.convert("RGB").save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    sys.exit(main())
