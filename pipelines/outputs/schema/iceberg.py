"""`deephotlink iceberg`: the tables of an output as Apache Iceberg tables, by PyIceberg.

The Parquet files stay where they are and are not rewritten: an Iceberg table lists them. Each call adds the files that
are published and not listed yet, so calling it again changes nothing, and after a new run it adds that run's rows. Each
table changes in one commit, and evidence is there before the scores that rest on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ....models.extras import lacking
from ....transforms.failures import UsageError, WorldError, printable
from ....transforms.storage.output_names import ICEBERG
from ....transforms.storage.output_store import OutputStore, holds_runs
from ....transforms.storage.uris import redact
from ....transforms.tables.public_files import is_hive, public_schema
from ....transforms.tables.schema import TABLES
from ...terminal.wording import counted
from ..query import local_root, no_output, published_files

if TYPE_CHECKING:
    from ...terminal.parser import Parser

NAMESPACE = "deephotlink"
LISTED = tuple(table for table in TABLES if table != "evidence_frames")
"""Pictures are left out, because `forget-pictures` replaces their files: Iceberg relies on files that never change."""


def add_iceberg_arguments(parser: Parser) -> None:
    parser.description = (
        "Lists the published files in Apache Iceberg tables, without rewriting them. Run it after each audit: it adds "
        "what is new."
    )
    parser.add_argument("output", metavar="OUT")
    parser.add_argument(
        "--catalog",
        metavar="CATALOG",
        help="a database as SQLAlchemy names it (sqlite:///FILE), or the name of a catalog in ~/.pyiceberg.yaml "
        f"(default: SQLite in OUT/{ICEBERG})",
    )
    parser.add_argument("--namespace", default=NAMESPACE, metavar="NAME", help=f"of the tables (default {NAMESPACE})")


def iceberg_command(args: argparse.Namespace) -> int:
    """Runs `register` and says what it added; returns the exit code."""
    for table, (added, files) in register(args.output, args.catalog, args.namespace).items():
        print(f"{args.namespace}.{table}: {counted(added, 'file')} added, {files} in all")
    return 0


def register(out: str, catalog: str | None = None, namespace: str = NAMESPACE) -> dict[str, tuple[int, int]]:
    """Adds the published files of `out` to its Iceberg tables, which it creates if they are missing.

    Returns, for each table, the number of files that were added, and of all that it lists.

    Raises:
        UsageError: there is no output, it was begun by an earlier version, or the catalog cannot be used.
        WorldError: another process changed a table at the same time, or the store does not answer.
    """
    if (missing := lacking("Iceberg tables need", "iceberg")) is not None:
        raise UsageError(missing)
    from pyiceberg.exceptions import CommitFailedException

    if not holds_runs(out):
        raise no_output(out)
    store = OutputStore(out, patience_seconds=15.0)
    names = {table: published_files(store, table) for table in LISTED}
    if any(is_hive(name) for listed in names.values() for name in listed):
        raise UsageError(
            f"{out} was begun by an earlier version: its files lack the column run_date, which Iceberg needs; audit "
            "into a new output"
        )
    root = _root(store)
    found = _catalog(store, root, catalog)
    try:
        found.create_namespace_if_not_exists(namespace)
        return {
            table: _add(found, (namespace, table), root, [f"{root}/{name}" for name in listed])
            for table, listed in names.items()
        }
    except CommitFailedException as e:
        raise WorldError(f"another process changed the Iceberg tables of {out} at the same time ({_first(e)})") from e


def _add(catalog: Any, identifier: tuple[str, str], root: str, paths: list[str]) -> tuple[int, int]:
    schema = _described(public_schema(TABLES[identifier[1]]))
    table = catalog.create_table_if_not_exists(identifier, schema, location=f"{root}/{ICEBERG}/{identifier[1]}")
    with table.update_schema() as update:
        update.union_by_name(schema)  # columns that a later version added
    known = set(table.inspect.data_files()["file_path"].to_pylist())
    if others := [path for path in known if not path.startswith(f"{root}/{identifier[1]}/")]:
        raise UsageError(
            f"{'.'.join(identifier)} lists files of another output ({others[0]}): choose another --namespace or "
            "--catalog"
        )
    if new := [path for path in paths if path not in known]:
        table.add_files(new)
    return len(new), len(known) + len(new)


def _described(schema: pa.Schema) -> pa.Schema:
    """The schema with the columns' meanings where PyIceberg looks for them."""
    told = [(field, (field.metadata or {}).get(b"description", b"").decode()) for field in schema]
    return pa.schema([field.with_metadata({"doc": meaning}) for field, meaning in told])


def _root(store: OutputStore) -> str:
    root = f"file://{local_root(store)}" if store.is_local else redact(store.root).rstrip("/")
    if store.is_local and (root.startswith("file:///proc/") or any(sign in root for sign in "#?%")):
        raise UsageError(f"Iceberg cannot name files in {printable(store.root)}: it has #, ? or % or is not UTF-8")
    return root


def _catalog(store: OutputStore, root: str, catalog: str | None) -> Any:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy.exc import SQLAlchemyError

    if catalog is None:
        if not store.is_local:
            raise UsageError(f"SQLite cannot lie in {root}: name a catalog, such as --catalog sqlite:///iceberg.db")
        folder = Path(store.path(ICEBERG))
        folder.mkdir(exist_ok=True)
        catalog = f"sqlite:///{folder}/catalog.db"
    try:
        if "://" in catalog or catalog.startswith("sqlite:"):
            return SqlCatalog(NAMESPACE, uri=catalog, warehouse=f"{root}/{ICEBERG}")
        return load_catalog(catalog)
    except (SQLAlchemyError, ValueError, ImportError) as e:
        raise UsageError(f"cannot open the Iceberg catalog {printable(redact(catalog))}: {_first(e)}") from e


def _first(error: Exception) -> str:
    return printable(redact((str(error).splitlines() or [type(error).__name__])[0]), 200)
