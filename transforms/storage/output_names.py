"""Names of our files in an output, relative to its root."""

from __future__ import annotations

TABLE_FOLDERS = ("evidence", "failures", "skipped", "scores")
"""Folders of the public tables, with the names in `tables.schema.TABLES`."""
FOLDERS = ("_runs", "_resume", "_weights", *TABLE_FOLDERS)
"""All our folders in an output. Anything else there, except the page, is the user's."""
PAGE = "summary.html"
"""The findings, as a page for people. Each run rewrites it."""
