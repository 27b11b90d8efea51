"""The page as a file: which files are in it, that no text can break out of its place, and that pictures are what
they claim."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from deephotlink.models.calibration.calibration import load_calibration
from deephotlink.pipelines.outputs.forget_pictures import forget_command
from deephotlink.pipelines.outputs.query import connect, published_files
from deephotlink.pipelines.outputs.reasons import Item, reasons_of
from deephotlink.pipelines.outputs.report import page as page_module
from deephotlink.pipelines.outputs.report import pictures
from deephotlink.pipelines.outputs.report.chosen import bounded
from deephotlink.pipelines.outputs.report.page import report_command, report_page
from deephotlink.pipelines.outputs.report.timelines import MOST_SPANS, shares, timeline_of
from deephotlink.pipelines.outputs.summary import summarise
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.runs import list_runs
from tests.reporting import HOSTILE, add_frames, frame_row, jpeg, make_archive, make_media, make_output, make_result

VENDOR = Path(page_module.__file__).parent / "vendor"


def block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found, name
    return json.loads(found[1])


def cards(page: str) -> list[dict[str, Any]]:
    names = re.findall(r'id="(cards-\d+)"', page)
    return [card for name in names for card in block(page, name)]


def made(out: Path | str, most: int = 5_000) -> str:
    tables = connect(str(out))
    with bounded(tables):
        store = OutputStore(str(out))
        return report_page(store, tables, summarise(tables), list_runs(store), most)[1].decode()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    out = tmp_path_factory.mktemp("out")
    make_output(out, make_archive(75))
    assert report_command(str(out)) == 0
    return str(out), (out / "report.html").read_text(encoding="utf-8")


def test_every_file_is_in_it_the_most_suspicious_first(archive):
    lines, all_cards = block(archive[1], "lines"), cards(archive[1])
    assert len(lines) == len(all_cards) == 75 == len({card["id"] for card in all_cards})
    known = [line["authenticity"] for line in lines if line["authenticity"] is not None]
    assert known == sorted(known) and lines[0]["verdict"] == 0
    assert [line["verdict"] for line in lines[-22:]] == [4] * 11 + [5] * 11


def test_nothing_in_a_name_leaves_the_place_where_it_stands(archive):
    page = archive[1]
    # Ours are the style, the script and the blocks of JSON, each once; whatever a name says, no more of them.
    assert len(re.findall(r"<script\b", page)) == len(re.findall(r"</script>", page)) == 2 + 4 + 1
    assert "onerror" not in page.replace("\\u003cimg src=x onerror", "")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page)
    assert page.isascii() or not re.search(r"[\ud800-\udfff]", page)
    told = " ".join(card["uri"] for card in cards(page))
    assert all(text in told for text in ("{{script}} {{data}} ${7*7}.mp4", "<!--<script>.mp4", "\\u202egpj")), HOSTILE


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(archive):
    page = archive[1]
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = {words[0]: words[1:] for words in (rule.split() for rule in policy.split(";"))}
    for name, tag in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        [text] = re.findall(tag, page, re.S)
        assert rules.pop(name) == [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"]
    assert rules == {"default-src": ["'none'"], "img-src": ["data:"], "base-uri": ["'none'"], "form-action": ["'none'"]}
    own = re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.S)
    assert not re.search(r"\s(on\w+|style|src)=|https?://", own)


def test_a_film_is_told_in_plain_words_with_what_speaks_against_it(archive):
    [card] = [c for c in cards(archive[1]) if c["uri"].endswith("take 005.mp4")]
    [line] = [found for found in block(archive[1], "lines") if found["name"] == "take 005.mp4"]
    assert line["why"] == "The face at 0:10-0:14 looks blended in or redrawn" == card["towards"][0]["text"]
    assert not card["towards"][0]["hint"] and all(reason["hint"] for reason in card["towards"][1:])
    assert ["What the file declares: the file declares nothing about how it was made", "no_indication"] in card[
        "silent"
    ]
    assert card["machine"][0] == "facial points somewhere (log-odds +3.40)"
    rule = load_calibration().detectors["facial"]
    [lane] = [lane for lane in card["timeline"]["lanes"] if lane["detector"] == "facial"]
    assert lane["counts"] and lane["spans"][1][2] == 3.4 and rule.weights_sha256 != "ab"  # other weights: as they are
    assert card["timeline"]["unseen_text"].startswith("Not looked at: 0:")


def test_of_too_many_files_the_worst_and_some_of_each_kind_are_shown(archive):
    out, whole = archive
    page = made(out, most=30)
    lines = block(page, "lines")
    assert [line["name"] for line in lines[:11]] == [line["name"] for line in block(whole, "lines")[:11]]
    kinds = Counter(line["verdict"] for line in lines)
    assert kinds[0] == 11 and len(kinds) >= 4 and 20 <= len(lines) <= 45 and not block(page, "about")["complete"]
    assert (
        "of 75 files" in page
        and "deephotlink query" in page
        and made(out, most=30).count("u003c") == page.count("u003c")
    )


def test_cards_beyond_what_a_page_may_hold_have_no_timeline(archive, monkeypatch):
    monkeypatch.setattr(page_module, "CARDS_BYTES", 5_000)
    found = [card.get("timeline") is not None for card in cards(made(archive[0])) if "numbers" in card]
    assert found[0] and not found[-1] and found == sorted(found, reverse=True)


def test_an_output_of_nothing_and_one_that_is_no_output(tmp_path):
    with pytest.raises(UsageError, match="holds no output"):
        report_command(str(tmp_path))
    make_output(tmp_path / "out", [make_result(make_media(0, "a.txt"), "skipped")])
    page = made(tmp_path / "out")
    assert "<h1>No file could be scored</h1>" in page and len(block(page, "lines")) == 1


def test_pictures_are_shown_where_they_are_pictures(tmp_path):
    results = [make_result(make_media(n, f"{n}.mp4"), "manipulated") for n in range(3)]
    run = make_output(tmp_path, results)
    first, second, third = results
    add_frames(
        tmp_path,
        run,
        [
            frame_row(run, first, logit=2.0),
            frame_row(run, first, logit=3.0, detector="face_swap"),  # the same moment once more
            frame_row(run, first, kind="face"),
            frame_row(run, second, jpeg=b"<svg onload=alert(1)>"),
            frame_row(run, second, pts_seconds=12.0, jpeg=b"\xff\xd8\xff" + b"x" * pictures.JPEG_BYTES + b"\xff\xd9"),
            frame_row(run, second, pts_seconds=13.0, box_x0=None),
            frame_row(run, second, pts_seconds=14.0, box_x1=7.0),
            frame_row(run, second, pts_seconds=float("nan")),
            {**frame_row(run, third), "run_id": "of another run"},
        ],
    )
    found = {card["uri"][-5:]: card["pictures"] for card in cards(made(tmp_path))}
    assert [(p["kind"], p["detector"], bool(p["box"])) for p in found["0.mp4"]] == [
        ("frame", "face_swap", True),
        ("face", "facial", False),
    ]
    assert [(p["at"], p["box"]) for p in found["1.mp4"]] == [(13.0, None), (14.0, None)] and not found["2.mp4"]
    assert all(base64.b64decode(p["src"].partition(",")[2]).startswith(b"\xff\xd8\xff") for p in found["0.mp4"])


def test_pictures_that_are_forgotten_leave_the_report(tmp_path):
    result = make_result(make_media(0, "a.mp4"), "manipulated")
    run = make_output(tmp_path, [result])
    add_frames(tmp_path, run, [frame_row(run, result)])
    assert report_command(str(tmp_path)) == 0
    assert "data:image" in (tmp_path / "report.html").read_text()
    assert forget_command(str(tmp_path)) == 0
    assert "data:image" not in (tmp_path / "report.html").read_text()


def test_pictures_never_take_more_than_their_share(tmp_path):
    results = [make_result(make_media(n, f"{n}.mp4"), "manipulated") for n in range(9)]
    run = make_output(tmp_path, results)
    add_frames(tmp_path, run, [frame_row(run, result, pts_seconds=float(n)) for result in results for n in range(9)])
    store, size = OutputStore(str(tmp_path)), len(jpeg("frame"))
    places = {(result.outcome.file.media_id, run.run_id): n for n, result in enumerate(results)}
    found = pictures.pictures_of(
        store, published_files(store, pictures.TABLE), places, most_bytes=3 * pictures.MOST_OF_A_FILE * size + 1
    )
    assert sorted(found) == [0, 1, 2] and {len(some) for some in found.values()} == {pictures.MOST_OF_A_FILE}


def test_a_long_film_is_a_short_chart_that_still_says_what_nobody_looked_at():
    items = [
        Item("facial", "facial", n, 10.0 * n, 10.0 * n + 0.5, 5.0 if n == 400 else -1.0, None, None) for n in range(720)
    ]
    told = reasons_of(
        [{"detector": "facial", "log_odds": 1.0, "logits": 720, "calibrated": True, "has_say": True}], items
    )
    chart = timeline_of(items, told, {}, 7200.0)
    assert chart is not None
    [lane] = chart["lanes"]
    assert len(lane["spans"]) <= MOST_SPANS and [4000.0, 4000.5, 5.0] in lane["spans"]
    assert told[0].sentence == "The face at 1:06:40 looks blended in or redrawn"
    assert max(share for _, _, share in chart["seen"]) == pytest.approx(0.05, abs=0.02)
    assert chart["unseen_text"].startswith("Not looked at: 1:54:00 of 2:00:00 (0:00-0:10, 0:10-0:20")
    assert len(json.dumps(chart)) < 20_000


def test_shares_of_a_film_that_was_seen_all_through():
    assert shares([(n * 1.0, n + 1.0) for n in range(600)], 600.0) == [
        [5.0 * n, 5.0 * n + 5, 1.0] for n in range(MOST_SPANS)
    ]


def test_d3_is_as_published():
    told = re.findall(r"^\| `(.+?)` \| ([\d.]+) \| `(\w{64})` \|$", (VENDOR / "README.md").read_text(), re.M)
    assert {name for name, _, _ in told} == {path.name for path in VENDOR.glob("*.js")} and len(told) == 9
    for name, version, sha256 in told:
        data = (VENDOR / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256 and f" v{version} ".encode() in data.splitlines()[0]
    assert {f"vendor/{name}" for name, _, _ in told} <= set(page_module.SCRIPTS)
    assert "Permission to use, copy" in (VENDOR / "LICENSE").read_text()


def test_queries_of_a_report_stay_within_their_memory(archive):
    tables = connect(archive[0])
    with bounded(tables):
        [(limit,)] = tables.execute("select current_setting('memory_limit')").fetchall()
        assert limit.startswith("198")
    [(after,)] = tables.execute("select current_setting('memory_limit')").fetchall()
    assert after != limit


def test_what_does_not_fit_into_that_memory_is_done_without_the_bound(archive, monkeypatch):
    tries = []

    def once_out_of_memory(*args, **fields):
        tries.append(1)
        if len(tries) == 1:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to pin a block")
        return summarise(*args, **fields)

    monkeypatch.setattr(page_module, "summarise", once_out_of_memory)
    assert report_command(archive[0]) == 0 and len(tries) == 2
