"""`weights pull --recommended`: what it picks, what it says before it downloads, and mirrors and servers that
misbehave."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deephotlink.models import registry
from deephotlink.pipelines import cli
from deephotlink.pipelines.weights import recommended as table
from deephotlink.pipelines.weights.pull import verify
from deephotlink.pipelines.weights.recommended import (
    KINDS,
    Candidate,
    Kind,
    evidence_only,
    published,
    recommended,
    to_run,
)
from deephotlink.transforms.storage import downloads, retries
from tests.stand_ins import Mirror, install, make_mirror

PULLED = ["commfor_384", "gend_clip_l14"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Mirror:
    return make_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def mirror(made, monkeypatch, tmp_path) -> Mirror:
    """The stand-ins as what is on record, and an empty cache."""
    monkeypatch.setenv("DEEPHOTLINK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setenv("COLUMNS", "200")
    install(monkeypatch, made)
    return made


def pull(capsys, *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["weights", "pull", "--recommended", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def copy_of(mirror: Mirror, folder: Path) -> Mirror:
    copy = Mirror(folder)
    for name in PULLED:
        copy.file(name).parent.mkdir(parents=True)
        copy.file(name).write_bytes(mirror.file(name).read_bytes())
    return copy


def in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in (tmp_path / "cache").glob("*/*") if path.is_file())


def test_the_table_names_detectors_on_record_with_a_checksum_for_each_family():
    specs = registry.installed()
    assert {kind.family for kind in KINDS} == {"facial", "synthetic", "audio", "lip_sync", "metadata"}
    for kind in KINDS:
        assert kind.candidates and {specs[one.detector].family for one in kind.candidates} == {kind.family}
        for one in kind.candidates:
            assert one.figure.startswith(("measured: ", "published: ", "none on record")) and one.reason
    picks = recommended()
    assert [pick.kind for pick in picks] == list(KINDS)  # one for each, with nothing to accept
    for pick in published(picks).values():
        assert pick.spec.commercial_use and pick.download_bytes > 0
        assert all(file.sha256 for file in pick.spec.weights), "an unpinned file cannot be recommended"
    assert evidence_only(to_run(picks)) == {"facial", "lip_sync", "synthetic"}


def test_the_size_that_is_not_on_record_is_that_of_the_tensors():
    import torch

    from deephotlink.models.architectures.clip_vision import GendNetwork

    with torch.device("meta"):
        network = GendNetwork()
    size = 4 * sum(parameter.numel() for parameter in network.parameters())
    (pick,) = (pick for name, pick in published(recommended()).items() if name == "gend_clip_l14")
    assert pick.download_bytes == pytest.approx(size, rel=0.01)


def test_what_it_costs_and_forbids_is_said_before_anything_is_pulled(mirror, tmp_path, capsys):
    code, said, error = pull(capsys)
    assert code == cli.USAGE and "--yes" in error and in_cache(tmp_path) == []
    for word in ("gend_clip_l14", "commfor_384", "MIT", "forbids", "CPU s", "research and education only", ".96"):
        assert word in said
    code, said, _ = pull(capsys, "--yes", "--from", mirror.folder)
    assert code == cli.DONE and in_cache(tmp_path) == PULLED
    assert said.index("What is recommended") < said.index("sha256")
    assert {file.state for file in verify(PULLED, str(tmp_path / "cache"))} == {"ok"}
    code, said, _ = pull(capsys)  # nothing is missing: nobody is asked, nothing is fetched
    assert code == cli.DONE and "nothing was missing" in said and said.count("already there") == 2


@pytest.mark.parametrize(("answer", "code"), [("y\n", cli.DONE), ("no\n", cli.USAGE), ("", cli.USAGE)])
def test_on_a_terminal_it_asks(answer, code, mirror, monkeypatch, tmp_path, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert pull(capsys, "--from", mirror.folder)[0] == code
    assert bool(in_cache(tmp_path)) == (code == cli.DONE)


def test_one_that_fails_is_named_and_the_others_are_pulled(mirror, tmp_path, capsys):
    wrong = copy_of(mirror, tmp_path / "wrong")
    data = bytearray(mirror.file("gend_clip_l14").read_bytes())
    data[-1] ^= 1
    wrong.file("gend_clip_l14").write_bytes(bytes(data))
    code, said, error = pull(capsys, "--yes", "--from", wrong.folder)
    assert code == cli.USAGE and "gend_clip_l14: " in error and "expected sha256" in error
    assert "commfor_384" in said.partition("sha256")[0] and in_cache(tmp_path) == ["commfor_384"]
    wrong.file("gend_clip_l14").unlink()
    code, _, error = pull(capsys, "--yes", "--from", wrong.folder)
    assert code == cli.USAGE and "gend_clip_l14: " in error and in_cache(tmp_path) == ["commfor_384"]
    code, _, _ = pull(capsys, "--yes", "--from", mirror.folder)
    assert code == cli.DONE and in_cache(tmp_path) == PULLED


def test_without_a_network_it_ends_in_75_and_names_each(mirror, tmp_path, capsys):
    code, _, error = pull(capsys, "--yes")
    assert code == cli.AGAIN and in_cache(tmp_path) == []
    assert len(error.splitlines()) == 2 and all(f"deephotlink: {name}: " in error for name in PULLED)


def test_a_file_that_was_damaged_since_is_replaced(mirror, tmp_path, capsys):
    assert pull(capsys, "--yes", "--from", mirror.folder)[0] == cli.DONE
    file = tmp_path / "cache/commfor_384/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    code, said, _ = pull(capsys, "--yes", "--from", mirror.folder)
    assert (
        code == cli.DONE
        and said.count("already there") == 1
        and file.read_bytes() == mirror.file("commfor_384").read_bytes()
    )


def test_names_and_recommended_exclude_each_other(mirror, capsys):
    assert pull(capsys, "aasist")[0] == cli.USAGE
    assert cli.main(["weights", "pull"]) == cli.USAGE and "--recommended" in capsys.readouterr().err
    assert cli.main(["detectors", "aasist", "--recommended"]) == cli.USAGE


@pytest.fixture
def bound(mirror, monkeypatch) -> None:
    """`commfor_384` as if its licence forbade commercial use, and ranked above `synthetic`."""
    known = dict(registry._known().by_name)
    spec, module = known["commfor_384"]
    known["commfor_384"] = (replace(spec, licence="CC-BY-NC-4.0", commercial_use=False), module)
    monkeypatch.setattr(registry, "_known", lambda: registry._Known(known))


def test_a_restrictive_licence_is_never_taken_unasked(bound, mirror, tmp_path, capsys):
    (pick,) = (pick for pick in recommended() if pick.kind.family == "synthetic")
    assert pick.spec.name == "synthetic" and [spec.name for spec in pick.better] == ["commfor_384"]
    code, said, _ = pull(capsys, "--yes", "--from", mirror.folder)
    assert code == cli.DONE and in_cache(tmp_path) == ["gend_clip_l14"]
    assert "CC-BY-NC-4.0" in said and "--accept-licence commfor_384" in said
    code, said, _ = pull(capsys, "--yes", "--from", mirror.folder, "--accept-licence", "commfor_384")
    assert code == cli.DONE and in_cache(tmp_path) == PULLED and "commercial use" in said


def test_a_kind_without_an_allowed_detector_has_no_pick(bound, monkeypatch):
    kinds = (Kind("films", "synthetic", (Candidate("commfor_384", "none on record", "", 1.0, True),)),)
    monkeypatch.setattr(table, "KINDS", kinds)
    assert recommended() == () and [pick.spec.name for pick in recommended(["commfor_384"])] == ["commfor_384"]


def test_detectors_shows_the_same_table(mirror, tmp_path, capsys):
    assert cli.main(["detectors", "--recommended"]) == cli.DONE
    said = capsys.readouterr().out
    assert "face swaps and edits" in said and "weights pull --recommended" in said and in_cache(tmp_path) == []
    assert cli.main(["detectors", "--recommended", "--json"]) == cli.DONE
    rows = json.loads(capsys.readouterr().out)
    assert [row["forgery"] for row in rows] == [kind.forgery for kind in KINDS]
    assert {row["detector"]: row["is_here"] for row in rows}["commfor_384"] is False
    assert all(row["is_here"] and not row["download_bytes"] for row in rows if row["origin"] == "embedded")
