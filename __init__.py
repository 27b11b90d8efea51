"""deephotlink: screens video archives for deepfakes as Apache Beam batch jobs.

Steps to compose in a Beam pipeline: `ListMedia`, `ScoreMedia`. What they yield: `MediaFile`, `MediaResult` with its
`MediaOutcome`, `AuthenticityScore`, `Evidence` and `Failure`. Tables of a finished audit: `read_scores`,
`read_evidence`, `read_evidence_frames`, `read_failures` and `read_skipped` give pyarrow datasets, and `query` gives
what an SQL query finds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Absolute, because pytest imports this file by itself too, under the name of whatever folder it lies in.
from deephotlink._version import __version__

if TYPE_CHECKING:
    from deephotlink.pipelines.audit import ScoreMedia
    from deephotlink.pipelines.outputs.datasets import (
        read_evidence,
        read_evidence_frames,
        read_failures,
        read_scores,
        read_skipped,
    )
    from deephotlink.pipelines.outputs.query import run_query as query
    from deephotlink.transforms.listing import ListMedia
    from deephotlink.transforms.records import (
        AuthenticityScore,
        Evidence,
        Failure,
        MediaFile,
        MediaOutcome,
        MediaResult,
    )

__all__ = [
    "AuthenticityScore",
    "Evidence",
    "Failure",
    "ListMedia",
    "MediaFile",
    "MediaOutcome",
    "MediaResult",
    "ScoreMedia",
    "__version__",
    "query",
    "read_evidence",
    "read_evidence_frames",
    "read_failures",
    "read_scores",
    "read_skipped",
]

_RECORDS = ("AuthenticityScore", "Evidence", "Failure", "MediaFile", "MediaOutcome", "MediaResult")
_READERS = ("read_evidence", "read_evidence_frames", "read_failures", "read_scores", "read_skipped")
_HOMES = {
    "ListMedia": ("transforms.listing", "ListMedia"),
    "ScoreMedia": ("pipelines.audit", "ScoreMedia"),
    "query": ("pipelines.outputs.query", "run_query"),
    **{name: ("transforms.records", name) for name in _RECORDS},
    **{name: ("pipelines.outputs.datasets", name) for name in _READERS},
}


def __getattr__(name: str) -> Any:
    # Late: the decoder children import this package too, and have no use for Beam, torch and DuckDB.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"deephotlink.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
