"""Which detectors are installed: other packages can add some, and a bad one is refused without harm to the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace

import pytest

from deephotlink.models import registry
from deephotlink.models.base import DetectorSpec
from deephotlink.models.weights.files import WeightsFile, combined_sha256

SPEC = DetectorSpec("theirs", "synthetic", "clip", frozenset({"frames"}), "summary", "blind to")
A, B = "a" * 64, "b" * 64


@dataclass(order=True)
class Entry:
    """As importlib.metadata has them: a name, the package it is from, and a module that is imported by `load`."""

    name: str
    whose: str
    module: object

    @property
    def dist(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.whose)

    def load(self) -> object:
        if isinstance(self.module, BaseException):
            raise self.module
        return self.module


def module_of(*specs: object, make: object = lambda spec, weights: (spec, weights), **names: object) -> ModuleType:
    module = ModuleType("theirs")
    vars(module).update({"DETECTORS": specs, "make": make} | names)
    return module


@pytest.fixture
def install(monkeypatch):
    """Has the registry find these entry points; `install(module)` for one of a package `stranger`."""

    def install(*entries: object) -> None:
        found = [e if isinstance(e, Entry) else Entry(f"entry{i}", "stranger", e) for i, e in enumerate(entries)]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])
        registry._known.cache_clear()

    yield install
    registry._known.cache_clear()


def test_every_installed_detector_says_what_it_is():
    specs = registry.installed()
    assert list(specs) == sorted(specs) and {"metadata", "lip_sync"} <= set(specs)
    for name, spec in specs.items():
        assert spec.name == name and spec.summary and spec.blind_to and spec.licence and spec.needs, name
        if spec.origin == "published":
            assert spec.method and spec.input and spec.output and spec.architecture, name
            assert all(file.url for file in spec.weights), name
    assert all(spec.origin != "third party" for spec in specs.values()) or registry.entry_points(group=registry.GROUP)


def test_another_package_adds_a_detector(install):
    weighted = replace(SPEC, name="weighted", weights=(WeightsFile("w.pth", "https://x.example/w.pth", sha256=A),))
    install(module_of(SPEC, weighted))
    installed = registry.installed()
    assert installed["theirs"].origin == installed["weighted"].origin == "third party"
    assert installed["weighted"].weights_sha256 == A and installed["theirs"].weights_sha256 == ""
    assert registry.make(installed["theirs"])[0] == installed["theirs"]  # type: ignore[index]
    assert registry.specs(["theirs"]) == (installed["theirs"],) and not registry.broken()


def test_one_detector_may_stand_alone(install):
    install(module_of(DETECTORS=(), DETECTOR=SPEC))
    assert "theirs" in registry.installed()


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (ImportError("no module named torchaudio"), "torchaudio"),
        (SystemExit("wants Python 4"), "SystemExit: wants Python 4"),
        (SPEC, "module with DETECTOR"),
        (module_of(), "module with DETECTOR"),
        (module_of(SPEC, make=None), "make(spec, weights)"),
        (module_of("theirs"), "expected DETECTOR to be a DetectorSpec, got str"),
        (module_of(DETECTORS=SPEC), "expected DETECTORS to be a tuple"),
        (module_of(replace(SPEC, name="metadata")), "'metadata' is already taken"),
        (module_of(replace(SPEC, name="hf")), "'hf' is already taken"),
        (module_of(SPEC, SPEC), "'theirs' is already taken"),
        (module_of(replace(SPEC, name="a,b")), "'a,b'"),
        (module_of(replace(SPEC, name="hf:x")), "'hf:x'"),
        (module_of(replace(SPEC, weights=(WeightsFile("../../x", "https://x.example/x"),))), "'../../x'"),
        (module_of(replace(SPEC, weights=("w.pth",))), "AttributeError"),
        (module_of(replace(SPEC, unit="frame")), "expected the unit of theirs to be one of media, clip"),
        (module_of(replace(SPEC, family="video")), "expected the family of theirs to be one of facial"),
        (module_of(replace(SPEC, needs=frozenset({"eyes"}))), "expected the need of theirs to be one of"),
        (module_of(replace(SPEC, batch_size=0)), "batch_size of 1 or more"),
        (module_of(replace(SPEC, clip=(16, 30.0))), "ClipGeometry"),
        (module_of(replace(SPEC, unit="audio_window")), "AudioGeometry"),
    ],
)
def test_what_cannot_be_used_is_named_and_stops_nobody(module, says, install):
    install(module, module_of(replace(SPEC, name="sound_one")))
    assert says in registry.broken()["entry0"] and "stranger" in registry.broken()["entry0"]
    assert {"metadata", "lip_sync", "sound_one"} <= set(registry.installed())
    assert "theirs" not in registry.installed()
    with pytest.raises(registry.UnknownDetector, match="cannot be used: stranger"):
        registry.specs(["entry0"])


def test_an_interrupt_while_importing_is_no_fault_of_the_package(install):
    install(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        registry.installed()


def test_of_two_packages_with_one_name_the_first_by_alphabet_has_it(install):
    ours, other = module_of(SPEC), module_of(replace(SPEC, summary="another"))
    install(Entry("one", "zebra", other), Entry("two", "aardvark", ours))
    assert registry.installed()["theirs"].summary == SPEC.summary
    assert list(registry.broken()) == ["one"] and "zebra" in registry.broken()["one"]


def test_an_unknown_name_says_what_is_near_and_what_there_is():
    with pytest.raises(registry.UnknownDetector, match=r"did you mean 'lip_sync'.*installed: .*metadata.*hf:DIR"):
        registry.specs(["lip_snyc"])


def test_specs_are_each_once_and_in_order():
    assert [spec.name for spec in registry.specs(["metadata", "lip_sync", "metadata"])] == ["lip_sync", "metadata"]
    assert registry.specs() == tuple(registry.installed().values())


def test_names_of_installed_detectors_need_no_adapter():
    assert registry.adapter_of("metadata") is None and registry.adapter_of("s3:x") is None


def test_the_checksum_on_record_is_that_of_all_files():
    one, two = WeightsFile("a", "u", "head", sha256=A), WeightsFile("b", "u", "backbone", sha256=B)
    both = combined_sha256({"head": A, "backbone": B})
    found = registry._specs_of(module_of(replace(SPEC, weights=(one, two))))
    assert found[0].weights_sha256 == both and len(both) == 64
    assert registry._specs_of(module_of(replace(SPEC, weights=(one, replace(two, sha256="")))))[0].weights_sha256 == ""
