"""Weights that come with the package: what they hold, and what happens if a file is missing or changed."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load, save

from deephotlink.models import registry
from deephotlink.models.base import DetectorSpec
from deephotlink.models.embedded import files
from deephotlink.models.weights.files import LocalFile, Weights, WeightsError, WeightsFile
from deephotlink.pipelines import cli
from deephotlink.pipelines.weights.catalogue import catalogue
from deephotlink.pipelines.weights.detector_choice import choose
from deephotlink.pipelines.weights.pull import pull, verify
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables import staged_weights as staging
from deephotlink.transforms.tables.staged_weights import localise, stage_weights

PACKAGED = sorted(path.stem for path in files.FOLDER.glob("*.safetensors"))
SECTIONS = (files.GIST, "Data", "Method and paper", "Figures", "Blind spots", "Intended use", "How to reproduce")
CARD = "# ours\n\n## What it judges\n\nWhether a face\nwas forged.\n\nMore of it.\n\n## Data\n\nNone.\n"


def test_what_is_packaged_is_small_and_on_record():
    sizes = [files.embedded_path(name).stat().st_size for name in PACKAGED]
    assert all(size <= files.MAX_FILE_BYTES for size in sizes) and sum(sizes) <= files.MAX_BYTES
    ours = {name for name, spec in registry.installed().items() if spec.origin == "embedded" and spec.weights}
    assert ours == set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_are_those_of_their_sidecar_and_have_a_card(name):
    body, record = files.embedded_path(name).read_bytes(), files.sidecar(name)
    assert record["sha256"] == hashlib.sha256(body).hexdigest() and record["size_bytes"] == len(body)
    tensors = load(body)
    assert {str(tensor.dtype) for tensor in tensors.values()} <= {"float16", "int16", "int64"}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert isinstance(record["parameters"], int) and record["made_by"] and record["date"]
    text = files.FOLDER.joinpath(f"{name}.md").read_text(encoding="utf-8")
    for section in SECTIONS:
        assert re.search(rf"^## {section}", text, re.M), f"{name}.md has no section {section!r}"
    assert files.gist(name) and record["sha256"] in text


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package that holds the weights of one detector, `ours`."""
    folder = tmp_path / "package"
    folder.mkdir()
    body = save({"a": np.ones(3, np.float16)})
    (folder / "ours.safetensors").write_bytes(body)
    (folder / "ours.json").write_text(
        json.dumps({"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body), "parameters": 3})
    )
    (folder / "ours.md").write_text(CARD)
    monkeypatch.setattr(files, "FOLDER", folder)
    monkeypatch.setattr(staging, "FOLDER", folder)
    monkeypatch.setenv("DEEPHOTLINK_WEIGHTS", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def install(monkeypatch):
    """Has the registry find the module of `ours` among our detectors, read as it is when this is called."""

    def install() -> None:
        module = ModuleType("ours")
        spec = DetectorSpec(
            "ours",
            "facial",
            "face_track",
            frozenset({"frames", "faces"}),
            "one line",
            "much",
            weights=files.embedded_weights("ours"),
        )
        vars(module).update(DETECTOR=spec, make=lambda spec, weights: (spec, weights))
        found = [SimpleNamespace(name=name) for name in ("metadata", "ours")]

        def import_module(name: str) -> ModuleType:
            return module if name.endswith(".ours") else importlib.import_module(name)

        monkeypatch.setattr(registry, "pkgutil", SimpleNamespace(iter_modules=lambda path: found))
        monkeypatch.setattr(registry, "importlib", SimpleNamespace(import_module=import_module))
        registry._known.cache_clear()

    yield install
    registry._known.cache_clear()


def test_embedded_weights_need_nothing_else(package, install):
    install()
    body = (package / "ours.safetensors").read_bytes()
    chosen = choose(None)
    assert [spec.name for spec in chosen.specs] == ["metadata", "ours"]
    assert chosen.weights["ours"].read() == body
    assert chosen.specs[1].weights_sha256 == hashlib.sha256(body).hexdigest()
    row = {row["name"]: row for row in catalogue()}["ours"]
    assert row["status"] == "ready" and row["at"] == str(package / "ours.safetensors") and row["url"] is None
    assert row["card"] == str(package / "ours.md") and row["card_says"] == "Whether a face was forged."


def test_of_embedded_weights_a_person_is_told(package, install, capsys):
    install()
    assert cli.main(["detectors", "ours"]) == cli.DONE
    said = capsys.readouterr().out
    assert "Whether a face was forged." in said and "ours.md" in said and "More of it" not in said
    assert cli.main(["weights", "verify"]) == cli.DONE
    assert "embedded/ours.safetensors: ok" in capsys.readouterr().out
    (package / "ours.safetensors").write_bytes(b"changed")
    assert cli.main(["weights", "verify", "ours"]) == cli.BROKEN
    assert "embedded/ours.safetensors: sha256 differs" in capsys.readouterr().out
    (package / "ours.safetensors").unlink()
    assert [file.state for file in verify(["ours"], "/nowhere")] == ["missing"]
    with pytest.raises(UsageError, match="came with deephotlink: there is nothing to pull"):
        list(pull(["ours"], "/nowhere"))


def test_weights_that_were_changed_are_never_used(package, install):
    install()
    held = choose(["ours"]).weights["ours"]
    changed = bytearray((package / "ours.safetensors").read_bytes())
    changed[-1] ^= 1
    (package / "ours.safetensors").write_bytes(changed)
    for names in (None, ["ours"]):
        with pytest.raises(UsageError, match=r"in .*ours.safetensors, got .*install deephotlink again"):
            choose(names)
    with pytest.raises(WeightsError, match="the file was changed"):
        held.read()
    (package / "ours.safetensors").unlink()
    with pytest.raises(UsageError, match="expected the weights of ours in the package"):
        choose(None)
    assert "has 0 bytes" in {row["name"]: row["status"] for row in catalogue()}["ours"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        ("{", "the record of the weights"),
        ("[]", "64 hex digits"),
        ('{"sha256": "abc", "size_bytes": 3}', "sha256='abc'"),
        (f'{{"sha256": "{"a" * 64}", "size_bytes": true}}', "size=True"),
        (f'{{"sha256": "{"A" * 64}", "size_bytes": 3}}', "64 hex digits"),
        ("\xff", "the record of the weights"),
    ],
)
def test_a_damaged_record_costs_that_detector_only(text, says, package, install, capsys):
    (package / "ours.json").unlink()
    if text is not None:
        (package / "ours.json").write_bytes(text.encode("latin-1"))
    install()
    assert list(registry.installed()) == ["metadata"]
    why = registry.broken()["ours"]
    assert str(package / "ours.json") in why and says in why and "install deephotlink again" in why
    assert [spec.name for spec in choose(None).specs] == ["metadata"]
    with pytest.raises(UsageError, match=r"the detector 'ours' cannot be used: .*ours.json"):
        choose(["ours"])
    assert cli.main(["detectors", "--json"]) == cli.DONE
    row = {row["name"]: row for row in json.loads(capsys.readouterr().out)}["ours"]
    assert row["status"].startswith("cannot be used") and row["origin"] == "embedded"


def test_another_packages_file_without_an_address_is_its_own_affair():
    assert files.fault(WeightsFile("x.pth", "https://x.example/x.pth")) is None
    assert "no URL and no sha256" not in str(files.fault(WeightsFile("nobody.safetensors", "")))


def test_a_worker_uses_its_own_package_where_that_is_the_same(package, install, tmp_path, monkeypatch):
    install()
    store = OutputStore("memory://embedded-staging/out", patience_seconds=1)
    staged = stage_weights(store, dict(choose(["ours"]).weights))["ours"]
    there = Weights({"weights": replace(staged.files["weights"], path="/elsewhere/ours.safetensors")})
    monkeypatch.setattr(staging, "fetch", lambda *a, **k: pytest.fail("fetched"))
    assert localise(there).files["weights"].path == str(package / "ours.safetensors")
    monkeypatch.undo()

    # Another version of the package: weights of the same size and another content, in the very same place.
    monkeypatch.setattr(files, "FOLDER", package)
    monkeypatch.setattr(staging, "FOLDER", package)
    monkeypatch.setattr(staging.tempfile, "tempdir", str(tmp_path))
    body = (package / "ours.safetensors").read_bytes()
    other = save({"a": np.zeros(3, np.float16)})
    assert len(other) == len(body)
    (package / "ours.safetensors").write_bytes(other)
    record = {"sha256": hashlib.sha256(other).hexdigest(), "size_bytes": len(other)}
    (package / "ours.json").write_text(json.dumps(record))
    assert localise(staged).read() == body
    shutil.rmtree(next(tmp_path.glob(f"deephotlink-weights-{os.getuid()}")))


def test_a_file_that_is_not_staged_stays_where_it_is(package):
    file = LocalFile(str(package / "ours.md"), "0" * 64, size_bytes=1)
    assert localise(Weights({"weights": file})).files["weights"] == file


def test_a_card_without_the_section_has_no_gist(package):
    (package / "ours.md").write_text("# ours\n\n## Data\n\nNone.\n")
    assert files.gist("ours") == "" and files.gist("nobody") == "" and files.card_path("nobody") is None
