"""From what Beam's own sources give to files that can be scored."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import apache_beam as beam
from apache_beam import coders
from apache_beam.io.fileio import ReadableFile
from apache_beam.io.filesystem import FileMetadata
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.typehints import typehints
from apache_beam.typehints.decorators import TypeCheckError
from apache_beam.typehints.row_type import RowTypeConstraint

from ...transforms.archives.named_sources import list_rows
from ...transforms.failures import MediaError, UsageError, WorldError, printable
from ...transforms.listing import ListingOptions, expand, planned_of
from ...transforms.metrics import inc_counter
from ...transforms.records import MediaFile, MediaOutcome
from ...transforms.storage.retries import BadAddress
from ...transforms.storage.sources import Found, Planned, failed
from ...transforms.storage.uris import escape, is_member, name_bytes, redact, scheme_of, shards_of

COLUMN = "uri"
"""The column that names the file, in rows and dicts."""
EXPECTED = (
    "expected URIs (str, bytes or a path), what beam.io.fileio gives (FileMetadata or ReadableFile), MediaFile, or "
    f"rows and dicts with a column `{COLUMN}` or with only one column"
)
_ONE_OF = (str, bytes, os.PathLike, FileMetadata, ReadableFile, MediaFile)
_SERVERS = frozenset({"http", "https", "ftp", "sftp", "ssh"})
_STORES = _SERVERS | {"file", "s3", "gs", "az", "memory"}
"""Schemes that we read. If reading one of them fails, the store or the installation is at fault."""


@dataclass
class FindMedia(beam.PTransform):
    """Finds the files that elements name, each once in a window. Takes what `EXPECTED` says, yields Planned.

    A file that does not exist or cannot be read, a folder, and what is not media come out with their outcome. A tar or
    zip becomes its members. The files are spread over the workers, whoever named them.
    """

    options: ListingOptions = field(default_factory=ListingOptions)

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pcoll):
        check_element_type(pcoll.element_type)
        return (
            pcoll
            | "Find" >> beam.FlatMap(find_media, self.options)
            | "KeyByMedia" >> beam.Map(_keyed).with_output_types(tuple[str, object])
            | "Once" >> beam.ParDo(_Once())
            # Without it, runners may end a bundle after each key, and batches would not be filled across files.
            | "Spread" >> beam.Reshuffle()
        )


def check_element_type(kind: Any) -> None:
    """Checks what is known of a PCollection's elements when the pipeline is made.

    Raises:
        TypeCheckError: they cannot name files.
    """
    row = kind if isinstance(kind, RowTypeConstraint) else RowTypeConstraint.from_user_type(kind)
    got = None
    if row is not None and kind is not Planned:
        columns = [name for name, _ in row._fields]
        got = None if COLUMN in columns or len(columns) == 1 else f"rows with the columns {', '.join(columns)}"
    elif isinstance(kind, typehints.TupleConstraint):
        first = kind.tuple_types[0] if kind.tuple_types else None
        got = None if first in (MediaFile, typehints.Any) else str(kind)
    elif isinstance(kind, typehints.SequenceTypeConstraint):
        got = str(kind)
    elif isinstance(kind, type) and kind is not object and not issubclass(kind, (*_ONE_OF, Mapping, tuple)):
        got = kind.__name__
    if got is not None:
        raise TypeCheckError(f"ScoreMedia: {EXPECTED}, got {got}")


def find_media(element: Any, options: ListingOptions) -> Iterator[Planned]:
    """The file that an element names, or the members of that shard.

    Raises:
        UsageError: the element cannot name a file, or the package for its store is not installed.
        WorldError: a store does not answer.
    """
    if isinstance(element, MediaFile) or _is_planned(element):
        yield Planned(*planned_of(element))
        return
    uri = uri_of(element)
    inc_counter("files_listed")
    if not uri.strip():
        yield _failed(uri, "missing", "the URI is empty")
        return
    try:
        yield from list_rows([uri], options, expand)
    except (UsageError, WorldError) as error:
        if (fault := _fault_of_uri(uri, error)) is None:
            raise
        yield _failed(uri, *fault)


def uri_of(element: Any) -> str:
    """The URI or path in an element.

    Raises:
        UsageError: there is none.
    """
    named = element
    if isinstance(element, ReadableFile):
        named = element.metadata.path
    elif isinstance(element, FileMetadata):
        named = element.path
    elif (columns := _columns_of(element)) is not None:
        # Beam's `Create` and `ReadFromText` in YAML make rows with one column, `element` or `line`.
        named = next(iter(columns.values())) if len(columns) == 1 else columns.get(COLUMN)
    if isinstance(named, (str, bytes, os.PathLike)):
        return os.fsdecode(named)
    raise UsageError(f"ScoreMedia: {EXPECTED}, got {type(element).__name__}: {printable(redact(repr(element)), 200)}")


def _columns_of(element: Any) -> Mapping[Any, Any] | None:
    if isinstance(element, Mapping):
        return element
    if isinstance(element, beam.Row):
        return element.as_dict()
    return element._asdict() if hasattr(element, "_fields") else None


def _is_planned(element: Any) -> bool:
    if not (isinstance(element, tuple) and len(element) == 2 and isinstance(element[0], MediaFile)):
        return False
    return element[1] is None or isinstance(element[1], MediaOutcome)


def _fault_of_uri(uri: str, error: UsageError | WorldError) -> tuple[str, str] | None:
    """What is wrong with this URI alone, as error class and message; None if a store or the installation is at fault,
    which every other URI there would meet too."""
    address = shards_of(uri)[-1] if is_member(uri) else uri
    scheme = scheme_of(address)
    if scheme not in _STORES or isinstance(error, BadAddress):
        return "unaddressable", str(error)
    if scheme in _SERVERS and _no_such_host(address):
        return "missing", "there is no server of this name"
    return None


def _no_such_host(address: str) -> bool:
    """Whether the name service says that there is no such host. If the name service itself is down, nobody knows."""
    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except socket.gaierror as error:
        return error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
    except (ValueError, UnicodeError):  # no valid name of a host
        return True
    return False


def _failed(uri: str, error_class: str, message: str) -> Planned:
    shown = redact(uri)
    return failed(Found(escape(shown), name_bytes(shown)).to_file(), MediaError(error_class, message, stage="listing"))


def _keyed(planned: Planned) -> tuple[str, Planned]:
    return planned.file.media_id, planned


class _Once(beam.DoFn):
    """Passes on the first of each media_id in a window. Takes (media_id, Planned), yields Planned."""

    SEEN = ReadModifyWriteStateSpec("seen", coders.BooleanCoder())
    _STATE = beam.DoFn.StateParam(SEEN)

    def process(self, keyed: tuple[str, Planned], seen: Any = _STATE) -> Iterator[Planned]:
        if not seen.read():
            seen.write(True)
            yield keyed[1]
