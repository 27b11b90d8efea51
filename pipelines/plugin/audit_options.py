"""`AuditOptions`: the options of `deephotlink audit` that make sense in a Beam pipeline of one's own."""

from __future__ import annotations

import argparse
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from ..options import AuditConfig, add_audit_arguments, add_work_arguments, audit_config
from ..runners import is_in_process
from ..terminal.parser import Parser

_OF_THE_COMMAND = frozenset({"limit", "wave_size", "unit_size", "workers", "quiet", "as_json"})
"""What only commands can do: they plan, commit and print."""


class AuditOptions(PipelineOptions):
    """Which detectors run, how densely files are looked at, and within which limits.

    They are the options of `deephotlink audit`, with the same meanings and defaults, spelt with `_` as Beam's are or
    with `-` as the command's are: `--detectors=audio,metadata --every=5 --max_pixels=36000000`.
    """

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for action in audit_actions():
            flags = [flag for flag in action.option_strings if flag.startswith("--")]
            names = dict.fromkeys(name for flag in flags for name in (f"--{flag[2:].replace('-', '_')}", flag))
            if isinstance(action, argparse._StoreTrueAction):
                parser.add_argument(*names, dest=action.dest, action="store_true", help=action.help)
                continue
            more = {"action": "append"} if isinstance(action, argparse._AppendAction) else {}
            parser.add_argument(
                *names,
                dest=action.dest,
                type=action.type,
                default=action.default,
                choices=action.choices,
                metavar=action.metavar,
                help=action.help,
                **more,  # type: ignore[arg-type]
            )


def config_of(options: PipelineOptions) -> AuditConfig:
    """What the options among a pipeline's options ask for. It has neither sources nor an output.

    Raises:
        UsageError: a detector, calibration or weights file is unknown, or the device does not exist.
    """
    given = options.view_as(AuditOptions)
    parser = Parser(add_help=False)
    add_audit_arguments(parser)
    args = parser.parse_args(["source", "--output", "output"])
    for action in audit_actions():
        setattr(args, action.dest, getattr(given, action.dest))
    runner = options.view_as(StandardOptions).runner
    # On other machines the device is not that of this one.
    return audit_config(args, () if is_in_process(runner) else (f"--runner={runner}",))


def audit_actions() -> list[Any]:
    parser = Parser(add_help=False)
    add_work_arguments(parser)
    return [action for action in parser._actions if action.dest not in _OF_THE_COMMAND]
