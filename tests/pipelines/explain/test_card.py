"""`deephotlink explain`: the card of the report on a terminal and as JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.explain.timeline import ASCII, BLOCKS, axis_of, glyphs_for, lanes_of
from deephotlink.pipelines.outputs.plain_words import WHAT_A_SCORE_IS_NOT
from deephotlink.pipelines.outputs.report.cards import WORDS
from deephotlink.pipelines.outputs.report.page import report_command
from deephotlink.transforms.storage.uris import unescape
from tests.reporting import HOSTILE, add_frames, frame_row, make_media, make_output, make_result

KINDS = ("manipulated", "inconclusive", "not_assessed", "failed", "skipped", "authentic")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("out")
    results = [make_result(make_media(at, f"{kind}.mp4"), kind) for at, kind in enumerate(KINDS)]
    results += [make_result(make_media(at + 10, name), "manipulated") for at, name in enumerate(HOSTILE)]
    run = make_output(folder, results)
    add_frames(folder, run, [frame_row(run, results[0], kind=kind) for kind in ("frame", "face")])
    assert report_command(str(folder)) == 0
    return str(folder)


def explain(capsys, *arguments: str, columns: int = 100) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        assert cli.main(["explain", *arguments]) == cli.DONE
    printed, errors = capsys.readouterr()
    assert errors == ""
    return printed


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def cards_of(out: str) -> dict[str, dict[str, Any]]:
    page = Path(out, "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="cards-\d+">(.*?)</script>', page)
    return {card["id"]: card for block in blocks for card in json.loads(block)}


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_card_of_the_report_says(out, kind, capsys):
    told = json.loads(explain(capsys, out, f"{kind}.mp4", "--json"))
    card = cards_of(out)[told["media_id"]]
    said = flat(explain(capsys, out, f"{kind}.mp4"))
    assert told["uri"] == card["uri"] and told["facts"] == dict(card["facts"])
    assert all(value in said for value in told["facts"].values())
    if told["outcome"] != "scored":
        assert told["word"] == card["word"] and f"{WORDS['word']} {card['word']}" in said
        assert all(line.rstrip(".") in said for line in card["told"])
        return
    for key in ("towards", "against", "neither", "notes", "timeline"):
        assert told[key] == card[key], key
    for reason in (*card["towards"], *card["against"], *card["neither"]):
        assert f"{reason['text']} ({reason['detector']}{', a hint' if reason['hint'] else ''})" in said
    for text, word in card["silent"]:
        assert f"{text} ({word})" in said
    for text, saw in (*card["credentials"], *card["declared"]):
        assert f"{text} ({saw})" in said
    titles = ("towards", "against", "silent", "timeline", "blind", "credentials", "facts")
    assert [said.index(WORDS[title]) for title in titles] == sorted(said.index(WORDS[title]) for title in titles)
    assert card["timeline"]["unseen_text"] in said and flat(WHAT_A_SCORE_IS_NOT) in said
    blind = {one["detector"]: one["blind"] for one in told["detectors"]}
    assert blind and all(f"{name}: {text}" in said for name, text in blind.items())


def test_the_verdict_comes_first_in_plain_words_and_the_pictures_are_counted(out, capsys):
    lines = explain(capsys, out, "manipulated.mp4").splitlines()
    assert lines[0] == "manipulated.mp4" and lines[1].startswith("in /archive/")
    assert flat(" ".join(lines[3:5])).startswith("▲ Probably manipulated: what was found is above the threshold")
    assert "Authenticity 0.03" in "\n".join(lines[:8])
    assert any(line.split()[:1] == ["Pictures"] and "2 pictures" in line for line in lines)


def test_log_odds_are_details(out, capsys):
    plain, details = explain(capsys, out, "manipulated.mp4"), explain(capsys, out, "manipulated.mp4", "--details")
    assert "log-odds" not in plain.lower() and "+3.4" not in plain
    assert "+3.40" in details and WORDS["machine"].rstrip(":") in details
    media_id = json.loads(explain(capsys, out, "manipulated.mp4", "--json"))["media_id"]
    assert f"select * from timeline where media_id = '{media_id}'" in details


def test_the_timeline_shows_where_and_which_way(out, capsys):
    told = json.loads(explain(capsys, out, "manipulated.mp4", "--json"))
    lanes = {lane.detector: lane for lane in lanes_of(told["timeline"], 40)}
    # 40 s on 40 columns: clips of 4 s every 10 s, and the second one is suspicious.
    facial = lanes["facial"]
    assert len(set(facial.above[10:14])) == 1 and facial.above[10] in BLOCKS.above
    assert set(facial.above[0:4]) == {BLOCKS.level} and set(facial.below[0:4]) <= set(BLOCKS.below)
    assert facial.above[4:10] == BLOCKS.unseen * 6 and facial.below[10:14].strip() == ""
    audio = lanes["audio"]
    assert audio.above[10:20] == BLOCKS.silent * 10 and BLOCKS.unseen not in audio.above
    assert lanes["synthetic"].hint and not facial.hint
    in_ascii = {lane.detector: lane for lane in lanes_of(told["timeline"], 40, ASCII)}
    assert in_ascii["facial"].above[10] in ASCII.above and in_ascii["facial"].above[4:10] == ASCII.unseen * 6
    assert glyphs_for("ascii") is glyphs_for("latin-1") is glyphs_for("no such thing") is ASCII
    assert glyphs_for("utf-8") is BLOCKS


def test_the_axis_names_whole_seconds_once():
    for length in (0.4, 3.0, 59.9, 3600.0, 90_000.0):
        line = axis_of(length, 60)
        labels = line.split()
        assert len(line) == 60 and labels[0] == "0:00" and len(labels) <= 6
        assert len(labels) == len(set(labels)) or length < 1


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_no_line_is_wider_than_the_terminal(out, columns, capsys):
    for line in explain(capsys, out, "manipulated.mp4", columns=columns).splitlines():
        assert len(line) <= columns


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_names_of_uploaders_do_nothing(out, number, capsys):
    uri = make_media(number + 10, HOSTILE[number]).uri
    printed = explain(capsys, out, uri, "--details")
    assert not [char for char in printed if char != "\n" and not char.isprintable() and char not in "\u200c\u200d"]
    assert json.loads(explain(capsys, out, unescape(uri), "--json"))["uri"] == uri


def test_a_terminal_without_such_characters_gets_ascii(out, tmp_path):
    command = [
        sys.executable,
        "-c",
        "import sys; from deephotlink.pipelines.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    done = subprocess.run(
        [*command, "explain", out, "manipulated.mp4"], capture_output=True, env=environment, check=True
    )
    said = done.stdout.decode("ascii")
    assert "Probably manipulated" in said and "#" in said and "\\u" not in said.partition(WORDS["timeline"])[2][:900]


def test_what_cannot_be_done_is_one_line(out, tmp_path, capsys):
    assert cli.main(["explain", str(tmp_path), "a.mp4"]) == cli.USAGE
    assert cli.main(["explain", out, "no such file.mp4"]) == cli.USAGE
    assert cli.main(["explain", out, "manipulated.mp4", "--at", "3"]) == cli.USAGE
    assert cli.main(["explain", out, "manipulated.mp4", "--clip", "a.mp4", "--at", "soon"]) == cli.USAGE
    lines = capsys.readouterr().err.splitlines()
    said = ["holds no output", "no audited file is called", "give --clip", "expected seconds such as 75.5"]
    assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines, strict=True))
