"""Limits on what one file may cost an audit: the flags and how to write their numbers. A file over one of them is
`too_large`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..transforms.archives.members import ShardLimits
from ..transforms.media.protocol import Limits

_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_BUDGETS = ("probe_deadline_seconds", "item_deadline_seconds", "memory_bytes", "cpu_seconds", "item_bytes")


@dataclass(frozen=True, slots=True)
class FileLimits:
    """The limits of one audit, as set by the flags."""

    reading: Limits
    archives: ShardLimits

    def as_json(self) -> dict[str, Any]:
        """The limits by the flags' names, as they are in a run's record."""
        return {
            "max_bytes": self.archives.max_bytes,
            "max_pixels": self.reading.max_pixels,
            "max_duration_seconds": self.reading.max_duration_seconds,
            "max_streams": self.reading.max_streams,
            "max_samples": self.reading.max_samples,
            "max_members": self.archives.max_members,
            "max_ratio": self.archives.max_ratio,
        }


def recorded_limits(record: object) -> FileLimits:
    """The limits of a run from its record (`as_json`). What is not there, or is no number, has its default."""
    known = record if isinstance(record, Mapping) else {}
    numbers: dict[str, Any] = {n: v for n, v in known.items() if isinstance(v, (int, float)) and v > 0}
    names = ("max_pixels", "max_duration_seconds", "max_streams", "max_samples")
    reading = {name: numbers[name] for name in names if name in numbers}
    archives = {name: numbers[name] for name in ("max_bytes", "max_members", "max_ratio") if name in numbers}
    return FileLimits(replace(Limits(), **reading), replace(ShardLimits(), **archives))


def budgets_of(limits: Limits) -> dict[str, Any]:
    """The limits that belong in a fingerprint: they decide how much of a file is decoded, and so its logits.

    The other limits decide only whether a file is read. A user who raises one of those wants to see the files that it
    kept out, not to read all the others again."""
    return {name: value for name, value in asdict(limits).items() if name in _BUDGETS}


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    limits, archives = Limits(), ShardLimits()
    group = parser.add_argument_group(
        "limits",
        "A file over one of these limits becomes a row in `failures`, too_large, and is not decoded; the others go on. "
        "After raising one: --retry-failures=too_large. SIZE is in bytes, or ends in K, M, G or T (powers of 1024).",
    )
    add = group.add_argument
    add("--max-bytes", type=size, default=archives.max_bytes, metavar="SIZE", help="of a file or member (default 64G)")
    add(
        "--max-pixels",
        type=count,
        default=limits.max_pixels,
        metavar="N",
        help=f"of a frame (default {limits.max_pixels}; 8K has 33 million)",
    )
    add(
        "--max-duration",
        type=seconds,
        default=limits.max_duration_seconds,
        metavar="SECONDS",
        help=f"length of a file (default {limits.max_duration_seconds:.0f}, two days)",
    )
    add(
        "--max-streams",
        type=streams,
        default=limits.max_streams,
        metavar="N",
        help=f"streams or tracks in a file (default {limits.max_streams})",
    )
    add(
        "--max-samples",
        type=count,
        default=limits.max_samples,
        metavar="N",
        help=f"samples declared by an mp4 or mov (default {limits.max_samples})",
    )
    add(
        "--max-members",
        type=count,
        default=archives.max_members,
        metavar="N",
        help=f"members read from a tar or zip (default {archives.max_members})",
    )
    add(
        "--max-ratio",
        type=count,
        default=archives.max_ratio,
        metavar="N",
        help=f"inflated to deflated bytes of a zip member (default {archives.max_ratio})",
    )


def limits_of(args: argparse.Namespace) -> FileLimits:
    return FileLimits(
        Limits(
            max_pixels=args.max_pixels,
            max_duration_seconds=args.max_duration,
            max_streams=args.max_streams,
            max_samples=args.max_samples,
        ),
        ShardLimits(max_members=args.max_members, max_bytes=args.max_bytes, max_ratio=args.max_ratio),
    )


def size(text: str) -> int:
    """A size in bytes.

    >>> size("64G") == 64 << 30, size("1000")
    (True, 1000)

    Raises:
        argparse.ArgumentTypeError: `text` is not a size.
    """
    found = re.fullmatch(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    number = int(found[1]) * _SUFFIXES[found[2].lower()] if found else 0
    if not 0 < number < 1 << 62:
        raise argparse.ArgumentTypeError(f"expected a size such as 500M or 64G, got {text}")
    return number


def count(text: str) -> int:
    """A whole number from 1 to 2 billion, which FFmpeg's own limits can hold.

    Raises:
        argparse.ArgumentTypeError: `text` is not such a number.
    """
    number = int(text) if re.fullmatch(r"\d{1,10}", text.strip()) else 0
    if not 1 <= number <= 2_000_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 2000000000, got {text}")
    return number


def streams(text: str) -> int:
    """A whole number from 1 to 1000. This is FFmpeg's own limit, and the facts about 1000 streams still fit into one
    message of a decoder child.

    Raises:
        argparse.ArgumentTypeError: `text` is not such a number.
    """
    number = count(text)
    if number > 1000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1000, got {text}")
    return number


def seconds(text: str) -> float:
    """A number of seconds.

    Raises:
        argparse.ArgumentTypeError: `text` is not a number from 1 to 3e8 (almost ten years).
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 3e8:
        raise argparse.ArgumentTypeError(f"expected 1 second or more, got {text}")
    return number
