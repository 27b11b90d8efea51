"""`deephotlink calibrate` over a real output's tables: labels in, a file out that `rescore` takes."""

import dataclasses
import json

import numpy as np
import pytest

from deephotlink.models.calibration import load_calibration
from deephotlink.pipelines.cli import main
from deephotlink.pipelines.query import run_query
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import Evidence, MediaOutcome
from deephotlink.transforms.runs import plan_of
from deephotlink.transforms.store import OutputStore
from tests.builders import FakeDetector
from tests.committing import make_run

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
    assert "label more media" in capsys.readouterr().err
    nowhere = ["calibrate", out, "--labels", str(labels), "--output", str(tmp_path / "no" / "x.json")]
    assert main(nowhere) == 75 and not list(tmp_path.glob(".*tmp*"))
