"""The arguments of `deephotlink forge`. This file imports nothing that only forging needs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..terminal.argument_types import positive, positive_seconds

FAMILY_OF: Mapping[str, str] = {
    "blended": "face_swap",
    "swapped": "face_swap",
    "coarse": "reenactment",
    "resynthesised": "synthetic",
    "stylised": "synthetic",
    "vocoded": "speech",
    "shifted": "dubbing",
    "dubbed": "dubbing",
}
"""Kind → family, as labels name it. `coarse`: the same face, rebuilt from few pixels."""
Part = Literal["held", "fit", "all"]


@dataclass(frozen=True, slots=True)
class ForgeConfig:
    sources: tuple[str, ...]
    output: str
    labels: str | None = None
    """CSV that names the real files among the sources, and their groups."""
    labels_out: str | None = None
    """Where to write the labels; None: labels.csv in the output."""
    kinds: tuple[str, ...] = tuple(FAMILY_OF)
    part: Part = "held"
    """Which groups to use: those held out from training, those that training learns from, or all."""
    seed: int = 0
    seconds: float = 6.0
    """Seconds used of each source, from its start."""
    short_side: int = 480
    """Pixels. Larger pictures, real and forged, are scaled down to this."""


def add_forge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes forged files made from real ones, and the real ones put through the same chain. "
        f"Kinds: {', '.join(FAMILY_OF)}. Needs the extra `train`."
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="files or folders of real video and sound")
    add("--output", required=True, metavar="DIR", help="a new folder for the files, labels.csv and forged.json")
    add("--labels", metavar="CSV", help="uri, label, group of the sources; only real ones are used")
    add("--labels-out", metavar="CSV", help="write the labels there (default: labels.csv in DIR)")
    add("--kinds", metavar="KINDS", help="comma-separated kinds (default: all)")
    add("--part", choices=("held", "fit", "all"), default="held", help="groups held out, learned from, or all")
    add("--seed", type=int, default=0, metavar="S")
    add("--seconds", type=positive_seconds, default=6.0, metavar="SECONDS", help="of each source (default 6)")
    add("--short-side", type=positive, default=480, metavar="PX", help="reduce larger pictures (default 480)")


def forge_config(args: argparse.Namespace) -> ForgeConfig:
    kinds = tuple(FAMILY_OF) if args.kinds is None else tuple(k.strip() for k in args.kinds.split(",") if k.strip())
    return ForgeConfig(
        sources=tuple(args.sources),
        output=args.output,
        labels=args.labels,
        labels_out=args.labels_out,
        kinds=kinds,
        part=args.part,
        seed=args.seed,
        seconds=args.seconds,
        short_side=args.short_side,
    )
