"""Which detectors run with which files of weights: decided before the job begins, with a one-line error if it cannot
be."""

from __future__ import annotations

import hashlib
import json
import types
from pathlib import Path

import fsspec
import pytest

from deephotlink.models import registry
from deephotlink.models.base import DetectorSpec
from deephotlink.models.weights.files import Weights, WeightsError, WeightsFile
from deephotlink.pipelines import audit
from deephotlink.pipelines.options import Parser, add_audit_arguments, audit_config
from deephotlink.pipelines.weights import detector_choice
from deephotlink.pipelines.weights.detector_choice import choose, shown_name, split_names
from deephotlink.transforms.failures import UsageError
from tests.builders import FakeDetector

DATA, OTHER = b"published" * 100, b"the user's own" * 100
SHA256, OTHERS = (hashlib.sha256(data).hexdigest() for data in (DATA, OTHER))


def make_spec(name: str, *roles: str, sha256: str = SHA256, **fields) -> DetectorSpec:
    files = tuple(WeightsFile(f"{role}.pth", f"https://host/{role}", role, "v1", sha256, len(DATA)) for role in roles)
    return DetectorSpec(name, "facial", "face_track", frozenset({"frames"}), "a test", "all", weights=files, **fields)


SPECS = (
    make_spec("free"),
    make_spec("one", "weights", origin="published"),
    make_spec("two", "backbone", "head"),
    make_spec("bound", "weights", licence="CC-BY-NC-4.0", commercial_use=False),
    make_spec("unpinned", "weights", sha256=""),
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache, and SPECS as all that is installed."""
    module = types.ModuleType("fakes")
    module.make = lambda spec, weights: FakeDetector(name=spec.name)
    known = registry._Known({spec.name: (spec, module) for spec in SPECS})
    monkeypatch.setattr(registry, "_known", lambda: known)
    monkeypatch.setenv("DEEPHOTLINK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


@pytest.fixture
def mine(tmp_path) -> Path:
    """A file that is none of the published ones."""
    path = tmp_path / "mine.pth"
    path.write_bytes(OTHER)
    return path


def put(cache: Path, *names: str, data: bytes = DATA) -> None:
    for name in names:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(data)


def names_of(chosen: detector_choice.Chosen) -> list[str]:
    return [spec.name for spec in chosen.specs]


def test_without_names_all_that_is_ready_runs(cache, mine):
    assert names_of(choose(None)) == ["free"]
    put(cache, "one/weights.pth", "two/head.pth", "bound/weights.pth")
    chosen = choose(None)
    assert names_of(chosen) == ["free", "one"] and chosen.specs[1].weights_sha256 == SHA256
    assert chosen.weights["one"].read() == DATA and "free" not in chosen.weights
    put(cache, "two/backbone.pth")
    assert names_of(choose(None, accepted=["bound"])) == ["bound", "free", "one", "two"]
    assert names_of(choose(None, [f"unpinned={mine}"])) == ["free", "one", "two", "unpinned"]


def test_what_is_named_and_not_at_hand_says_how_to_get_it(cache):
    with pytest.raises(UsageError) as said:
        choose(["one"])
    assert 'needs weights.pth: run "deephotlink weights pull one" or give --weights one=PATH' in str(said.value)
    put(cache, "two/head.pth")
    with pytest.raises(UsageError, match=r"two needs backbone.pth: .*two=FOLDER or two.backbone=PATH"):
        choose(["two"])
    with pytest.raises(UsageError, match="weights pull unpinned --allow-unpinned unpinned"):
        choose(["unpinned"])


@pytest.mark.parametrize("names", [None, ["one"]])
@pytest.mark.parametrize("data", [OTHER, b"!" * len(DATA)])
def test_a_wrong_file_in_the_cache_is_never_passed_over(names, data, cache):
    put(cache, "one/weights.pth", data=data)
    with pytest.raises(UsageError, match="weights verify one") as said:
        choose(names, unpinned=["one"])
    assert SHA256 in str(said.value)


def test_a_file_that_the_user_names_is_held_against_the_record(cache, mine):
    put(cache, "one/weights.pth")
    with pytest.raises(UsageError, match="--allow-unpinned one") as said:
        choose(["one"], [f"one={mine}"])
    assert SHA256 in str(said.value) and OTHERS in str(said.value)
    chosen = choose(["one"], [f"one={mine}"], unpinned=["one"])
    assert chosen.specs[0].weights_sha256 == OTHERS and chosen.weights["one"].read() == OTHER
    assert len(chosen.warnings) == 1 and OTHERS in chosen.warnings[0]
    assert choose(["unpinned"], [f"unpinned={mine}"]).specs[0].weights_sha256 == OTHERS
    assert not choose(["one"], [f"one={cache / 'one/weights.pth'}"]).warnings


def test_several_files_by_folder_or_by_role(cache, tmp_path):
    put(tmp_path / "folder", "head.pth", "backbone.pth", "weights.pth")
    by_folder = choose(["two"], [f"two={tmp_path}/folder"])
    by_role = choose(["two"], [f"two.{role}={tmp_path}/folder/{role}.pth" for role in ("head", "backbone")])
    assert by_folder.weights == by_role.weights and set(by_folder.weights["two"].files) == {"head", "backbone"}
    assert by_folder.specs[0].weights_sha256 == registry.recorded_sha256(SPECS[2].weights)
    put(cache, "two/head.pth")
    mixed = choose(["two"], [f"two.backbone=file://{tmp_path}/folder/backbone.pth"])
    assert mixed.weights["two"].files["head"].path == str(cache / "two/head.pth")
    assert choose(["one"], [f"one={tmp_path}/folder"]).weights["one"].read() == DATA


def test_a_pulled_model_of_the_hub_serves_a_detector(cache):
    with pytest.raises(UsageError, match='run "deephotlink weights pull hf:owner/encoder"'):
        choose(["two"], ["two=hf:owner/encoder"])
    with pytest.raises(UsageError, match="OWNER/REPO"):
        choose(["two"], ["two=hf:../../etc"])
    put(cache, "hf/owner/encoder/head.pth", "hf/owner/encoder/backbone.pth")
    files = choose(["two"], ["two=hf:owner/encoder"]).weights["two"].files
    assert files["head"].path == str(cache / "hf/owner/encoder/head.pth")


@pytest.mark.parametrize(
    ("names", "given", "says"),
    [
        (["free"], "one=PATH", "not among --detectors"),
        (["one"], "nobody=PATH", "nobody"),
        (["free"], "free=PATH", "no weights"),
        (["one"], "one", "NAME=PATH"),
        (["one"], "one=", "NAME=PATH"),
        (["one"], "one.head=PATH", "weights"),
        (["one"], "one=/nowhere/at/all", "nothing at"),
        (["one"], "hf:dir=PATH", "its own files"),
        (["one"], "one=nonsense://host/file", "nonsense"),
    ],
)
def test_weights_that_cannot_be_meant(names, given, says, mine):
    with pytest.raises(UsageError, match=says):
        choose(names, [given.replace("PATH", str(mine))])
    with pytest.raises(UsageError, match="twice"):
        choose(["one"], [f"one={mine}"] * 2)


def test_weights_behind_a_url_are_fetched_once(tmp_path, monkeypatch):
    url = "memory://choosing/weights.bin?signature=hush"
    with fsspec.open("memory://choosing/weights.bin", "wb") as file:
        file.write(OTHER)
    with pytest.raises(UsageError, match=OTHERS) as said:
        choose(["one"], [f"one={url.partition('?')[0]}"])
    assert "hush" not in str(said.value)
    chosen = choose(["unpinned"], ["unpinned=memory://choosing/weights.bin"])
    assert chosen.weights["unpinned"].read() == OTHER
    assert chosen.weights["unpinned"].files["weights"].path.endswith(f".objects/{OTHERS}")


def test_a_cache_that_is_a_url(tmp_path):
    with fsspec.open("memory://choosing-cache/one/weights.pth", "wb") as file:
        file.write(DATA)
    chosen = choose(None, cache="memory://choosing-cache")
    assert names_of(chosen) == ["free", "one"] and chosen.weights["one"].read() == DATA
    assert str(tmp_path / "home") in chosen.weights["one"].files["weights"].path
    with fsspec.open("memory://choosing-cache/one/weights.pth", "wb") as file:
        file.write(OTHER)
    with pytest.raises(UsageError, match="weights verify one"):
        choose(None, cache="memory://choosing-cache")


def test_a_licence_is_accepted_by_name_and_recorded(cache):
    put(cache, "bound/weights.pth")
    with pytest.raises(UsageError, match=r"CC-BY-NC-4.0.*--accept-licence bound"):
        choose(["bound"])
    assert choose(["bound", "free"], accepted=["bound"]).licences_accepted == {"bound": "CC-BY-NC-4.0"}


def parsed(*arguments: str):
    parser = Parser(allow_abbrev=False)
    add_audit_arguments(parser)
    return audit_config(parser.parse_args(["/somewhere", "--output", "/out", *arguments]), ())


def test_the_run_records_what_it_was_given(cache, mine):
    put(cache, "one/weights.pth", "bound/weights.pth")
    config = parsed("--accept-licence", "bound", "--weights", f"unpinned={mine}")
    record = config.provenance()
    json.dumps(record)
    assert record["licences_accepted"] == {"bound": "CC-BY-NC-4.0"}
    by_name = {detector["name"]: detector for detector in record["detectors"]}
    assert by_name["one"]["weights"][0] == {
        "role": "weights",
        "file": "weights.pth",
        "sha256": SHA256,
        "size_bytes": len(DATA),
        "url": "https://host/weights",
        "revision": "v1",
        "sha256_on_record": SHA256,
    }
    assert by_name["unpinned"]["weights_sha256"] == OTHERS and str(mine) not in json.dumps(record)
    other = parsed("--weights", f"one={mine}", "--allow-unpinned", "one", "--detectors", "one")
    assert other.provenance()["detectors"][0]["weights"][0]["url"] is None and other.warnings
    assert other.fingerprint != parsed("--detectors", "one").fingerprint


def test_names_with_commas(tmp_path):
    assert split_names(" one, ,two ") == ["one", "two"]
    with pytest.raises(UsageError, match="got none"):
        split_names(",")
    (tmp_path / "a,b.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="comma"):
        split_names(f"one,onnx:{tmp_path}/a,b.onnx")


def test_names_in_the_tables_hold_no_secret_and_no_control_character():
    assert shown_name("hf:models/mine//") == "hf:models/mine"
    assert shown_name("onnx:https://me:pw@host/a.onnx?sig=1") == "onnx:https://host/a.onnx"
    assert shown_name("torch:a\x1b[2J.pt2") == "torch:a\\x1b[2J.pt2"


@pytest.fixture
def adapter(monkeypatch):
    """An adapter of files that lie beside each other."""

    def files_of(reference: str, cache: Path) -> dict[str, str]:
        if not Path(reference).is_dir():
            raise WeightsError(f"expected a folder, got {reference}: make one")
        return {"model": f"{reference}/model"}

    def describe(name: str, weights: Weights) -> DetectorSpec:
        if weights.read("model") != DATA:
            raise WeightsError("no model: convert it")
        return make_spec(name, commercial_use=False, licence="CC-BY-NC-4.0", origin="yours")

    found = types.SimpleNamespace(files_of=files_of, describe=describe)
    monkeypatch.setattr(registry, "adapter_of", lambda name: found if name.startswith("hf:") else None)


def test_models_of_the_users_own(adapter, tmp_path, cache):
    put(tmp_path / "mine", "model")
    typed = f"hf:{tmp_path}/mine/"
    with pytest.raises(UsageError, match="--accept-licence"):
        choose([typed])
    chosen = choose([typed, "free", typed], accepted=[typed.rstrip("/")])
    assert names_of(chosen) == ["free", typed.rstrip("/")]
    assert chosen.specs[1].weights_sha256 == SHA256 and chosen.weights[typed.rstrip("/")].read("model") == DATA
    with pytest.raises(UsageError, match="two detectors"):
        choose([typed, typed.rstrip("/")], accepted=[typed.rstrip("/")])
    with pytest.raises(UsageError, match="make one"):
        choose(["hf:nowhere"])
    put(tmp_path / "mine", "model", data=OTHER)
    with pytest.raises(UsageError, match="convert it"):
        choose([typed])


def test_assess_media_chooses_by_itself(cache, monkeypatch):
    put(cache, "one/weights.pth")
    specs, weights = audit.chosen_detectors(None, None)
    assert [spec.name for spec in specs] == ["free", "one"] and weights["one"].read() == DATA
    own = FakeDetector(name="own").spec
    specs, weights = audit.chosen_detectors(["one", own], None)
    assert [spec.name for spec in specs] == ["one", "own"] and set(weights) == {"one"}
    assert audit.chosen_detectors([own], None) == ((own,), {})
    with pytest.raises(UsageError, match="pull two"):
        audit.chosen_detectors(["two"], None)
