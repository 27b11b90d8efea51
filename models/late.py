"""Modules that are imported at their first use.

Importing torch alone takes 1.8 s of a core, and most commands (`--help`, `query`, `check`, `detectors`) never compute
with it. Some modules must be imported all the same, because they hold a detector's spec. They name heavy imports twice:

    if TYPE_CHECKING:
        import torch
    else:
        torch = late("torch")

A type checker and a reader then see an ordinary import. If only annotations use it, the first half is enough.
"""

from __future__ import annotations

import importlib
from importlib.util import resolve_name
from typing import Any


def late(what: str, package: str | None = None) -> Any:
    """A stand-in for a module (`"torch"`), or for a function or class in one (`"..architectures.vit:VitShape"`).

    Nothing is imported until one of its attributes is read or it is called. It is not a class: do not use it with
    `isinstance` or as a base class.

    package: the package that leading dots are relative to (`__package__`).
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
        # pytest, inspect and similar tools ask every object for such names.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{':'.join(filter(None, (self._module, self._name)))}, imported when it is first used>"
