"""What people see is escaped: names are the uploader's, and the page asks for nothing from anywhere."""

import io
import re

from rich.console import Console

from deephotlink.pipelines.report import Summary, Suspicious, print_summary, summary_html

HOSTILE = "/a/<script>alert(1)</script>\"'&\x1b]0;title\x07\u202egpj.exe.mp4"


def summary(**fields) -> Summary:
    found = {
        "verdicts": {"manipulated": 1, "inconclusive": 2},
        "failures": {"unreadable": 1},
        "skipped": {"not_media": 3},
        "decoders": {"decord": 3},
        "assessed_seconds": 12.0,
        "frames_decoded": 300,
        "faces": 2,
        "suspicious": (
            Suspicious(HOSTILE, "manipulated", 0.02, ("[bold]because[/bold] <b>of</b> it",)),
            Suspicious("/a/dull.mp4", "inconclusive", 0.49, ("hardly",)),
        ),
        "calibrations": ("conservative-2026-11",),
        "failed": ((HOSTILE + "2", "unreadable", "<i>End of file</i>"),),
    }
    return Summary(**{**found, **fields})


def test_the_page_is_self_contained_and_escaped():
    page = summary_html(summary())
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page)
    assert "default-src 'none'" in page and not re.search(r"(src|href|url)\s*[=(]", page)
    assert "dull.mp4" not in page  # near 0.5 is not worth a name on a page
    for text in ("unreadable", "not_media", "conservative-2026-11", "not proof", "&lt;i&gt;End of file"):
        assert text in page
    assert len(page) < 20_000


def test_the_closing_table_counts_everything_and_takes_no_markup_from_names():
    console = Console(width=120, record=True, file=io.StringIO())
    print_summary(summary(), console, "/out")
    text = console.export_text()
    assert (
        re.search(r"all\s+│\s+7", text)
        and "failed: unreadable" in text
        and "<i>End of file</i>" in text
        and "[bold]because[/bold]" in text
    )
    assert "\x1b]0" not in text and "\u202e" not in text


def test_nothing_suspicious_is_said_so():
    page = summary_html(summary(suspicious=()))
    assert "No file leans towards manipulation" in page
