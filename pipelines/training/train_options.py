"""The arguments of `deephotlink train`. This file imports nothing that only a training needs."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..terminal.argument_types import positive

if TYPE_CHECKING:
    from .train import TrainConfig


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Trains audio, face_swap, facial, lip_sync or synthetic on real files; it makes the forgeries itself. "
        "The same command continues where the last one stopped."
    )
    parser.add_argument("name", metavar="NAME", help="the detector")
    parser.add_argument(
        "--media",
        nargs="+",
        action="extend",
        required=True,
        metavar="SOURCE",
        help="files, folders, or a CSV (uri; optional group, label, licence); only real files are used",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="for weights, card, checkpoints, decoded files")
    parser.add_argument("--labels", metavar="CSV", help="uri, group, label of the files; a group is never split")
    parser.add_argument(
        "--config", choices=("full", "small"), default="full", help="small: takes minutes, for a trial (default: full)"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of the whole training")
    parser.add_argument("--minutes", type=_minutes, metavar="M", help="stop after M minutes; run it again to continue")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--workers", type=_none_or_more, default=0, metavar="N", help="processes that prepare batches")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda:0 (default: auto)")
    parser.add_argument(
        "--init", metavar="PATH", help="weights to start from, or none (default: ImageNet's if it has some)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be learned from and held out; decode nothing"
    )


def train_config(args: argparse.Namespace) -> TrainConfig:
    """The parsed command as a frozen config."""
    from .train import TrainConfig

    given = {"labels": args.labels, "steps": args.steps, "minutes": args.minutes, "init": args.init}
    words = ["deephotlink", "train", args.name, "--media", *args.media, "--config", args.config]
    words += ["--seed", str(args.seed), "--workers", str(args.workers), "--device", args.device]
    words += [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
    return TrainConfig(
        name=args.name,
        media=tuple(map(os.path.expanduser, args.media)),
        output=Path(os.path.abspath(os.path.expanduser(args.output))),
        labels=None if args.labels is None else os.path.expanduser(args.labels),
        config=args.config,
        steps=args.steps,
        minutes=args.minutes,
        seed=args.seed,
        workers=args.workers,
        device=args.device,
        init=args.init,
        dry_run=args.dry_run,
        command=shlex.join([*words, "--output", args.output]),
    )


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise argparse.ArgumentTypeError(f"expected more than 0 minutes, got {text}")
    return minutes


def _none_or_more(text: str) -> int:
    if not text.isdigit() or int(text) > 256:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 256, got {text}")
    return int(text)
