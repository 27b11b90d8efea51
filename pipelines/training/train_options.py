"""The arguments of `deephotlink train`; nothing here imports what only a training needs."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal.argument_types import positive

if TYPE_CHECKING:
    from .train import TrainConfig


def add_train_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a detector of ours on your own real media",
        description="Trains audio, facial, lip_sync or synthetic on real media; the forgeries are made on the fly. "
        "The same command again goes on where the last one stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="the detector")
    parser.add_argument(
        "--media",
        nargs="+",
        action="extend",
        required=True,
        metavar="SOURCE",
        help="files, folders, or a CSV with uri and perhaps group, label, licence: only rows that are real are used",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="weights, card, checkpoints, decoded material")
    parser.add_argument(
        "--labels", metavar="CSV", help="uri, group, label of the media: a group is never on both sides"
    )
    parser.add_argument(
        "--config", choices=("full", "small"), default="full", help="small: minutes, to try the way (default: full)"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="of the whole run")
    parser.add_argument("--minutes", type=_minutes, metavar="M", help="of this sitting; the same command goes on")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--workers", type=_none_or_more, default=0, metavar="N", help="processes that make batches")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda:0 (default: auto)")
    parser.add_argument(
        "--init", metavar="PATH", help="weights to begin with, or none (default: ImageNet's where a network has them)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be learned from and held; decode nothing"
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
        raise argparse.ArgumentTypeError(f"expected minutes above 0, got {text}")
    return minutes


def _none_or_more(text: str) -> int:
    if not text.isdigit() or int(text) > 256:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 256, got {text}")
    return int(text)
