"""`deephotlink evaluate`, from tables and labels to figures: what is compared with what, the warnings, and what is
left out."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest

from deephotlink.models.calibration.accuracy import Resampling
from deephotlink.pipelines import cli
from deephotlink.pipelines.accuracy import plots
from deephotlink.pipelines.accuracy.evaluate import Request, evaluate, evaluate_command
from deephotlink.pipelines.accuracy.evaluation_tables import sheets
from deephotlink.pipelines.accuracy.labelled_scores import read_material
from deephotlink.pipelines.accuracy.labels import read_labels
from deephotlink.pipelines.accuracy.plots import draw
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_audio, make_video
from tests.labelled import CALIBRATION, Made, make_output, write_labels

QUICK = Resampling(100, 1)


def figures(tmp_path, media, **which):
    if not (tmp_path / "out").exists():
        make_output(tmp_path / "out", media)
    labels = read_labels(write_labels(tmp_path / "labels.csv", media))
    return evaluate(read_material(str(tmp_path / "out"), labels, **which), labels, QUICK)


def subject(told, name):
    return next(row for row in told["subjects"] if row["name"] == name)


MEDIA = [
    # The eye's media score is the mean of the highest quarter of its logits: 2 of 5, 1 of 4 and 1 of 1.
    Made("r1.mp4", "real", 0.2, [1, -1, -1, -1, 0], group="g1"),  # .5
    Made("r2.mp4", "real", 0.95, [0, -2, -2, -2], group="g2"),  # 0
    Made("r3.mp4", "real", None, [], group="g3"),
    Made("r4.mp4", "real", status="failed", group="g3"),
    Made("f1.mp4", "fake", 0.6, [3], [1.0], group="g1", family="swap", generator="a"),
    Made("f2.mp4", "fake", 0.99, [-1], group="g2", family="swap", generator="b"),
    Made("f3.flac", "fake", 0.1, [], [2.0, 1.0], group="g4", family="tts", outcome={"media_type": "audio"}),
    Made("r5.flac", "real", 0.3, [], [0.0], group="g5", outcome={"media_type": "audio"}),
    Made("r6.flac", "real", 0.4, [], [2.0, 1.0, 0.0], group="g6", outcome={"media_type": "audio"}),
    Made("other.mp4", None, 0.5, [1.0]),
    Made("notes.txt", "fake", status="skipped", group="g7"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("evaluated"), MEDIA)


def test_the_fused_score_is_measured_on_what_it_judged(told):
    fused = subject(told, "fused")
    # reals .2 .95 .3 .4; fakes .6 .99 .1: .6 is above three, .99 above all, .1 above none
    assert (fused["real"], fused["fake"]) == (4, 3) and fused["auc"]["value"] == pytest.approx(7 / 12)
    assert fused["abstained"]["all"]["count"] == 3 and fused["abstained"]["all"]["of"] == 10
    assert (fused["abstained"]["real"]["count"], fused["abstained"]["fake"]["count"]) == (2, 1)
    wrong = [0.2, 0.95, 0.3, 0.4, 1 - 0.6, 1 - 0.99, 1 - 0.1]
    assert fused["brier"]["value"] == pytest.approx(np.mean(np.square(wrong)))
    assert fused["tpr_at_5_percent_fpr"]["value"] is None and "20 are needed" in fused["tpr_at_5_percent_fpr"]["why"]
    # Of one group: g1 rightly (.6 > .2), g2 too (.99 > .95).
    assert fused["within_groups"]["auc"]["value"] == 1 and fused["within_groups"]["pairs"] == 2


def test_a_detector_is_measured_on_its_raw_logits_pooled(told):
    eye = subject(told, "eye")
    # reals .5 and 0; fakes 3 and -1
    assert (eye["real"], eye["fake"], eye["auc"]["value"]) == (2, 2, 1 / 2)
    assert eye["brier"]["value"] is None and "raw logits" in eye["brier"]["why"]
    ear = subject(told, "ear")
    # reals 0 and 2 (the highest of three), fakes 1 and 2: 1 + 1/2 of four
    assert (ear["real"], ear["fake"], ear["auc"]["value"]) == (2, 2, 5 / 8)


def test_who_could_not_have_judged_does_not_abstain(told):
    ear, eye = subject(told, "ear"), subject(told, "eye")
    assert (ear["abstained"]["all"]["count"], ear["abstained"]["all"]["of"]) == (0, 4)  # all others have no sound
    assert (eye["abstained"]["all"]["count"], eye["abstained"]["all"]["of"]) == (4, 8)


def test_verdicts_are_counted_and_bounded(told):
    fused = subject(told, "fused")
    assert fused["verdicts"]["real"] == {
        "manipulated": 1,
        "inconclusive": 3,
        "authentic": 0,
        "not_assessed": 1,
        "failed": 1,
        "skipped": 0,
    }
    assert fused["verdicts"]["fake"]["skipped"] == 1
    accused = fused["manipulated_of_real"]
    assert (accused["count"], accused["of"]) == (1, 5)
    assert accused["low"] == pytest.approx(1 - 0.975 ** (1 / 5)) and accused["high"] == pytest.approx(0.71642, abs=1e-5)
    # Alone, by the calibration in force: log-odds 3 are .95, more than the threshold of .9; -1 and below are not.
    eye = subject(told, "eye")
    assert (eye["manipulated_of_fake"]["count"], eye["manipulated_of_fake"]["of"]) == (1, 3)
    assert eye["manipulated_of_real"]["count"] == 0
    assert subject(told, "ear")["verdicts"] is None  # no calibration names it


def test_each_kind_of_fake_stands_against_reals_of_its_media_type(told):
    rows = {(row["value"], row["name"]): row for row in told["breakdown"]["family"]}
    swap, tts = rows["swap", "fused"], rows["tts", "fused"]
    assert (swap["real"], swap["fake"], swap["media_types"]) == (2, 2, ["video"])
    assert swap["auc"]["value"] == 3 / 4
    assert (tts["real"], tts["fake"], tts["auc"]["value"]) == (2, 1, 0)
    assert {row["value"] for row in told["breakdown"]["generator"]} == {"a", "b"}


def test_what_the_figures_are_of_is_told(told):
    assert told["schema"] == "deephotlink.evaluation" and told["schema_version"] == 1
    assert told["calibration_ids"] == ["made-1"] and told["fingerprints"] == ["print"] and len(told["run_ids"]) == 1
    counts = told["counts"]
    assert counts["outcomes"] == {"scored": 8, "failed": 1, "skipped": 1} and counts["media_unlabelled"] == 1
    for text in ("few groups", "without a label, which are ignored: 1"):
        assert any(text in note for note in told["notes"])
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def blurred(count=24, informative=0.2):
    """Fakes are blurred; a detector sees little."""
    rng = np.random.default_rng(3)
    media = []
    for n in range(count):
        fake = n % 2 == 1
        x = float(rng.normal() + informative * fake)
        outcome = {"sharpness": 50.0 - 30 * fake + n / 100, "size_bytes": 1000 + int(rng.integers(100))}
        media.append(
            Made(
                f"{n:02d}.mp4", "fake" if fake else "real", 1 / (1 + math.exp(-x)), [x], group=f"g{n}", outcome=outcome
            )
        )
    return media


def test_a_baseline_that_does_better_is_warned_of(tmp_path):
    told = figures(tmp_path, blurred())
    beating = {b["name"]: b for b in subject(told, "eye")["baselines"]}
    assert beating["sharpness"]["auc"]["value"] == 1 and beating["sharpness"]["higher_in"] == "reals"
    assert beating["sharpness"]["beats"] and beating["sharpness"]["auc"]["low"] == 1
    # All films are as long as each other: that ranks nothing, and beats nothing.
    assert beating["duration"]["auc"]["value"] == 0.5 and not beating["duration"]["beats"]
    assert beating["duration"]["higher_in"] == "neither"
    warned = [line for line in told["warnings"] if "sharpness" in line]
    assert len([line for line in warned if " eye" in line]) == 1 and any("beats fused" in line for line in warned)
    assert all("on the same 12 real and 12 fake" in line for line in warned)


def test_a_detector_that_does_better_is_not(tmp_path):
    alike = {"size_bytes": 1000}
    media = [Made(m.name, m.label, m.forged, m.logits, group=m.group, outcome=alike) for m in blurred(informative=9.0)]
    assert figures(tmp_path, media)["warnings"] == []


def test_baselines_are_held_against_the_detector_on_the_same_media(tmp_path):
    """Blur is known of two pairs only; there the detector is right, and elsewhere wrong."""
    known = {"sharpness": 10.0}
    media = [
        Made("r1.mp4", "real", 0.1, [0.0], outcome={**known}),
        Made("f1.mp4", "fake", 0.9, [1.0], outcome={"sharpness": 9.0}),
        Made("r2.mp4", "real", 0.1, [2.0], outcome={"sharpness": None}),
        Made("f2.mp4", "fake", 0.9, [-1.0], outcome={"sharpness": None}),
    ]
    blur = next(b for b in subject(figures(tmp_path, media), "eye")["baselines"] if b["name"] == "sharpness")
    assert (blur["real"], blur["fake"], blur["detector_auc"], blur["beats"]) == (1, 1, 1.0, False)


def test_the_printed_baseline_stands_beside_the_score_on_the_same_files(tmp_path):
    """On all four files the score has .25; on the two whose blur is known it has 1.00, and that is what is printed."""
    media = [
        Made("r1.mp4", "real", 0.1, [0.0], outcome={"sharpness": 10.0}),
        Made("f1.mp4", "fake", 0.9, [1.0], outcome={"sharpness": 10.0}),
        Made("r2.mp4", "real", 0.1, [2.0], outcome={"sharpness": None}),
        Made("f2.mp4", "fake", 0.9, [-1.0], outcome={"sharpness": None}),
    ]
    told = figures(tmp_path, media)
    eye = subject(told, "eye")
    eye["baselines"] = [b for b in eye["baselines"] if b["name"] == "sharpness"]
    assert eye["auc"]["value"] == 0.25
    row = next(row for row in sheets(told)[0].rows if row[0] == "eye")
    assert row[-1] == "sharpness .50 v 1.00"


def test_the_most_suspicious_files_are_counted(tmp_path):
    """Ten of a hundred are fake; the five highest scores are two fakes and three reals."""
    media = [Made(f"r{n}.mp4", "real", 0.99 - n / 1000, [-1.0]) for n in range(3)]
    media += [Made(f"f{n}.mp4", "fake", 0.995 if n < 2 else 0.5, [1.0]) for n in range(10)]
    media += [Made(f"q{n}.mp4", "real", 0.1, [-2.0]) for n in range(87)]
    told = figures(tmp_path, media)
    one, five, twenty = subject(told, "fused")["most_suspicious"]
    assert (one["files"], five["files"], twenty["files"]) == (1, 5, 20)
    assert one["precision"]["value"] == 1 and five["precision"]["value"] == pytest.approx(2 / 5)
    assert twenty["precision"]["value"] == pytest.approx(10 / 20) and twenty["found"]["value"] == 1
    sheet = next(sheet for sheet in sheets(told) if "most suspicious" in sheet.title)
    assert sheet.columns == (
        "judged by",
        "of all",
        "of the top 1 %",
        "of the top 5 %",
        "of the top 20 %",
        "fakes in the top 20 %",
    )
    fused = next(row for row in sheet.rows if row[0] == "fused")
    assert fused[1] == ".10" and fused[3].startswith(".40 [") and fused[5].startswith("1.00")


def test_one_run_or_each_medias_newest(tmp_path):
    media = [Made("r.mp4", "real", 0.1, [0.0]), Made("f.mp4", "fake", 0.9, [1.0])]
    first = make_output(tmp_path / "out", media)
    make_output(tmp_path / "out", [Made("r.mp4", "real", 0.8, [2.0]), Made("f.mp4", "fake", 0.7, [1.0])], key="again")
    assert subject(figures(tmp_path, media), "fused")["auc"]["value"] == 0
    older = figures(tmp_path, media, run_id=first.run_id)
    assert older["run_ids"] == [first.run_id] and subject(older, "eye")["auc"]["value"] == 1
    code = cli.main(
        ["evaluate", f"{tmp_path}/out", "--labels", f"{tmp_path}/labels.csv", "--run", "20200101T000000Z-0"]
    )
    assert code == cli.USAGE


def test_tables_of_an_earlier_version_have_no_such_columns(tmp_path):
    media = [Made("r.mp4", "real", 0.1, [0.0]), Made("f.mp4", "fake", 0.9, [1.0])]
    make_output(tmp_path / "out", media)
    for file in (tmp_path / "out" / "scores").rglob("*.parquet"):
        table = pq.ParquetFile(file).read()
        later = ["width", "height", "frame_rate", "sharpness", "loudness_db", "evidence_run_id", "sandbox"]
        file.unlink()
        pq.write_table(table.drop_columns(later), file)
    told = figures(tmp_path, media)
    assert subject(told, "eye")["auc"]["value"] == 1
    assert next(b for b in told["baselines"] if b["name"] == "sharpness")["auc"]["value"] is None
    assert any("no baseline from resolution, frame_rate, sharpness, loudness" in note for note in told["notes"])
    assert check_output(str(tmp_path / "out")) == []
    assert run_query(str(tmp_path / "out"), "select count(sharpness) as n from latest").to_pylist() == [{"n": 0}]


def test_the_command_prints_narrow_tables_and_writes_files(tmp_path, capsys):
    make_output(tmp_path / "out", MEDIA)
    write_labels(tmp_path / "labels.csv", MEDIA)
    names = {"json_file": tmp_path / "new" / "a.json", "markdown_file": tmp_path / "new" / "a.md"}
    request = Request(str(tmp_path / "out"), str(tmp_path / "labels.csv"), **{k: str(v) for k, v in names.items()})
    assert evaluate_command(request) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 120
    for text in ("How well the scores rank", "fused", ".58 [", "Trivial baselines", "no TPR at 1 % FPR for fused"):
        assert text in said, said
    written = json.loads(names["json_file"].read_text())
    assert written["labels"]["lines"] == 10 and subject(written, "ear")["auc"]["value"] == 5 / 8
    page = names["markdown_file"].read_text()
    assert "| judged by | real | fake |" in page and "| fused | 4 | 3 | 5 |" in page


def test_nothing_matches(tmp_path, capsys):
    make_output(tmp_path / "out", MEDIA)
    (tmp_path / "labels.csv").write_text("uri,label\nelsewhere.mp4,real\n")
    assert cli.main(["evaluate", f"{tmp_path}/out", "--labels", f"{tmp_path}/labels.csv"]) == cli.NOTHING
    said = capsys.readouterr().err
    assert "none of the 1 labels" in said and "/archive/" in said and len(said.strip().splitlines()) == 1
    assert cli.main(["evaluate", f"{tmp_path}/no", "--labels", f"{tmp_path}/labels.csv"]) == cli.USAGE
    assert cli.main(["evaluate", f"{tmp_path}/out", "--labels", f"{tmp_path}/no.csv"]) == cli.USAGE


def test_plots_are_drawn_for_what_has_both_classes(tmp_path):
    media = blurred(12)
    make_output(tmp_path / "out", media)
    labels = read_labels(write_labels(tmp_path / "labels.csv", media))
    material = read_material(str(tmp_path / "out"), labels)
    files = draw(material, tmp_path)
    names = ["roc.png", "roc.svg", "scores.png", "scores.svg", "reliability.png", "reliability.svg"]
    assert [file.name for file in files] == names
    assert files[0].read_bytes().startswith(b"\x89PNG") and "</svg>" in files[1].read_text()[-20:]
    reals = [m for m in media if m.label == "real"]
    only = read_material(str(tmp_path / "out"), read_labels(write_labels(tmp_path / "reals.csv", reals)))
    (tmp_path / "reals").mkdir()
    assert [file.name for file in draw(only, tmp_path / "reals")] == names[4:]


def test_an_audit_fills_what_the_baselines_need(tmp_path: Path):
    archive = tmp_path / "archive"
    archive.mkdir()
    make_video(archive / "film.mp4", seconds=2, fps=10, audio=True)
    make_audio(archive / "voice.flac", seconds=2)
    out = tmp_path / "out"
    code = cli.main(["audit", str(archive), "--output", str(out), "--detectors", "lip_sync", "--quiet"])
    assert code == cli.DONE
    sql = "select * from latest order by uri"
    film, voice = run_query(str(out), sql).to_pylist()
    assert film["width"] > film["height"] > 0 and film["frame_rate"] == pytest.approx(10)
    assert film["sharpness"] > 0 and -60 < film["loudness_db"] < 0
    assert [voice[name] for name in ("width", "height", "frame_rate", "sharpness")] == [None] * 4
    (tmp_path / "labels.csv").write_text("uri,label\nfilm.mp4,fake\nvoice.flac,real\n")
    labels = read_labels(tmp_path / "labels.csv")
    told = evaluate(read_material(str(out), labels), labels, QUICK)
    assert told["counts"]["outcomes"]["scored"] == 2
    assert next(b for b in told["baselines"] if b["name"] == "bytes_a_second")["auc"]["value"] == 1


def test_two_calibrations_of_one_name_are_told_apart(tmp_path):
    first = [Made(f"a{n}.mp4", "real" if n % 2 else "fake", 0.3 + n / 20, [n]) for n in range(4)]
    second = [dataclasses.replace(one, name=f"b{one.name}") for one in first]
    other = dataclasses.replace(CALIBRATION, manipulated_at_most=0.2)
    make_output(tmp_path / "out", first)
    make_output(tmp_path / "out", second, "other", other)
    told = figures(tmp_path, first + second)
    assert told["calibration_ids"] == ["made-1"]
    (note,) = [note for note in told["notes"] if "calibrations" in note]
    assert re.search(r"come from 2 calibrations \(made-1 \([0-9a-f]{8}\), made-1 \([0-9a-f]{8}\)\)", note)
    assert not any("calibrations" in note for note in figures(tmp_path, first)["notes"])


def test_a_name_out_of_a_table_is_no_formula_and_the_backend_is_the_callers(tmp_path, monkeypatch):
    media = [Made(f"{n}.mp4", "real" if n % 2 else "fake", 0.3 + n / 20, [n]) for n in range(4)]
    make_output(tmp_path / "out", media)
    labels = read_labels(write_labels(tmp_path / "labels.csv", media))
    material = read_material(str(tmp_path / "out"), labels)
    renamed = [dataclasses.replace(one, name=rf"${one.name}_{{\frac}}$") for one in material.subjects]
    files = draw(dataclasses.replace(material, subjects=tuple(renamed)), tmp_path)
    assert len(files) == 6 and all(file.stat().st_size > 1000 for file in files)
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    importlib.reload(plots)
    assert matplotlib.get_backend() == "svg"
