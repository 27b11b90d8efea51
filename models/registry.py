"""Lists the detectors: one file each in models/detectors, those of other packages, and the user's own models.

A detector's module has a `DETECTOR` (or several `DETECTORS`) and `make(spec, weights)`. Other packages name such a
module under the entry-point group `deephotlink.detectors`. The modules of models/adapters handle names like `hf:DIR`,
`onnx:FILE` and `torch:FILE`; they read the spec from the files instead of holding it as a constant.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import get_args

from . import detectors
from .base import FAMILIES, AudioGeometry, ClipGeometry, Detector, DetectorSpec, Need, Precision, Unit
from .embedded.files import fault
from .weights.files import NO_WEIGHTS, Weights, recorded_sha256

GROUP = "deephotlink.detectors"
"""Entry points of other packages; each names a module like those in models/detectors."""
ADAPTERS = {"hf": "hf", "onnx": "onnx", "torch": "torch_export"}
"""Folder of the adapter, by the part of a name before the colon."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class UnknownDetector(LookupError):
    """No detector of that name is installed."""


@dataclass(frozen=True, slots=True)
class _Known:
    by_name: dict[str, tuple[DetectorSpec, ModuleType]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """Detectors that cannot be used, by name, and why: entry points of other packages, and our own detectors."""


@cache
def _known() -> _Known:
    known = _Known()
    for found in pkgutil.iter_modules(detectors.__path__):
        module = importlib.import_module(f"{detectors.__name__}.{found.name}")
        for spec in _specs_of(module):
            # A damaged sidecar must disable only its own detector.
            if spec.origin == "embedded" and (why := next(filter(None, map(fault, spec.weights)), None)):
                known.broken[spec.name] = why
            else:
                known.by_name[spec.name] = (spec, module)
    # Sorted by name: which of two packages gets a name must not depend on the order of a folder.
    for whose, entry in sorted(
        (str(e.dist.name if e.dist else "an unnamed package"), e) for e in entry_points(group=GROUP)
    ):
        try:
            module = entry.load()
            theirs = _specs_in(module, known.by_name)
        except (Exception, SystemExit) as error:  # another package's fault must not stop our own detectors
            why = f"{whose}: {type(error).__name__}: {error}"
            known.broken[entry.name] = "; ".join(filter(None, (known.broken.get(entry.name), why)))
            continue
        known.by_name.update({spec.name: (spec, module) for spec in theirs})
    return known


def _specs_of(module: ModuleType) -> list[DetectorSpec]:
    """The specs that the module declares. The recorded checksum is filled in if the spec gives none itself.

    Raises:
        TypeError: it declares something other than specs.
    """
    declared = getattr(module, "DETECTORS", None) or [getattr(module, "DETECTOR", None)]
    if not isinstance(declared, list | tuple):
        raise TypeError(f"expected DETECTORS to be a tuple of DetectorSpec, got {type(declared).__name__}")
    found = [spec for spec in declared if spec is not None]
    for spec in found:
        if not isinstance(spec, DetectorSpec):
            raise TypeError(f"expected DETECTOR to be a DetectorSpec, got {type(spec).__name__}")
    return [replace(spec, weights_sha256=spec.weights_sha256 or recorded_sha256(spec.weights)) for spec in found]


def _specs_in(module: ModuleType, taken: Mapping[str, object]) -> list[DetectorSpec]:
    """The detectors that another package's module declares, each checked.

    Raises:
        TypeError, ValueError: says what was expected and what came.
    """
    found = _specs_of(module) if isinstance(module, ModuleType) else []
    if not found or not callable(getattr(module, "make", None)):
        raise TypeError(f"expected a module with DETECTOR and make(spec, weights), got {module!r}")
    names = [spec.name for spec in found]
    for spec in found:
        _check(spec)
        if spec.name in taken or spec.name in ADAPTERS or names.count(spec.name) > 1:
            raise ValueError(f"the name {spec.name!r} is already taken: choose another")
    return [replace(spec, origin="third party") for spec in found]


def _check(spec: DetectorSpec) -> None:
    """Checks another package's spec for errors that would otherwise appear only in the middle of a run.

    Raises:
        ValueError: says what was expected and what came.
    """
    # Names appear in commands (`--weights NAME=PATH`, lists with commas) and in paths of the weights cache.
    for name in (spec.name, *(file.file_name for file in spec.weights)):
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise ValueError(f"expected letters, digits and -_. in the name of a detector or a file, got {name!r}")
    for what, value, allowed in (
        ("unit", spec.unit, get_args(Unit)),
        ("family", spec.family, FAMILIES),
        ("precision", spec.precision, get_args(Precision)),
        *(("need", need, get_args(Need)) for need in spec.needs),
    ):
        if value not in allowed:
            raise ValueError(f"expected the {what} of {spec.name} to be one of {', '.join(allowed)}, got {value!r}")
    if not isinstance(spec.batch_size, int) or spec.batch_size < 1:
        raise ValueError(f"expected a batch_size of 1 or more for {spec.name}, got {spec.batch_size!r}")
    if not isinstance(spec.clip, ClipGeometry | None) or not isinstance(spec.audio, AudioGeometry | None):
        raise ValueError(f"expected clip=ClipGeometry(…), audio=AudioGeometry(…) for {spec.name}")
    if spec.unit == "audio_window" and spec.audio is None:
        raise ValueError(f"expected {spec.name} to define its windows of sound: audio=AudioGeometry(…)")


def installed() -> dict[str, DetectorSpec]:
    """Every detector's spec by name, in alphabetical order, without the user's own models."""
    return {name: spec for name, (spec, _) in sorted(_known().by_name.items())}


def broken() -> dict[str, str]:
    """Detectors that cannot be used, and why. Those of other packages are named by entry point, ours by their own
    name."""
    return dict(_known().broken)


def specs(names: Sequence[str] | None = None) -> tuple[DetectorSpec, ...]:
    """The specs of `names`, each once, in alphabetical order; None: those of every installed detector.

    Raises:
        UnknownDetector: names the unknown detector, a similar name, and those that are installed.
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
    """The adapter for a name like `hf:DIR`; None for the name of an installed detector.

    It has `files_of(reference) -> dict[role, path or URL]`, `describe(name, weights) -> DetectorSpec` and
    `make(spec, weights) -> Detector`.
    """
    kind = name.partition(":")[0]
    if ":" not in name or kind not in ADAPTERS:
        return None
    return importlib.import_module(f"{__package__}.adapters.{ADAPTERS[kind]}.adapter")


def make(spec: DetectorSpec, weights: Weights = NO_WEIGHTS) -> Detector:
    """A new detector, not loaded yet.

    Raises:
        UnknownDetector: no detector of that name is installed on this machine.
    """
    module = adapter_of(spec.name)
    if module is None:
        specs([spec.name])
        module = _known().by_name[spec.name][1]
    detector: Detector = module.make(spec, weights)
    return detector
