"""`deephotlink iceberg` and `audit --iceberg`: the tables of an output as Apache Iceberg tables, by PyIceberg.

The Parquet files stay where they are and are not rewritten: an Iceberg table lists them. Each call adds the files that
are published and not listed yet, so calling it again changes nothing, and after a new run it adds that run's rows. Each
table changes in one commit, and evidence is there before the scores that rest on it. A call that was killed is made
good by the next one. If two add files at the same time, one of them sees that the table has changed and looks again.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from ....models.extras import lacking
from ....transforms.failures import UsageError, WorldError, printable
from ....transforms.storage.output_names import ICEBERG
from ....transforms.storage.output_names import ICEBERG_NAMESPACE as NAMESPACE
from ....transforms.storage.output_store import OutputStore, holds_runs
from ....transforms.storage.uris import redact
from ....transforms.tables.public_files import is_hive, public_schema
from ....transforms.tables.schema import TABLES
from ...terminal.wording import counted
from ..query import local_root, no_output, published_files

if TYPE_CHECKING:
    from ...terminal.parser import Parser

T = TypeVar("T")
LISTED = tuple(table for table in TABLES if table != "evidence_frames")
"""Pictures are left out, because `forget-pictures` replaces their files: Iceberg relies on files that never change."""
MOST_TRIES = 8
"""How often a table is read again that another process has changed meanwhile."""
_NO_RETRY = {"commit.retry.num-retries": "0"}
"""A property of the tables. PyIceberg would add the same files again to a table that has changed meanwhile, without a
look at whether they are in it by now."""


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


def check_catalog(out: str, catalog: str | None = None, namespace: str = NAMESPACE) -> None:
    """Refuses what `register` would refuse after an audit into `out`. Creates no table.

    Raises:
        UsageError: the packages are missing, the catalog cannot be used, or its tables are those of another output.
        WorldError: the store or the catalog does not answer.
    """
    store = _store(out)
    root = _root(store)
    if catalog is None and store.is_local and not Path(store.path(ICEBERG)).exists():
        return
    with _answering(out):
        found = _catalog(store, root, catalog)
        for table in LISTED:
            if found.table_exists((namespace, table)):
                place = str(found.load_table((namespace, table)).location())
                if place != f"{root}/{ICEBERG}/{table}":
                    raise _of_another((namespace, table), place)


def register(out: str, catalog: str | None = None, namespace: str = NAMESPACE) -> dict[str, tuple[int, int]]:
    """Adds the published files of `out` to its Iceberg tables, which it creates if they are missing.

    Returns, for each table, the number of files that were added, and of all that it lists.

    Raises:
        UsageError: there is no output, it was begun by an earlier version, or the catalog cannot be used.
        WorldError: other processes kept changing a table, or the store or the catalog does not answer.
    """
    store = _store(out)
    if not holds_runs(out):
        raise no_output(out)
    names = {table: published_files(store, table) for table in LISTED}
    root = _root(store)
    with _answering(out):
        found = _catalog(store, root, catalog)
        _once(partial(found.create_namespace_if_not_exists, namespace))
        return {
            table: _once(partial(_add, found, (namespace, table), root, [f"{root}/{name}" for name in listed]))
            for table, listed in names.items()
        }


def as_json(listed: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """What `register` returned, for `audit --json`."""
    return {table: {"added": added, "files": files} for table, (added, files) in listed.items()}


def in_words(listed: Mapping[str, Any], namespace: str) -> list[str]:
    """The same (as `as_json` gives it) as a line for people; none if nothing was asked for."""
    if not listed:
        return []
    added, files = (sum(one[key] for one in listed.values()) for key in ("added", "files"))
    tables = ", ".join(f"{namespace}.{table}" for table in listed)
    return [f"Listed in Iceberg: {counted(added, 'new file')}, {files} in all, in {tables}"]


def _store(out: str) -> OutputStore:
    """The store of an output, if Iceberg can list its files."""
    if (missing := lacking("Iceberg tables need", "iceberg")) is not None:
        raise UsageError(missing)
    store = OutputStore(out, patience_seconds=15.0)
    if any(is_hive(name) for table in LISTED for name in published_files(store, table)):
        raise UsageError(
            f"{out} was begun by an earlier version: its files lack the column run_date, which Iceberg needs; audit "
            "into a new output"
        )
    return store


@contextmanager
def _answering(out: str) -> Iterator[None]:
    """Wraps work with a catalog. Raises WorldError for what a catalog or a disk did wrong."""
    from pyiceberg.exceptions import CommitFailedException, RESTError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except CommitFailedException as e:
        raise WorldError(f"another process changed the Iceberg tables of {out} at the same time ({_first(e)})") from e
    except (SQLAlchemyError, RESTError, OSError) as e:
        raise WorldError(f"the Iceberg catalog of {out} does not answer ({_first(e)})") from e


def _once(change: Callable[[], T]) -> T:
    """What `change` returns. It is called again if another process made the same change, or one before it."""
    from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, TableAlreadyExistsError
    from sqlalchemy.exc import IntegrityError, OperationalError

    same = (NamespaceAlreadyExistsError, TableAlreadyExistsError, IntegrityError)
    raced = (CommitFailedException, OperationalError, *same)
    for attempt in range(MOST_TRIES - 1):
        try:
            return change()
        except raced:
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)  # noqa: S311  (a pause)
    return change()


def _add(catalog: Any, identifier: tuple[str, str], root: str, paths: list[str]) -> tuple[int, int]:
    schema = _described(public_schema(TABLES[identifier[1]]))
    table = catalog.create_table_if_not_exists(
        identifier, schema, location=f"{root}/{ICEBERG}/{identifier[1]}", properties=_NO_RETRY
    )
    if any(table.properties.get(name) != value for name, value in _NO_RETRY.items()):
        with table.transaction() as changed:
            changed.set_properties(_NO_RETRY)
        table = catalog.load_table(identifier)
    with table.update_schema() as update:
        update.union_by_name(schema)  # columns that a later version added
    known = set(table.inspect.data_files()["file_path"].to_pylist())
    if others := [path for path in known if not path.startswith(f"{root}/{identifier[1]}/")]:
        raise _of_another(identifier, others[0])
    if new := [path for path in paths if path not in known]:
        table.add_files(new)
    return len(new), len(known) + len(new)


def _of_another(identifier: tuple[str, str], place: str) -> UsageError:
    return UsageError(
        f"{'.'.join(identifier)} lists files of another output ({printable(redact(place), 300)}): choose another "
        "namespace or catalog (`iceberg --namespace`, `audit --iceberg-namespace`)"
    )


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
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    if catalog is None:
        if not store.is_local:
            raise UsageError(f"SQLite cannot lie in {root}: name a catalog, such as sqlite:///iceberg.db")
        folder = Path(store.path(ICEBERG))
        folder.mkdir(exist_ok=True)
        catalog = f"sqlite:///{folder}/catalog.db"
    try:
        if "://" in catalog or catalog.startswith("sqlite:"):
            try:
                return SqlCatalog(NAMESPACE, uri=catalog, warehouse=f"{root}/{ICEBERG}")
            except OperationalError:  # another process has made the tables of the catalog at the same time
                return SqlCatalog(NAMESPACE, uri=catalog, warehouse=f"{root}/{ICEBERG}")
        return load_catalog(catalog)
    except (SQLAlchemyError, ValueError, ImportError) as e:
        raise UsageError(f"cannot open the Iceberg catalog {printable(redact(catalog))}: {_first(e)}") from e


def _first(error: Exception) -> str:
    return printable(redact((str(error).splitlines() or [type(error).__name__])[0]), 200)
