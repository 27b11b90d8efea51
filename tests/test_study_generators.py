"""The study of generators: whole repositories left out, figures that shortcuts cannot improve, thresholds from other
folds."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.calibration.accuracy import Resampling
from deephotlink.pipelines.cli import main as deephotlink
from tests.bench import generators, study_generators
from tests.bench.generators import Item, Table, folds_of, found_at, left_out_scores, trivial_classifier
from tests.builders import make_video

QUICK = Resampling(200)


def collection(seed: int = 0, repos: int = 9, scenes: int = 4) -> list[Item]:
    """Repositories with real scenes and two forgeries of each, and two with real scenes only. `blur` is a habit of the
    repository: lower in the forgeries of some, higher in those of others."""
    rng = np.random.default_rng(seed)
    items = []
    for repo in range(repos):
        own = rng.normal(0, 3)
        for scene in range(scenes):
            group = f"r{repo}/s{scene}"
            values = {"blur": own + rng.normal(0, 0.1), "size": float(repo)}
            items.append(Item(f"{group}/real.mp4", False, "", "", group, f"r{repo}", values))
            for made in range(2) if repo < repos - 2 else ():
                values = {"blur": own + (1 if repo % 2 else -1) + rng.normal(0, 0.1), "size": float(repo)}
                family = "swap" if made else "talk"
                items.append(
                    Item(f"{group}/f{made}.mp4", True, family, f"{family} {repo % 3}", group, f"r{repo}", values)
                )
    return items


def test_every_repository_is_left_out_once_and_no_group_is_split() -> None:
    items = collection()
    shared = items[0].group
    items.append(Item("elsewhere.mp4", False, "", "", shared, "r8"))
    folds = folds_of(items, 4)
    assert sorted(repo for fold in folds for repo in fold.repos) == [f"r{n}" for n in range(9)]
    assert sorted(np.concatenate([fold.held for fold in folds])) == list(range(len(items)))
    for fold in folds:
        held = [items[at] for at in fold.held]
        fit = [items[at] for at in fold.fit]
        assert {item.repo for item in held} == set(fold.repos)
        assert not {item.repo for item in held} & {item.repo for item in fit}
        assert not {item.group for item in held} & {item.group for item in fit}
        assert {item.fake for item in held} == {True, False} == {item.fake for item in fit}
    left = next(fold for fold in folds if "r0" in fold.repos)
    assert len(items) - 1 not in left.fit, "the film of a scene that is left out is no film to learn from"
    assert folds_of(items, 4)[2].held.tolist() == folds[2].held.tolist()


def test_folds_want_as_many_repositories() -> None:
    with pytest.raises(ValueError, match="expected 20 repositories or more, got 9"):
        folds_of(collection(), 20)


def test_a_score_that_knows_the_scene_is_told_from_one_that_knows_the_forgery() -> None:
    items = collection()
    rng = np.random.default_rng(1)
    scene = {item.group: rng.normal(0, 5) for item in items}
    told = Table(items, QUICK)
    within = told.compare("all", np.array([scene[i.group] + i.fake for i in items]), told.fake)
    across = told.compare("all", np.array([float(i.fake) for i in items]), told.fake)
    assert within.in_order.value == 1.0 and within.pairs == 56
    assert within.pooled.value is not None and within.pooled.value < 0.65 and not within.speaks
    assert across.pooled.value == 1.0 and across.speaks
    assert (across.fakes, across.fake_groups, across.reals, across.own_repo_pairs) == (56, 28, 36, 7 * 8 * 4)


def test_by_family_and_generator_against_all_real_files() -> None:
    items = collection()
    told = Table(items, QUICK)
    scores = np.array([float(item.family == "swap") for item in items])
    by_family = {one.name: one.pooled.value for one in told.by("family", scores)}
    assert by_family == {"swap": 1.0, "talk": 0.5}
    assert [one.name for one in told.by("generator", scores)] == [
        f"{family} {n}" for family in ("swap", "talk") for n in range(3)
    ]
    assert all(one.reals == 36 for one in told.by("generator", scores))
    assert told.by("generator", scores, least=100) == []


def test_baselines_are_of_the_files_that_the_score_judges() -> None:
    items = [
        Item(f"{n}", n % 2 == 1, "swap" if n % 2 else "", "", f"g{n}", f"r{n}", {"size": float(n % 2 and n > 9)})
        for n in range(20)
    ]
    told = Table(items, QUICK)
    scores = np.arange(20.0)
    everything = told.compare("all", scores, told.fake).best_baseline
    scores[:10] = np.nan
    late = told.compare("all", scores, told.fake).best_baseline
    assert everything is not None and late is not None
    assert (everything.auc.value, late.auc.value, late.beats) == (0.75, 1.0, True)


def test_what_is_learned_of_a_repository_does_not_carry_to_others() -> None:
    """Blur identifies the forgeries within each repository, but in opposite directions. With the repository left out it
    identifies nothing."""
    items = collection()
    told = Table(items, QUICK)
    seen = trivial_classifier(items)(items)
    assert (told.compare("all", seen, told.fake).pooled.value or 0) > 0.85
    left_out = told.compare("all", left_out_scores(items, folds_of(items, 4), trivial_classifier), told.fake)
    assert (left_out.pooled.value or 1) < 0.65


def test_scores_are_those_of_the_fold_that_left_them_out() -> None:
    items = collection()

    def fit(known: Sequence[Item]) -> generators.Score:
        groups = {item.group for item in known}
        return lambda rows: np.array([float(item.group in groups) for item in rows])

    assert left_out_scores(items, folds_of(items, 5), fit).tolist() == [0.0] * len(items)


def test_thresholds_come_from_real_files_of_other_folds() -> None:
    items = collection(repos=20, scenes=6)
    folds = folds_of(items, 4)
    clear = np.array([10.0 * item.fake for item in items]) + np.arange(len(items)) * 1e-6
    fake = np.array([item.fake for item in items])
    found = found_at(items, folds, clear, fake)
    assert (found.accused, found.reals, found.found, found.fakes) == (0, 120, 216, 216)
    assert found.proven and found.in_top_fifth == 1.0
    few = found_at(items[:12], folds_of(items[:12], 1), clear[:12], fake[:12])
    assert few.fakes == 0 and not few.reals, "one fold has no other real files: no threshold"
    first = folds[0].held
    strange = clear.copy()
    strange[first[~fake[first]]] = 5.0
    assert found_at(items, folds, strange, fake).accused > 0, "a fold's own real files do not set its threshold"


def test_correlation_of_a_score_with_trivial_properties_over_real_files() -> None:
    items = collection()
    moved = Table(items, QUICK).moved_by(np.array([-item.values["blur"] + 100 * item.fake for item in items]))
    assert moved["blur"] == (pytest.approx(-1.0), 36) and abs(moved["size"][0]) < 1


def manifest(folder: Path, items: Sequence[Item]) -> Path:
    path = folder / "manifest.csv"
    head = ["path", "split", "kind", "label", "family", "generator", "group", "repo"]
    rows = [
        [i.path, "train", "video", "fake" if i.fake else "real", i.family, i.generator, i.group, i.repo] for i in items
    ]
    rows += [
        ["other.mp4", "dev", "video", "real", "", "", "", "x/y"],
        ["bad.mp4", "train", "video", "", "", "", "", "x"],
    ]
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([head, *rows])
    return path


def fit_nothing(items: Sequence[Item]) -> generators.Score:
    return lambda rows: np.full(len(rows), float(len(items)))


def test_the_command_judges_scores_of_any_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = collection()
    labels = manifest(tmp_path, items)
    rng = np.random.default_rng(0)
    lines = ["path,mine,other"] + [
        f"/a/b/{i.path},{i.fake + rng.normal(0, 0.3)},{'' if n % 2 else rng.normal()}" for n, i in enumerate(items)
    ]
    (tmp_path / "scores.csv").write_text("\n".join(lines), encoding="utf-8")
    values = ["path,blur"] + [f"{i.path},{i.values['blur']}" for i in items]
    (tmp_path / "values.csv").write_text("\n".join(values), encoding="utf-8")
    out = tmp_path / "told.json"
    command = ["--labels", str(labels), "--scores", str(tmp_path / "scores.csv"), "--folds", "4", "--resamples", "200"]
    fit = ["--fit", "tests.test_study_generators:fit_nothing"]
    study_generators.main([*command, "--values", str(tmp_path / "values.csv"), *fit, "--out", str(out)])
    printed = capsys.readouterr().out
    assert "56 forgeries and 36 real files of 9 repositories" in printed
    record = json.loads(out.read_text(encoding="utf-8"))
    subjects = {one["name"]: one for one in record["subjects"]}
    assert set(subjects) == {"mine", "other", fit[1], "trivial"}
    every = subjects["mine"]["families"][0]
    assert every["name"] == "all" and every["pooled"]["value"] > 0.95 and every["in_order"]["value"] > 0.95
    assert every["pooled"]["low"] < every["pooled"]["value"] < every["pooled"]["high"]
    half = subjects["other"]["families"][0]
    assert half["fakes"] + half["reals"] == len(items) / 2
    assert {len(fold) for fold in record["folds"]} <= {2, 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,mine\na,1", "expected a column path or uri"),
        ("path,mine", "a line or more"),
        ("path,mine\nnowhere.mp4,1", "none of the 1 lines"),
        ("path,mine\nr0/s0/real.mp4,high", "expected a number for r0/s0/real.mp4 in column mine"),
    ],
)
def test_scores_that_say_nothing_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        study_generators.from_csv(tmp_path / "scores.csv", collection())


def test_labels_must_hold_both_classes(tmp_path: Path) -> None:
    labels = manifest(tmp_path, [item for item in collection() if not item.fake])
    with pytest.raises(SystemExit, match="expected real and forged files of split train"):
        generators.read_items(labels, "train", "video")
    (tmp_path / "poor.csv").write_text("path,label\na,real", encoding="utf-8")
    with pytest.raises(SystemExit, match="expected the columns family, generator"):
        generators.read_items(tmp_path / "poor.csv", "train", "video")


def test_detectors_and_trivial_properties_come_from_an_audit(tmp_path: Path) -> None:
    marked = {"tags": {"aigc_info": '{"aigc_label_type": 1}'}, "options": {"movflags": "+use_metadata_tags"}}
    items = []
    for n in range(4):
        fake = n % 2 == 1
        make_video(tmp_path / "media" / f"{n}.mp4", 1 + n, 10, **(marked if fake else {}))  # type: ignore[arg-type]
        items.append(Item(f"media/{n}.mp4", fake, "swap" if fake else "", "g", f"g{n}", f"r{n}"))
    items.append(Item("media/gone.mp4", True, "swap", "g", "g9", "r9"))
    labels = manifest(tmp_path, items)
    out = str(tmp_path / "out")
    assert deephotlink(["audit", str(tmp_path / "media"), "--output", out, "--quiet", "--detectors", "metadata"]) == 0
    known, scores = study_generators.from_audit(out, str(labels), items)
    assert np.isfinite(scores["metadata"]).tolist() == [False, True, False, True, False]
    assert known[2].values["duration"] == pytest.approx(3, abs=0.2) and known[2].values["sound"] == 0.0
    assert known[1].values["frame_rate"] == pytest.approx(10) and not known[4].values
