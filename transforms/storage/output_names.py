"""Names of our files in an output, relative to its root."""

from __future__ import annotations

TABLE_FOLDERS = ("evidence", "evidence_frames", "failures", "skipped", "scores")
"""Folders of the public tables, with the names in `tables.schema.TABLES`."""
FLAT, HIVE = "flat", "hive"
"""The two layouts of the tables in an output (`Run.layout`). `hive`, with a folder for each day, is that of earlier
versions."""
ICEBERG = "_iceberg"
"""Folder of the Iceberg tables' own files, and of their catalog if it is SQLite."""
ICEBERG_NAMESPACE = "deephotlink"
"""Of the Iceberg tables, if nobody chooses another."""
FOLDERS = ("_runs", "_resume", "_weights", "_calibration", ICEBERG, *TABLE_FOLDERS)
"""All our folders in an output. Anything else there, except the page and the views, is the user's."""
PAGE = "report.html"
"""The findings, as a page for people. Each run rewrites it."""
OLD_PAGE = "summary.html"
"""The name that earlier versions gave it. Where one still lies, it is no file to audit."""
VIEWS_FILE = "views.sql"
"""The views over the tables, for DuckDB. Each run rewrites it."""
KNOWN_REAL = "_calibration/known_real.parquet"
"""URIs of the files that `audit --real` was given as real."""
CALIBRATION = "_calibration/calibration.json"
"""The calibration that `audit --real` made of them."""
