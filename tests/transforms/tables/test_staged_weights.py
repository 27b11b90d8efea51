"""Weights for a cluster's workers: stored once, found again, checked on arrival."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from dataclasses import replace

import fsspec
import pytest

from deephotlink.models.weights.files import LocalFile, Weights, WeightsError
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.storage import downloads
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables import staged_weights as staging
from deephotlink.transforms.tables.staged_weights import STAGED, localise, stage_weights

HEAD, BACKBONE = b"head" * 1000, b"backbone" * 1000


@pytest.fixture
def held(tmp_path) -> dict[str, Weights]:
    files = {}
    for role, data in (("head", HEAD), ("backbone", BACKBONE)):
        path = tmp_path / role
        path.write_bytes(data)
        files[role] = LocalFile(str(path), hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return {"two": Weights(files)}


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A temporary folder of the machine's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> OutputStore:
    root = str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}-staging/out"
    return OutputStore(root, patience_seconds=1)


def elsewhere(weights: Weights) -> Weights:
    """As another machine gets them: pickled, and nothing under the launching machine's paths."""
    weights = pickle.loads(pickle.dumps(weights))
    return Weights({role: replace(file, path=f"/nowhere/{role}") for role, file in weights.files.items()})


def test_each_file_is_staged_once_and_read_elsewhere(store, held):
    staged = stage_weights(store, held)
    assert staged["two"].sha256 == held["two"].sha256
    names = store.list(STAGED)
    assert sorted(names) == sorted(f"{STAGED}/{file.sha256}" for file in held["two"].files.values())
    assert stage_weights(store, held) == staged and store.list(STAGED) == names
    here = localise(elsewhere(staged["two"]))
    assert (here.read("head"), here.read("backbone")) == (HEAD, BACKBONE)


def test_on_the_launching_machine_files_are_read_where_they_lie(store, held, machine):
    assert localise(held["two"]) == held["two"]
    staged = stage_weights(store, held)["two"]
    assert localise(staged) == staged and not list(machine.iterdir())


def test_a_machine_fetches_a_file_once(held, machine, monkeypatch):
    store = OutputStore("memory://staging-once/out", patience_seconds=1)
    staged = elsewhere(stage_weights(store, held)["two"])
    first = localise(staged)
    monkeypatch.setattr(staging, "fetch", lambda *a, **k: pytest.fail("fetched again"))
    assert localise(staged) == first
    assert (machine / next(machine.iterdir())).stat().st_mode & 0o077 == 0


def test_another_file_of_that_name_on_the_worker_is_not_taken(held, tmp_path):
    store = OutputStore("memory://staging-other/out", patience_seconds=1)
    staged = elsewhere(stage_weights(store, held)["two"])
    (tmp_path / "other").write_bytes(b"something else")
    files = {role: replace(file, path=str(tmp_path / "other")) for role, file in staged.files.items()}
    assert localise(Weights(files)).read("head") == HEAD


def test_what_was_changed_in_the_store_is_refused(held):
    store = OutputStore("memory://staging-changed/out", patience_seconds=1)
    staged = elsewhere(stage_weights(store, held)["two"])
    with fsspec.open(staged.files["head"].address, "wb") as file:
        file.write(b"HEAD" * 1000)
    with pytest.raises(UsageError, match=staged.files["head"].sha256):
        localise(staged)
    with fsspec.open(staged.files["head"].address, "wb") as file:
        file.write(b"short")
    with pytest.raises(UsageError, match="bytes"):
        localise(staged)


def test_what_was_changed_before_staging_is_refused(store, held, tmp_path):
    (tmp_path / "head").write_bytes(b"HEAD" * 1000)
    with pytest.raises(WeightsError, match="changed"):
        stage_weights(store, held)


def test_what_is_nowhere_is_said(held):
    store = OutputStore("memory://staging-gone/out", patience_seconds=1)
    staged = elsewhere(stage_weights(store, held)["two"])
    fsspec.filesystem("memory").rm("/staging-gone/out", recursive=True)
    with pytest.raises(downloads.NotFound, match="nothing at"):
        localise(staged)
