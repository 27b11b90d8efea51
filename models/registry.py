"""Which detectors there are: one file each in models/detectors, found by its `DETECTOR` and `make` names."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from types import ModuleType

from . import detectors
from .base import Detector, DetectorSpec


class UnknownDetector(LookupError):
    """No detector of that name is installed."""


@cache
def _modules() -> dict[str, ModuleType]:
    """Every detector's module by the detector's name, in alphabetical order."""
    modules = (
        importlib.import_module(f"{detectors.__name__}.{found.name}")
        for found in pkgutil.iter_modules(detectors.__path__)
    )
    by_name = {m.DETECTOR.name: m for m in modules if isinstance(getattr(m, "DETECTOR", None), DetectorSpec)}
    return dict(sorted(by_name.items()))


def installed() -> dict[str, DetectorSpec]:
    """Every detector's spec by name, in alphabetical order."""
    return {name: module.DETECTOR for name, module in _modules().items()}


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
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UnknownDetector(f"no detector is called {name!r}; {hint}installed: {', '.join(known)}")
    return tuple(known[name] for name in sorted(set(names)))


def build(name: str) -> Detector:
    """A new detector, not loaded yet."""
    specs([name])
    return _modules()[name].make()
