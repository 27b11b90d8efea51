"""deephotlink: screens video archives for deepfakes as Apache Beam batch jobs.

Steps to compose in a Beam pipeline: `ListMedia` yields `MediaFile`. `ScoreMedia` takes files by name and yields rows
with a schema: `ScoreRow`, `EvidenceRow`, `EvidenceFrameRow`, `FailureRow` and `SkippedRow`. `AuditOptions` puts the
options of an audit among Beam's. `as_dict` and `bigquery_schema` are for BigQuery. `AssessMedia` is the step inside
`ScoreMedia`: it yields everything about a file in one record, a `MediaResult` with its `MediaOutcome`,
`AuthenticityScore`, `Evidence` and `Failure`.

Tables of a finished audit: `read_scores`, `read_evidence`, `read_evidence_frames`, `read_failures` and `read_skipped`
give pyarrow datasets, and `query` gives what an SQL query finds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Absolute, because pytest imports this file by itself too, under the name of whatever folder it lies in.
from deephotlink._version import __version__

if TYPE_CHECKING:
    from deephotlink.pipelines.audit import AssessMedia
    from deephotlink.pipelines.outputs.datasets import (
        read_evidence,
        read_evidence_frames,
        read_failures,
        read_scores,
        read_skipped,
    )
    from deephotlink.pipelines.outputs.query import run_query as query
    from deephotlink.pipelines.plugin.audit_options import AuditOptions
    from deephotlink.pipelines.plugin.score_media import ScoreMedia
    from deephotlink.transforms.listing import ListMedia
    from deephotlink.transforms.records import (
        AuthenticityScore,
        Evidence,
        Failure,
        MediaFile,
        MediaOutcome,
        MediaResult,
    )
    from deephotlink.transforms.tables.beam_rows import (
        EvidenceFrameRow,
        EvidenceRow,
        FailureRow,
        ScoreRow,
        SkippedRow,
        as_dict,
        bigquery_schema,
    )

__all__ = [
    "AssessMedia",
    "AuditOptions",
    "AuthenticityScore",
    "Evidence",
    "EvidenceFrameRow",
    "EvidenceRow",
    "Failure",
    "FailureRow",
    "ListMedia",
    "MediaFile",
    "MediaOutcome",
    "MediaResult",
    "ScoreMedia",
    "ScoreRow",
    "SkippedRow",
    "__version__",
    "as_dict",
    "bigquery_schema",
    "query",
    "read_evidence",
    "read_evidence_frames",
    "read_failures",
    "read_scores",
    "read_skipped",
]

_RECORDS = ("AuthenticityScore", "Evidence", "Failure", "MediaFile", "MediaOutcome", "MediaResult")
_READERS = ("read_evidence", "read_evidence_frames", "read_failures", "read_scores", "read_skipped")
_ROWS = ("EvidenceFrameRow", "EvidenceRow", "FailureRow", "ScoreRow", "SkippedRow", "as_dict", "bigquery_schema")
_HOMES = {
    "AssessMedia": ("pipelines.audit", "AssessMedia"),
    "AuditOptions": ("pipelines.plugin.audit_options", "AuditOptions"),
    "ListMedia": ("transforms.listing", "ListMedia"),
    "ScoreMedia": ("pipelines.plugin.score_media", "ScoreMedia"),
    "query": ("pipelines.outputs.query", "run_query"),
    **{name: ("transforms.records", name) for name in _RECORDS},
    **{name: ("transforms.tables.beam_rows", name) for name in _ROWS},
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
