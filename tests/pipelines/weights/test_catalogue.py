"""`deephotlink detectors`: what is installed, its record, and what is missing before it can run."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fsspec
import pytest

from deephotlink.models import registry
from deephotlink.models.base import DetectorSpec
from deephotlink.models.weights.files import WeightsFile, combined_sha256
from deephotlink.pipelines import cli
from deephotlink.pipelines.weights import catalogue as catalogue_module
from deephotlink.pipelines.weights.catalogue import catalogue
from deephotlink.transforms.failures import UsageError, WorldError

HEAD = WeightsFile("head.pth", "https://x.example/head.pth", "head", "abc123", "a" * 64, 4)
BACKBONE = WeightsFile("back.safetensors", "https://x.example/back.safetensors", "backbone", "", "b" * 64)
SPEC = DetectorSpec(
    "theirs",
    "synthetic",
    "clip",
    frozenset({"frames"}),
    "one line",
    "much",
    method="a paper",
    architecture="a network",
    input="224 x 224",
    output="1 logit",
    licence="MIT",
    weights=(HEAD, BACKBONE),
)
KEYS = (
    "name family unit weights licence sha256 status summary blind_to method origin architecture input output needs "
    "card card_says commercial_use size_bytes url revision at files batch_size precision version"
)


@pytest.fixture
def install(monkeypatch):
    """Has the registry find these specs in a package of others, and entry points that fail."""

    def install(*specs: DetectorSpec, **failing: BaseException) -> None:
        module = ModuleType("theirs")
        vars(module).update(DETECTORS=specs, make=lambda spec, weights: None)
        dist = SimpleNamespace(name="stranger")

        def fail(error: BaseException) -> object:
            raise error

        entries = [SimpleNamespace(name="fine", dist=dist, load=lambda: module)] if specs else []
        entries += [
            SimpleNamespace(name=name, dist=dist, load=lambda error=error: fail(error))
            for name, error in failing.items()
        ]
        # Entry points sort by their names; these are never compared, for each has a package of its own.
        for number, entry in enumerate(entries):
            entry.dist = SimpleNamespace(name=f"stranger{number}")
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        registry._known.cache_clear()

    yield install
    registry._known.cache_clear()


def put(cache: Path, spec: DetectorSpec, **sizes: int) -> None:
    (cache / spec.name).mkdir(parents=True, exist_ok=True)
    for file in spec.weights:
        if (size := sizes.get(file.role)) is not None:
            (cache / spec.name / file.file_name).write_bytes(bytes(size))


def status(cache: str | Path, name: str = "theirs") -> str:
    return {row["name"]: row["status"] for row in catalogue(weights_cache=str(cache))}[name]


def test_every_row_has_the_same_keys(install, tmp_path):
    install(SPEC, torn=ImportError("no torchaudio"))
    rows = catalogue(weights_cache=str(tmp_path))
    assert {tuple(row) for row in rows} == {tuple(rows[0])} and set(rows[0]) == set(KEYS.split())
    assert {"metadata", "lip_sync", "theirs", "torn"} <= {row["name"] for row in rows}
    assert json.loads(json.dumps(rows)) == rows


def test_what_is_on_record(install, tmp_path):
    install(SPEC)
    put(tmp_path, SPEC, head=4)
    [row] = catalogue(["theirs"], str(tmp_path))
    assert row["sha256"] == combined_sha256({"head": "a" * 64, "backbone": "b" * 64})
    assert row["weights"] == "head.pth, back.safetensors" and row["origin"] == "third party"
    assert (row["architecture"], row["input"], row["output"]) == ("a network", "224 x 224", "1 logit")
    assert row["size_bytes"] is None, "one size is not on record"
    head, backbone = row["files"]
    assert head["at"] == str(tmp_path / "theirs" / "head.pth") and backbone["at"] is None
    assert head["revision"] == "abc123" and backbone["revision"] is None and head["size_bytes"] == 4


def test_the_status_says_what_is_to_be_done(install, tmp_path):
    unpinned = replace(SPEC, name="unpinned", weights=(HEAD, replace(BACKBONE, sha256="")))
    closed = replace(SPEC, name="closed", commercial_use=False)
    install(SPEC, unpinned, closed)
    assert status(tmp_path, "metadata") == "ready"
    assert status(tmp_path) == "not ready: weights pull theirs"
    assert status(tmp_path, "unpinned") == "not ready: weights pull unpinned --allow-unpinned unpinned"
    assert status(tmp_path, "closed") == "not ready: weights pull closed --accept-licence closed"
    put(tmp_path, SPEC, head=4)
    assert status(tmp_path) == "not ready: weights pull theirs", "one of two files is not enough"
    for spec in (SPEC, unpinned, closed):
        put(tmp_path, spec, head=4, backbone=9)
    assert status(tmp_path) == status(tmp_path, "unpinned") == "ready"
    assert status(tmp_path, "closed") == "needs --accept-licence closed"
    put(tmp_path, SPEC, head=3)
    assert "head.pth has 3 bytes, expected 4" in status(tmp_path) and "weights pull theirs" in status(tmp_path)


def test_a_package_that_cannot_be_used_is_listed_with_its_reason(install, tmp_path, capsys):
    install(torn=SystemExit("wants [bold]Python 4"))
    assert "SystemExit: wants [bold]Python 4" in status(tmp_path, "torn")
    assert cli.main(["detectors", "--weights-cache", str(tmp_path)]) == cli.DONE
    assert "cannot be used" in (out := capsys.readouterr().out) and "[bold]" in out


def test_a_cache_that_is_a_url(install):
    install(SPEC)
    fs = fsspec.filesystem("memory")
    fs.pipe("/catalogue/theirs/head.pth", b"1234")
    fs.pipe("/catalogue/theirs/back.safetensors", b"123")
    try:
        assert status("memory://catalogue") == "ready"
        assert status("memory://elsewhere") == "not ready: weights pull theirs"
    finally:
        fs.rm("/catalogue", recursive=True)


def test_a_cache_that_does_not_answer_does_not_hang(install, monkeypatch):
    install(SPEC)
    monkeypatch.setattr(catalogue_module, "SECONDS_TO_ASK", 0.05)
    answered = threading.Event()

    def silent(address: str) -> None:
        answered.wait(30)
        raise WorldError(address)

    monkeypatch.setattr(catalogue_module, "look", silent)
    rows = {row["name"]: row["status"] for row in catalogue(weights_cache="s3://me:secret@bucket/mirror?sig=1")}
    answered.set()
    assert rows["theirs"] == "unknown: s3://bucket/mirror does not answer" and rows["metadata"] == "ready"


def test_the_table_fits_a_screen(install, tmp_path, capsys):
    install(*(replace(SPEC, name=f"detector_of_others_{n}") for n in range(20)))
    assert cli.main(["detectors", "--weights-cache", str(tmp_path)]) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 140
    assert sum("detector_of_others_" in line and "MIT" in line for line in lines) == 20


def test_all_that_is_on_record_of_one(install, tmp_path, capsys):
    install(replace(SPEC, summary="[red]see\x1b[2J[/red]"))
    assert cli.main(["detectors", "theirs", "--weights-cache", str(tmp_path)]) == cli.DONE
    out = capsys.readouterr().out
    assert all(fact in out for fact in ("a paper", "a network", "1 logit", "much", HEAD.url, "abc123", "a" * 64))
    assert "[red]see\\x1b[2J[/red]" in out and "metadata" not in out


def test_as_json(tmp_path, capsys):
    assert cli.main(["detectors", "metadata", "--json", "--weights-cache", str(tmp_path)]) == cli.DONE
    [row] = json.loads(capsys.readouterr().out)
    assert row["name"] == "metadata" and row["status"] == "ready" and row["files"] == [] and row["sha256"] is None


def test_an_unknown_name(tmp_path, capsys):
    assert cli.main(["detectors", "metdata"]) == cli.USAGE
    assert "did you mean 'metadata'" in capsys.readouterr().err
    with pytest.raises(UsageError):
        catalogue([f"hf:{tmp_path}"])
