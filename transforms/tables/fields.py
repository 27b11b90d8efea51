"""Columns as the tables describe them, and those that several tables share."""

from __future__ import annotations

import pyarrow as pa


def field(name: str, kind: pa.DataType, description: str, unit: str = "none", polarity: str = "none") -> pa.Field:
    """A column, with what it means in its metadata."""
    return pa.field(name, kind, metadata={"description": description, "unit": unit, "polarity": polarity})


LOGIT_POLARITY = "> 0 = manipulated, < 0 = authentic"
RUN_ID = field("run_id", pa.string(), "the run that wrote the row; later runs sort after earlier ones")
MEDIA_ID = field("media_id", pa.string(), "sha256 of canonical URI, version and member; (run_id, media_id) is the key")
URI = field("uri", pa.string(), "canonical URI, control characters escaped; an absolute path for local files")
SANDBOX = field(
    "sandbox",
    pa.string(),
    "what confined the processes that parsed it: landlock+seccomp, landlock, seccomp or off; null if none did",
)
VERSION = field(
    "version",
    pa.string(),
    "version of the file (for a member, of its shard): ETag, generation, or size and modification time",
)
ONLY_OF_RUNS = ("run_id", "run_date", "evidence_run_id", "attempts")
"""Columns that only the tables of an audit have: rows that a Beam pipeline gets belong to no run."""
