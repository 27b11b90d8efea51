"""Which detectors there are: one file each in models/detectors, what other packages add, and models of the user's own.

A detector's module has a `DETECTOR` (or several `DETECTORS`) and `make(spec, weights)`. Other packages name such a
module under the entry-point group `deephotlink.detectors`. Names like `hf:DIR`, `onnx:FILE` and `torch:FILE` are
answered by the modules of models/adapters, which read the spec out of the files instead of holding it as a constant.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from . import detectors
from .base import Detector, DetectorSpec
from .weights import NO_WEIGHTS, Weights, recorded_sha256

GROUP = "deephotlink.detectors"
"""Entry points of other packages: each names a module like those in models/detectors."""
ADAPTERS = ("hf", "onnx", "torch")


class UnknownDetector(LookupError):
    """No detector of that name is installed."""


@dataclass(frozen=True, slots=True)
class _Known:
    by_name: dict[str, tuple[DetectorSpec, ModuleType]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """Entry points of other packages that cannot be used, by name, and why."""


@cache
def _known() -> _Known:
    known = _Known()
    for found in pkgutil.iter_modules(detectors.__path__):
        module = importlib.import_module(f"{detectors.__name__}.{found.name}")
        known.by_name.update({spec.name: (spec, module) for spec in _specs_of(module)})
    for entry in entry_points(group=GROUP):
        whose = entry.dist.name if entry.dist else "an unnamed package"
        try:
            module = entry.load()
            theirs = _specs_of(module)
            if not theirs or not callable(getattr(module, "make", None)):
                raise TypeError(f"expected a module with DETECTOR and make(spec, weights), got {module!r}")
            taken = [spec.name for spec in theirs if spec.name in known.by_name]
            if taken or any(spec.name.partition(":")[0] in ADAPTERS for spec in theirs):
                raise ValueError(f"the names {taken or [spec.name for spec in theirs]} are taken: choose others")
        except Exception as error:  # another package's fault is no reason not to run ours
            known.broken[entry.name] = f"{whose}: {type(error).__name__}: {error}"
            continue
        for spec in theirs:
            known.by_name[spec.name] = (replace(spec, origin="third party"), module)
    return known


def _specs_of(module: ModuleType) -> list[DetectorSpec]:
    """What the module declares, with the checksum on record where it has not said one itself."""
    declared = getattr(module, "DETECTORS", None) or (getattr(module, "DETECTOR", None),)
    return [
        replace(spec, weights_sha256=spec.weights_sha256 or recorded_sha256(spec.weights))
        for spec in declared
        if isinstance(spec, DetectorSpec)
    ]


def installed() -> dict[str, DetectorSpec]:
    """Every detector's spec by name, in alphabetical order; the user's own models are not among them."""
    return {name: spec for name, (spec, _) in sorted(_known().by_name.items())}


def broken() -> dict[str, str]:
    """Detectors of other packages that cannot be used, by the entry point's name, and why."""
    return dict(_known().broken)


def specs(names: Sequence[str] | None = None) -> tuple[DetectorSpec, ...]:
    """The specs of `names`, each once, in alphabetical order; of every installed detector for None.

    Raises:
        UnknownDetector: naming what was asked for, what is near it and what there is.
    """
    known = installed()
    if names is None:
        return tuple(known.values())
    for name in names:
        if name not in known:
            if name in _known().broken:
                raise UnknownDetector(f"the detector {name!r} cannot be used: {_known().broken[name]}")
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UnknownDetector(
                f"no detector is called {name!r}; {hint}installed: {', '.join(known)}; "
                "models of your own: hf:DIR, onnx:FILE, torch:FILE.pt2"
            )
    return tuple(known[name] for name in sorted(set(names)))


def adapter_of(name: str) -> ModuleType | None:
    """The adapter that answers a name like `hf:DIR`; None for the name of an installed detector.

    It has `files_of(reference) -> dict[role, path or URL]`, `describe(name, weights) -> DetectorSpec` and
    `make(spec, weights) -> Detector`.
    """
    kind = name.partition(":")[0]
    return importlib.import_module(f"{__package__}.adapters.{kind}") if ":" in name and kind in ADAPTERS else None


def make(spec: DetectorSpec, weights: Weights = NO_WEIGHTS) -> Detector:
    """A new detector, not loaded yet.

    Raises:
        UnknownDetector: nothing of that name is installed on this machine.
    """
    module = adapter_of(spec.name)
    if module is None:
        specs([spec.name])
        module = _known().by_name[spec.name][1]
    detector: Detector = module.make(spec, weights)
    return detector
