"""`deephotlink calibrate` over a real output's tables: labels in, a file out that `rescore` takes."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from deephotlink.models.calibration.calibration import load_calibration
from deephotlink.models.registry import installed
from deephotlink.pipelines.accuracy.calibrate import read_evidence
from deephotlink.pipelines.accuracy.labelled_scores import read_material
from deephotlink.pipelines.accuracy.labels import read_labels
from deephotlink.pipelines.cli import main
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.fuse import fuse_media, least_of_each_clip
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import Evidence, MediaOutcome
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.runs import create_run, plan_of
from tests.builders import FakeDetector
from tests.committing import make_file, make_run

MEDIA = 60


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """An output of 60 media, every second of them forged, each pair one group; and its labels."""
    folder = tmp_path_factory.mktemp("labelled")
    store, rng = OutputStore(str(folder / "out")), np.random.default_rng(0)
    spec = dataclasses.replace(FakeDetector(name="face", family="facial").spec, weights_sha256="ab")
    record = {"detectors": [{"name": "face", "version": "1", "weights_sha256": "ab"}]}
    run = make_run(store, 1, MEDIA, settings={"fingerprint_of": record}, fingerprint="print")
    results, lines = [], ["uri,label,group,family,generator"]
    for file, _ in plan_of(store, run):
        number = file.size_bytes - 996
        fake = number % 2 == 1
        said = [
            Evidence(
                file.media_id,
                "face",
                "facial",
                "ab",
                clip,
                0,
                10.0 * clip,
                10.0 * clip + 4,
                float(rng.normal(4.0 * fake)),
            )
            for clip in range(2)
        ]
        said.append(
            Evidence(file.media_id, "unheard", "audio", "", start_seconds=0.0, end_seconds=4.0, logit=1.0)
            if number < 8
            else Evidence(file.media_id, "unheard", "audio", "", abstained="no_speech")
        )
        results.append(fuse_media([MediaOutcome(file, "read", has_video=True), *said], [spec], load_calibration()))
        lines.append(f"{file.uri},{'fake' if fake else 'real'},{number // 2},{'face_swap' if fake else ''},made")
    commit_unit(store, run, 0, results)
    publish(store, run, complete=True)
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    return store.root, labels


def test_labels_make_a_file_that_rescores(labelled, tmp_path, capsys):
    out, labels = labelled
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        command = ["calibrate", out, "--labels", str(labels), "--output", str(file), "--name", "mine"]
        assert main([*command, "--false-positive-rate", "0.1"]) == 0
    told = capsys.readouterr().out
    assert "rescore" in told and "face" in told and "left out" in told
    assert files[0].read_bytes() == files[1].read_bytes()  # the same from the same
    made = json.loads(files[0].read_text())
    media = made["labels"]["media"]
    assert media["real"]["media"] == media["fake"]["groups"] == 30 and media["fake"]["by_family"] == {"face_swap": 30}
    assert made["fingerprints"] == ["print"] and len(made["labels"]["sha256"]) == 64 and made["made"]["at"]
    face = made["detectors"]["face"]
    assert (face["method"], face["weights_sha256"], face["version"], face["weight"]) == ("platt", "ab", "1", 1.0)
    assert made["thresholds"]["false_positives"]["upper_95_by_group"] <= 0.1 and "unheard" in made["left_out"]
    assert made["detectors"]["metadata"]["method"] == "hand" and "kept from" in made["detectors"]["metadata"]["note"]
    assert main(["rescore", out, "--calibration", str(files[0]), "--quiet"]) == 0
    rows = run_query(out, "select uri, verdict, reasons from latest").to_pylist()
    wrong = [row for row in rows if row["verdict"] == "manipulated" and int(row["uri"][9:14]) % 2 == 0]
    right = [row for row in rows if row["verdict"] == "manipulated" and int(row["uri"][9:14]) % 2 == 1]
    assert len(wrong) <= 1 and len(right) >= 15
    assert any("unheard is not in calibration mine" in reason for row in rows for reason in row["reasons"])


def test_real_media_alone_and_what_cannot_be_done(labelled, tmp_path, capsys):
    out, labels = labelled
    file = tmp_path / "real.json"
    assert main(["calibrate", out, "--real-only", "--output", str(file), "--evidence-only", "unheard"]) == 0
    made = json.loads(file.read_text())
    assert made["mode"] == "real_only" and made["labels"]["all_taken_for_real"]
    assert made["thresholds"]["authentic_at_least"] is None and made["detectors"]["face"]["method"] == "quantiles"
    assert main(["calibrate", out, "--output", str(file)]) == 2
    few = tmp_path / "few.csv"
    few.write_text("\n".join(labels.read_text().splitlines()[:9]))
    assert main(["calibrate", out, "--labels", str(few), "--output", str(file)]) == 2
    assert "label more files" in capsys.readouterr().err
    nowhere = ["calibrate", out, "--labels", str(labels), "--output", str(tmp_path / "no" / "x.json")]
    assert main(nowhere) == 2 and not list(tmp_path.glob(".*tmp*"))  # as named: it cannot be had by trying again


def test_versions_of_one_file_are_one_witness_and_the_note_says_what_was_taken_for_independent(labelled, tmp_path):
    store, spec = OutputStore(str(tmp_path / "out")), FakeDetector(name="face", family="facial").spec
    files = [dataclasses.replace(make_file(n % 20), media_id=f"{n:064x}") for n in range(40)]
    run = create_run(
        store,
        [(file, None) for file in files],
        resume_key="key",
        fingerprint="print",
        calibration_id="x",
        settings={"fingerprint_of": {"detectors": []}},
    )
    said = [Evidence(f.media_id, "face", "facial", "", 0, 0, 0.0, 4.0, n / 9) for n, f in enumerate(files)]
    results = [
        fuse_media([MediaOutcome(file, "read", has_video=True), one], [spec], load_calibration())
        for file, one in zip(files, said, strict=True)
    ]
    commit_unit(store, run, 0, results)
    publish(store, run, complete=True)
    media = read_evidence(store.root, None).media
    assert len(media.fake) == 40 and len(np.unique(media.group)) == 20
    file = tmp_path / "real.json"
    assert main(["calibrate", store.root, "--real-only", "--output", str(file), "--quiet"]) == 0
    made = json.loads(file.read_text())
    assert made["thresholds"]["false_positives"]["groups"] == 20
    assert "40 files have no group, so each was counted as independent" in made["note"]
    out, labels = labelled
    assert main(["calibrate", out, "--labels", str(labels), "--output", str(file), "--quiet"]) == 0
    assert "independent witness" not in json.loads(file.read_text())["note"]


def test_two_calibrations_of_a_day_have_two_names(labelled, tmp_path):
    out, labels = labelled
    names = []
    for number, rate in enumerate(("0.1", "0.1", "0.2")):
        file = tmp_path / f"{number}.json"
        command = ["calibrate", out, "--labels", str(labels), "--output", str(file), "--quiet"]
        assert main([*command, "--false-positive-rate", rate]) == 0
        names.append(json.loads(file.read_text())["calibration_id"])
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch(r"calibrated-\d{4}-\d\d-\d\d-[0-9a-f]{8}", name) for name in names)


def test_words_that_are_no_text_are_written_so_that_they_can_be_read(labelled, tmp_path):
    out, labels = labelled
    other = tmp_path / "caf\udce9.csv"
    other.write_bytes(labels.read_bytes())
    for data in ("takes of a caf\udce9", ""):
        file = tmp_path / "made.json"
        command = ["calibrate", out, "--labels", str(other), "--output", str(file), "--quiet", "--data", data]
        assert main(command) == 0
        assert "caf\\udce9" in json.loads(file.read_text(encoding="utf-8"))["data"]
    assert not list(tmp_path.glob(".*tmp*"))


def test_calibrate_evaluate_and_fuse_agree_on_the_least_of_each_clip(tmp_path):
    """Of a detector whose clip one face explains: which logits count is written in three ways, and is one thing."""
    store, spec, rng = OutputStore(str(tmp_path / "out")), installed()["lip_sync"], np.random.default_rng(4)
    record = {"detectors": [{"name": "lip_sync", "version": spec.version, "weights_sha256": spec.weights_sha256}]}
    run = make_run(store, 1, 6, settings={"fingerprint_of": record}, fingerprint="print")
    said, results, lines = {}, [], ["uri,label"]
    for number, (file, _) in enumerate(plan_of(store, run)):
        clips = [None, *range(9)][number % 2 :: number // 2 + 1]
        said[file.uri] = [
            Evidence(
                file.media_id,
                "lip_sync",
                "lip_sync",
                spec.weights_sha256,
                clip,
                track,
                None if clip is None else 10.0 * clip,
                None if clip is None else 10.0 * clip + 4,
                float(round(rng.normal(), 1)),  # with ties
            )
            for clip in clips
            for track in range(int(rng.integers(1, 4)))
        ]
        outcome = MediaOutcome(file, "read", has_video=True)
        results.append(fuse_media([outcome, *said[file.uri]], [spec], load_calibration()))
        lines.append(f"{file.uri},{'fake' if number % 2 else 'real'}")
    commit_unit(store, run, 0, results)
    publish(store, run, complete=True)
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    least = {uri: sorted(row.logit for row in least_of_each_clip(rows)) for uri, rows in said.items()}
    assert sum(map(len, least.values())) < sum(map(len, said.values()))
    (fitted,) = read_evidence(store.root, str(labels)).said
    uris = [row["uri"] for row in run_query(store.root, "select uri from latest order by media_id").to_pylist()]
    assert {uri: sorted(fitted.logit[fitted.media == n]) for n, uri in enumerate(uris)} == least
    judged = read_material(store.root, read_labels(labels))
    (subject,) = (one for one in judged.subjects if one.name == "lip_sync")
    highest = {uri: np.mean(values[-math.ceil(len(values) / 4) :]) for uri, values in least.items()}
    found = {row["uri"]: subject.score[n] for n, (_, row) in enumerate(judged.joined.pairs)}
    assert found == pytest.approx(highest)
