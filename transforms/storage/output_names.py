"""What our files in an output are called, below its root."""

from __future__ import annotations

TABLE_FOLDERS = ("evidence", "failures", "skipped", "scores")
"""Of the public tables: the names of `tables.schema.TABLES`."""
FOLDERS = ("_runs", "_resume", "_weights", *TABLE_FOLDERS)
"""All that is ours in an output, but for its page: whatever else lies there is the user's."""
PAGE = "summary.html"
"""What was found, for people; rewritten by each run."""
