"""Argument types that several commands use. Each turns text into a value, or says what was expected."""

from __future__ import annotations

import argparse

from ...transforms.failures import ERROR_CLASSES


def positive(text: str) -> int:
    number = int(text) if text.strip().lstrip("+-").isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text}")
    return number


def share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, such as 0.05, got {text}")
    return number


def error_classes(text: str) -> tuple[str, ...]:
    """Names of failure classes, in ascending order; none if `text` is empty.

    Raises:
        argparse.ArgumentTypeError: a class is unknown; the message lists all known ones.
    """
    names = sorted({name.strip() for name in text.split(",")} - {""})
    if unknown := [name for name in names if name not in ERROR_CLASSES]:
        raise argparse.ArgumentTypeError(
            f"unknown class {unknown[0]!r}: expected some of {', '.join(sorted(ERROR_CLASSES))}"
        )
    return tuple(names)


def positive_seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"expected 0.1 seconds or more, got {text}")
    return number
