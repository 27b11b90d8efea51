"""The arithmetic of the studies: intervals, joined films, changes; and the agreement of the decoders on a made clip."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.base import Judgement
from deephotlink.models.calibration.bounds import interval
from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.models.training.split import part
from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.records import Evidence
from tests.bench import study_cost, study_decoders, study_false_positives, study_films, study_robustness
from tests.bench.studies import Audited, bootstrap, chosen, share, verdict_of
from tests.builders import FakeDetector, make_audio, make_face_video, make_video

FACIAL = FakeDetector(unit="face_track", name="facial_fake", family="facial").spec
SPEECH = FakeDetector(unit="audio_window", name="speech_fake", family="audio").spec
SPECS = (FACIAL, SPEECH)
RULE = DetectorCalibration(1.0, 0.0, -6.0, 6.0, 1.0, "")
CALIBRATION = Calibration("study", "made", "", {s.name: RULE for s in SPECS}, 0.1, 0.9)


def said(*logits: float | None, name: str = FACIAL.name, family: str = "facial", seconds: float = 10.0) -> Audited:
    """A file on which the detector gives these logits, one for every ten seconds."""
    rows = tuple(
        Evidence(
            "m", name, family, "", at, 0, 10.0 * at, 10.0 * at + 4, logit, None if logit is not None else "no_face"
        )
        for at, logit in enumerate(logits)
    )
    return Audited(verdict_of(rows, SPECS, CALIBRATION), seconds * len(logits), rows)


def test_shares_are_bounded_by_files_and_by_groups() -> None:
    found = share([True, True, False, False], ["a", "a", "b", "c"])
    assert (found.count, found.of, found.groups) == (2, 4, 3)
    assert found.group_rate == pytest.approx(1 / 3)
    assert (found.low, found.high) == pytest.approx((0.0676, 0.9324), abs=1e-4)
    assert found.group_high > found.group_rate > found.group_low
    assert interval(0, 59) == pytest.approx((0.0, 1 - 0.025 ** (1 / 59)))
    assert interval(59, 59) == pytest.approx((0.025 ** (1 / 59), 1.0))
    assert share([], []).of == 0


def test_bootstrap_draws_groups_not_files() -> None:
    values = [0.0] * 50 + [1.0] * 50
    together = bootstrap(values, ["a"] * 50 + ["b"] * 50, lambda x: float(x.mean()))
    apart = bootstrap(values, [str(n) for n in range(100)], lambda x: float(x.mean()))
    assert together == (0.5, 0.0, 1.0)
    assert apart[2] - apart[1] < 0.25


def test_media_level_logits() -> None:
    assert said(1.0, 1.0).logits(SPECS) == {FACIAL.name: pytest.approx(1.0)}
    assert said(None).logits(SPECS) == {}
    explains = replace(FACIAL, one_face_explains=True)
    two_faces = replace(said(3.0), evidence=tuple(replace(said(3.0).evidence[0], logit=x) for x in (3.0, -2.0)))
    assert two_faces.logits([explains]) == {FACIAL.name: pytest.approx(-2.0)}


def test_false_positives_fused_and_by_detector() -> None:
    voice = said(-4.0, name=SPEECH.name, family="audio")
    both = said(5.0)
    both = Audited("manipulated", 10.0, both.evidence + voice.evidence)
    found = study_false_positives.false_positives([both, said(-5.0), said(None)], ["a", "b", "c"], SPECS, CALIBRATION)
    assert [str(found[name]["manipulated"]).split(" ")[0] for name in found] == ["1/3", "1/3", "0/3"]
    assert str(found[FACIAL.name]["manipulated_of_judged"]).startswith("1/2")
    assert str(found[FACIAL.name]["logit_above_0_of_judged"]).startswith("1/2")
    assert found["fused"]["authentic"] == 1 and found["fused"]["not_assessed"] == 1


def test_what_wear_did_to_verdicts_and_logits() -> None:
    before, after = [said(-4.0), said(-4.0), said(0.0)], [said(4.0), said(-3.0), said(4.0)]
    found = study_robustness.compare(before, after, ["a", "b", "b"], SPECS, seed=0)
    assert found["authentic_to_manipulated"].count == 1
    assert found["newly_manipulated"].count == 2
    assert found["transitions"] == {
        "authentic -> manipulated": 1,
        "authentic -> authentic": 1,
        "inconclusive -> manipulated": 1,
    }
    moved = found["logits"][FACIAL.name]
    assert moved["files"] == 3 and moved["median"] == pytest.approx(4.0) and moved["turned_positive"] == 2
    assert SPEECH.name not in found["logits"]


def test_joined_clips_follow_one_another() -> None:
    rows = study_films.joined([said(1.0, 2.0), said(None, seconds=4.0), said(3.0, seconds=4.0)])
    assert [(row.clip_index, row.start_seconds, row.logit) for row in rows] == [(0, 0, 1), (1, 10, 2), (3, 30, 3)]
    assert len({row.media_id for row in rows}) == 1


def test_drawn_uses_all_before_any_again() -> None:
    found = study_films.drawn(7, 3, np.random.default_rng(0))
    assert len(found) == 7 and sorted(found[:3]) == sorted(found[3:6]) == [0, 1, 2]


def clips(*logits: float) -> list[tuple[study_films.Part, Audited]]:
    return [(study_films.Part(Path(f"{n}.mp4"), str(n)), said(logit)) for n, logit in enumerate(logits)]


@pytest.mark.parametrize(("real", "accused"), [((-2.0, -1.0), 0), ((5.0, 5.0), 20)])
def test_films_are_accused_as_their_clips_are(real: Sequence[float], accused: int) -> None:
    found = study_films.by_evidence(clips(*real), [], SPECS, CALIBRATION, 20, 30, seed=0)
    assert found.accused == accused and found.clips.count == (2 if accused else 0) and found.alone is None


def test_a_forged_stretch_is_caught_alone_and_sought_in_films() -> None:
    short = study_films.by_evidence(clips(-2.0, -2.5), clips(6.0, -1.0), SPECS, CALIBRATION, 10, 3, seed=0)
    long = study_films.by_evidence(clips(-2.0, -2.5), clips(6.0, -1.0), SPECS, CALIBRATION, 10, 3000, seed=0)
    assert short.alone is not None and (short.alone.count, short.alone.of) == (1, 2)
    assert (short.caught, short.kept, short.kept_of) == (5, 5, 5)
    assert long.caught == 0 and long.kept_of == 5  # among thousands one outlier is no surprise: the study shows it


def test_clips_brought_into_one_form_join_without_being_coded_again(tmp_path: Path) -> None:
    heard = make_video(tmp_path / "heard.mp4", 2, 25, (320, 180), audio=True)
    silent = make_video(tmp_path / "silent.webm", 1, 10, (120, 160))
    voice = make_audio(tmp_path / "voice.wav", 1)
    parts = study_films.parts_of([(str(p), p.stem, "") for p in (heard, silent, voice)], tmp_path / "parts")
    assert [part_.group for part_ in parts] == ["heard", "silent"]
    film = tmp_path / "film.mp4"
    assert study_films.film_file([*parts, parts[0]], film)
    facts = probe_file.probe(str(film), Limits())
    assert facts["duration_seconds"] == pytest.approx(5.0, abs=0.3)
    assert {stream["kind"] for stream in facts["streams"]} == {"video", "audio"}


def test_forged_files_are_those_of_the_part(tmp_path: Path) -> None:
    held = next(f"g{n}" for n in range(50) if part(f"g{n}") == "held")
    fit = next(f"g{n}" for n in range(50) if part(f"g{n}") == "fit")
    lines = [
        "uri,label,group,family,generator",
        f"a.mp4,fake,{held},f,x",
        f"b.mp4,fake,{fit},f,x",
        f"c.mp4,real,{held},,",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    found = study_films.forged_files(str(tmp_path / "labels.csv"), "held")
    assert [(Path(path).name, group) for path, group, _ in found] == [("a.mp4", held)]
    assert len(study_films.forged_files(str(tmp_path / "labels.csv"), "all")) == 2


@pytest.mark.parametrize("name", ["half size", "screen recording"])
def test_worn_films(tmp_path: Path, name: str) -> None:
    source = make_video(tmp_path / "a.mp4", 1, 25, (320, 240), audio=True)
    made = study_robustness.worn(source, study_robustness.FILM_VARIANTS[name], tmp_path / "worn")
    assert made is not None and source.exists() and len(list(tmp_path.iterdir())) == 2
    video, *_ = [s for s in probe_file.probe(str(made), Limits())["streams"] if s["kind"] == "video"]
    assert (video["width"], video["height"]) == ((160, 120) if name == "half size" else (272, 216))


def test_worn_sound(tmp_path: Path) -> None:
    source = make_audio(tmp_path / "a.flac", 1)
    for number, passes in enumerate(study_robustness.SOUND_VARIANTS.values()):
        made = study_robustness.worn(source, passes, tmp_path / f"worn-{number}")
        assert made is not None and made.suffix == ".m4a" and source.exists()


def test_logits_do_not_hang_on_the_decoder(tmp_path: Path) -> None:
    """Checks the stated bound for every embedded detector that is ready and judges pictures, on a made talking
    portrait."""
    path = make_face_video(tmp_path / "a.mp4", 5, 15, (320, 240), gop=30)
    found, files = study_decoders.compare([(str(path), "a")], study_decoders.loaded(chosen(None)))
    by_name = study_decoders.figures(found)
    assert files == 1 and by_name["facial"]["items"] and by_name["synthetic"]["items"], by_name
    assert all(f["largest"] <= study_decoders.BOUND and not f["one_sided"] for f in by_name.values() if f["items"])


def test_cost_counts_parameters_and_time() -> None:
    import torch

    fake = FakeDetector(unit="clip")
    assert study_cost.parameters(fake) == 0
    fake.network = torch.nn.Linear(3, 2)  # type: ignore[attr-defined]
    assert study_cost.parameters(fake) == 8
    silent, calls = FakeDetector(abstained="no_face"), []

    def score(items: Sequence[object], own: Callable[..., list[Judgement]] = silent.score) -> list[Judgement]:
        calls.append(len(items))
        sum(range(100_000))
        return own(items)

    silent.score = score  # type: ignore[method-assign]
    spent, abstained = study_cost.milliseconds(silent, object(), "cpu", runs=3)
    assert calls == [1] * 4 and spent > 0 and abstained == "no_face"


def test_a_study_runs_the_audit_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = {"aigc_info": '{"aigc_label_type": 1}'}
    marked = {"tags": tags, "options": {"movflags": "+use_metadata_tags"}}
    make_video(tmp_path / "media" / "tagged.mp4", 1, 10, **marked)  # type: ignore[arg-type]
    make_video(tmp_path / "media" / "plain.mp4", 1, 10)
    command = ["--media", str(tmp_path / "media"), "--part", "all", "--detectors", "metadata"]
    study_false_positives.main([*command, "--out", str(tmp_path / "fp.json")])
    assert "| fused | 1/2 = 50.0%" in capsys.readouterr().out
    record = json.loads((tmp_path / "fp.json").read_text(encoding="utf-8"))
    assert record["figures"]["metadata"]["manipulated_of_judged"]["of"] == 1
    assert record["arguments"]["seed"] == "0" and record["files"] == 2
