"""Reads one object of a settings file key by key. Nothing is guessed, and every key must be known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from ..weights.checkpoints import read_object
from ..weights.files import WeightsError

EXAMPLE = """{
  "family": "facial", "unit": "face_track", "licence": "MIT",
  "output": "logits", "fake": 1, "real": 0,
  "image": {"size": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "frames": 4}
}"""
"""The shortest valid settings of a picture classifier with two classes."""


def read_json(data: bytes, name: str) -> dict[str, Any]:
    """The object in a file, as `read_object` reads it. The error message adds an example of valid settings."""
    try:
        return read_object(data, name)
    except WeightsError as error:
        raise WeightsError(f"{error}; a minimal example:\n{EXAMPLE}") from error


class Reader:
    """One object of the file. Each key is taken once; a key that is left over is an error."""

    def __init__(self, found: Any, name: str, where: str = "") -> None:
        self.name, self.where = name, where
        if not isinstance(found, dict):
            self.refuse(where.rstrip(".") or "the file", "an object {…}", found)
        self.left: dict[str, Any] = dict(found)

    def refuse(self, key: str, expected: str, came: Any) -> NoReturn:
        shown = repr(came)
        raise WeightsError(f"{self.name}: {key!r}: expected {expected}, got {shown[:120]}")

    def take(self, key: str, expected: str, good: Callable[[Any], bool], default: Any = ...) -> Any:
        if key not in self.left:
            if default is ...:
                raise WeightsError(
                    f"{self.name}: {self.where + key!r} is missing: expected {expected}; a minimal example:\n{EXAMPLE}"
                )
            return default
        value = self.left.pop(key)
        if not good(value):
            self.refuse(self.where + key, expected, value)
        return value

    def choice(self, key: str, among: Sequence[str], default: Any = ...) -> Any:
        expected = "one of " + ", ".join(map(repr, among))
        return self.take(key, expected, lambda v: isinstance(v, str) and v in among, default)

    def text(self, key: str, default: Any = ...) -> str:
        return cast(str, self.take(key, "a line of text, 1 to 500 characters", _line, default))

    def whole(self, key: str, least: int, most: int, default: Any = ...) -> int:
        expected = f"a whole number, {least} to {most}"
        return cast(int, self.take(key, expected, lambda v: is_whole(v) and least <= v <= most, default))

    def number(self, key: str, least: float, most: float, default: Any = ...) -> float:
        expected = f"a number, {least:g} to {most:g}"
        return float(self.take(key, expected, lambda v: _number(v) and least <= v <= most, default))

    def flag(self, key: str, default: bool) -> bool:
        return cast(bool, self.take(key, "true or false", lambda v: isinstance(v, bool), default))

    def triple(self, key: str, default: float, positive: bool = False) -> tuple[float, float, float]:
        def good(value: Any) -> bool:
            three = isinstance(value, list) and len(value) == 3
            return three and all(_number(n) and (n > 0 or not positive) for n in value)

        expected = f"three {'positive ' if positive else ''}numbers (red, green, blue)"
        red, green, blue = self.take(key, expected, good, [default] * 3)
        return float(red), float(green), float(blue)

    def classes(self, key: str) -> tuple[int, ...]:
        found = self.take(key, "the class's number, counted from 0, or a list of numbers", _class_or_classes)
        return tuple(found) if isinstance(found, list) else (found,)

    def done(self) -> None:
        if self.left:
            raise WeightsError(f"{self.name}: {self.where + min(self.left)!r} is not a setting: leave it out")


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (is_whole(value) and abs(value) < 1e12) or (isinstance(value, float) and math.isfinite(value))


def _class(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 100_000


def _class_or_classes(value: Any) -> bool:
    if not isinstance(value, list):
        return _class(value)
    return 0 < len(value) <= 1000 and all(map(_class, value)) and len(set(value)) == len(value)


def _line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 500 and value.isprintable()
