"""Modules that are imported when they are first used.

torch alone takes 1.8 s of a core to import, and most commands (`--help`, `query`, `check`, `detectors`) never compute
with it. A module that has to be imported all the same, because it holds a detector's spec, names what is heavy twice:

    if TYPE_CHECKING:
        import torch
    else:
        torch = late("torch")

so that a type checker and a reader see an ordinary import. For types in annotations alone the first half is enough.
"""

from __future__ import annotations

import importlib
from importlib.util import resolve_name
from typing import Any


def late(what: str, package: str | None = None) -> Any:
    """A stand-in for a module (`"torch"`), or for a function or class in one (`"..architectures.vit:VitShape"`).

    Nothing is imported until an attribute of it is read or it is called. It is no class: not for `isinstance`, nor to
    derive from.

    package: what dots at the beginning are relative to (`__package__`).
    """
    module, _, name = what.partition(":")
    return _Late(resolve_name(module, package), name)


class _Late:
    __slots__ = ("_module", "_name")

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _found(self) -> Any:
        module = importlib.import_module(self._module)
        return getattr(module, self._name) if self._name else module

    def __getattr__(self, name: str) -> Any:
        # pytest, inspect and their like ask everything they meet for such names.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{':'.join(filter(None, (self._module, self._name)))}, imported when it is first used>"
