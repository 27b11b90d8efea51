"""The steps as Beam YAML calls them: functions with named arguments. docs/beam.md has a pipeline."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Optional

from apache_beam.options.pipeline_options import PipelineOptions

from ...transforms.listing import ListingOptions, ListMedia
from ..limits import count, size, streams
from ..options import Identity
from ..terminal.argument_types import positive
from .audit_options import audit_actions
from .score_media import ScoreMedia

_WHOLE = (count, positive, streams)


def list_media(sources: Sequence[str], identity: str = "version") -> ListMedia:
    """Lists what the sources name.

    Args:
      sources: files, folders, globs, URIs, tars, zips or listings
      identity: how files are recognised: version or content
    """
    known: dict[str, Identity] = {"version": "version", "content": "content"}
    if identity not in known:
        raise ValueError(f"ListMedia: expected identity version or content, got {identity!r}")
    return ListMedia([sources] if isinstance(sources, str) else sources, ListingOptions(identity=known[identity]))


def score_media(**options: Any) -> ScoreMedia:
    known = [action.dest for action in audit_actions()]
    if unknown := sorted(set(options) - set(known)):
        close = get_close_matches(unknown[0], known, 1)
        raise ValueError(f"ScoreMedia has no option {unknown[0]}" + (f": did you mean {close[0]}?" if close else ""))
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("detectors"), (list, tuple)):
        given["detectors"] = ",".join(given["detectors"])
    return ScoreMedia.from_options(PipelineOptions.from_dictionary(given))


def _kind(action: argparse.Action) -> Any:
    if isinstance(action, argparse._StoreTrueAction):
        return Optional[bool]  # noqa: UP045 - Beam looks for a typing.Optional
    if isinstance(action, argparse._AppendAction) or action.dest == "detectors":
        return Optional[Sequence[str]]  # noqa: UP045
    if action.type in (None, size):
        return Optional[str]  # noqa: UP045
    return Optional[int] if action.type in _WHOLE else Optional[float]  # noqa: UP045


def _describe() -> None:
    """Gives `score_media` the options of `AuditOptions` as its arguments, for Beam and for people."""
    told = ["Scores media. Its outputs are scores, evidence, evidence_frames, failures and skipped.", "", "Args:"]
    told += [f"  {action.dest}: {(action.help or '').replace('%%', '%')}" for action in audit_actions()]
    score_media.__doc__ = "\n".join(told)
    keyword = inspect.Parameter.KEYWORD_ONLY
    score_media.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(one.dest, keyword, default=None, annotation=_kind(one)) for one in audit_actions()]
    )


_describe()
list_media._yaml_requires_inputs = False  # type: ignore[attr-defined]  # otherwise Beam wants one before a `List…`
