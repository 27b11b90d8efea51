"""Makes docs/report.png, the README's picture of a report: of the sample archive, as `make audit` leaves it.

    python -m tests.docs.picture

Needs Chromium and playwright, see tests/browser.py.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import chromium

from .pages import ROOT
from .running import Desk

PICTURE = ROOT / "docs" / "report.png"
MOST_BYTES = 200_000
SIZE = {"width": 1280, "height": 1080}
KEPT_COLOURS = 96


def picture_of(report: Path, folder: Path) -> bytes:
    """PNG with a palette. The folder in which the sample was made stands as `…`, as in the documents."""
    shown = report.with_name("shown.html")
    shown.write_text(report.read_text(encoding="utf-8").replace(str(folder), "…"), encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.goto(shown.as_uri())
        page.locator("html[data-ready]").wait_for(state="attached")
        taken = Image.open(io.BytesIO(page.screenshot()))
    data = io.BytesIO()
    with_palette(taken.convert("RGB")).save(data, "PNG", optimize=True)
    return data.getvalue()


def with_palette(picture: Image.Image) -> Image.Image:
    """With 256 colours: the commonest as they are, so that the page keeps its own, and the rest for photographs."""
    counted = sorted(picture.getcolors(picture.width * picture.height) or [], reverse=True)
    page = [colour for _, colour in counted[:KEPT_COLOURS]]
    others = [colour for count, colour in counted[KEPT_COLOURS:] for _ in range(count)]
    photographs = Image.new("RGB", (max(1, len(others)), 1))
    photographs.putdata(others or [(0, 0, 0)])
    rest = photographs.quantize(256 - KEPT_COLOURS, Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for colour in page for level in colour] + rest)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        desk = Desk(folder)
        desk.audit()
        data = picture_of(folder / "scores" / "report.html", folder)
    assert len(data) <= MOST_BYTES, f"expected at most {MOST_BYTES} bytes, got {len(data)}: fewer COLOURS"
    PICTURE.write_bytes(data)
    print(f"{PICTURE.relative_to(ROOT)}: {len(data)} bytes")


if __name__ == "__main__":
    main()
