"""The listing: from each source that a user names to every file in it.

Takes sources (file, folder, glob, fsspec URI, tar or zip shard, listing with a `uri` column), yields MediaFile.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import apache_beam as beam

from .archives.folders import (
    MAGIC,
    excluding,
    glob_local,
    in_order,
    is_pattern,
    is_web,
    shown_source,
    walk_local,
    walk_remote,
)
from .archives.listing_files import is_listing, read_listing
from .archives.members import ShardLimits
from .archives.named_sources import list_rows, look_up, objects_below
from .archives.secret_addresses import fetch_address, secret_addresses
from .archives.shards import list_members, member_file, shard_kind
from .failures import MediaError, NothingFound, UsageError, WorldError
from .media.containers.sniff import HEAD_BYTES, sniff
from .metrics import inc_counter
from .records import MediaFile, MediaOutcome
from .staging.spool_files import content
from .storage.retries import LISTING, ONCE
from .storage.sources import Found, LocalBlob, Planned, RemoteBlob, failed, open_blob, skipped
from .storage.uris import escape, is_member, is_remote, local_path, meanings, shards_of, split_remote

__all__ = [
    "EndedFile",
    "ListMedia",
    "ListingOptions",
    "expand",
    "fetch_address",
    "list_sources",
    "planned_of",
    "secret_addresses",
]

Identity = Literal["version", "content"]
_NO_SHARD = re.compile(
    r"\.(mp4|m4v|mov|mkv|webm|avi|wmv|flv|mpe?g|ts|mts|m2ts|3gp|ogv|mxf|gif|mp3|m4a|aac|wav|flac|ogg|opus|wma|aiff?"
    r"|jpe?g|png|webp|heic|avif|tiff?|bmp|svg|txt|json|xml|html?|csv|md|srt|vtt|pdf)$",
    re.IGNORECASE,
)
"""Remote files with these names are not opened to see whether they are shards: that is one request each, for millions
of files."""


_OLD_VERSION = re.compile(r"[?&](version_?id|generation)=|#\d+$", re.IGNORECASE)
_NO_VERSIONS = (
    "`?` and `#` are part of an object's name here, and older versions cannot be named: copy that version to a name "
    "of its own"
)


@dataclass(frozen=True, slots=True)
class ListingOptions:
    exclude: tuple[str, ...] = ()
    """Outputs. Only our own part of what is in them is left out (`folders.excluding`)."""
    identity: Identity = "version"
    """What media_id is a hash of: URI and version, or every byte of the file."""
    limits: ShardLimits = field(default_factory=ShardLimits)
    """Its `max_bytes` applies to plain files too, before they are read."""


def list_sources(
    sources: Sequence[str], options: ListingOptions | None = None, notice: Callable[[str], None] | None = None
) -> Iterator[Planned]:
    """Every file that the sources name. A file that is already known not to be media, or not to be readable, says so.

    A source named twice is listed twice: `plan_media` keeps each media_id once. `notice` is called with a sentence on
    anything that a user may have meant differently.

    Raises:
        UsageError: a source does not exist or cannot be opened; NothingFound: there is no file in any of them.
        WorldError: a store does not answer.
    """
    options = options or ListingOptions()
    some = False
    for source in sources:
        for entry in _list_source(source, options, notice or _log_notice):
            some = True
            yield entry
    if not some:
        raise NothingFound(f"nothing to audit: no file in {', '.join(shown_source(source) for source in sources)}")


def _log_notice(sentence: str) -> None:
    logging.getLogger(__name__).info("%s", sentence)


def _list_source(source: str, options: ListingOptions, notice: Callable[[str], None]) -> Iterator[Planned]:
    if is_member(source):
        yield from _list_member(source, options)
    elif is_remote(source):
        yield from _list_remote(source, options, notice)
    else:
        yield from _list_local(source, options, notice)


def _list_member(uri: str, options: ListingOptions) -> Iterator[Planned]:
    """One member of a shard, or those that share its name."""
    none, names = True, {escape(name) for name in meanings(uri)}
    for shard in shards_of(uri):
        _, found = look_up(shard, LISTING)
        for entry in expand([found], options, named=True) if found.trouble is None else ():
            if entry.file.uri in names:
                none = False
                yield entry
        if not none:
            return
    raise UsageError(f"{shown_source(uri)}: no such member")


def _list_local(source: str, options: ListingOptions, notice: Callable[[str], None]) -> Iterator[Planned]:
    if not source:
        raise UsageError("an empty source: expected a file, a folder, a glob or a URI")
    # If a file has exactly this name, it is meant, even if there are stars in it.
    name, found = look_up(source, LISTING)
    if found.trouble in ("folder", "linked_folder"):
        path = local_path(name)
        if not os.access(path, os.R_OK | os.X_OK):
            raise UsageError(f"{shown_source(source)}: no permission to read the folder")
        yield from expand(walk_local(path, excluding(options.exclude)), options)
    elif found.trouble == "missing" and MAGIC.search(source) and "\0" not in source:
        yield from expand(glob_local(source, excluding(options.exclude)), options)
    elif found.trouble == "missing":
        raise UsageError(f"{shown_source(source)}: no such file or folder")
    elif found.trouble is None and is_listing(source):
        yield from list_rows(read_listing(name, notice), options, expand)
    else:
        yield from expand([found], options, named=True)


def _list_remote(source: str, options: ListingOptions, notice: Callable[[str], None]) -> Iterator[Planned]:
    if is_listing(source):
        try:
            yield from list_rows(read_listing(source, notice), options, expand)
        except FileNotFoundError:
            raise UsageError(f"{shown_source(source)}: no such file or folder") from None
        return
    pattern, web = is_pattern(source), is_web(source)
    if web and split_remote(source)[0].endswith("/"):  # a page of links: the folders of the web
        yield from expand(walk_remote(source, False, excluding(options.exclude)), options)
        return
    try:
        name, found = look_up(source, ONCE if web and pattern else LISTING)
    except WorldError:
        if not (web and pattern):
            raise
        name, found = source, Found(source, b"", trouble="missing")  # the page with the links decides
    if found.trouble == "missing" and not web and _OLD_VERSION.search(source):
        raise UsageError(f"{shown_source(source)}: no such file or folder; {_NO_VERSIONS}")
    if found.trouble == "folder" or (found.trouble is None and name.endswith("/")):
        yield from expand(walk_remote(name, False, excluding(options.exclude)), options)
    elif found.trouble == "missing" and pattern:
        yield from expand(walk_remote(source, True, excluding(options.exclude)), options)
    elif found.trouble == "missing":
        raise UsageError(f"{shown_source(source)}: no such file or folder")
    else:
        if objects_below(name):
            shown = shown_source(name)
            notice(f"{shown} is an object, and only this object is audited; for the keys below it, name {shown}/")
        yield from expand([found], options, named=True)


def expand(entries: Iterable[Found], options: ListingOptions, named: bool = False) -> Iterator[Planned]:
    """Plan entries for what was found: the members for a shard, one entry for any other file."""
    for found, head in in_order(_with_head, entries, _waits):
        file = found.to_file()
        if found.trouble in _TROUBLES:
            error_class = _CLASSES.get(found.trouble, found.trouble)
            yield failed(file, MediaError(error_class, _TROUBLES[found.trouble], stage="listing"))
        elif found.trouble:
            yield skipped(file, found.trouble)
        elif isinstance(head, MediaError):
            yield failed(file, head)
        elif found.size_bytes == 0:
            yield skipped(file, "empty")
        elif head is not None and (kind := shard_kind(head, found.uri)):
            if kind == "unsupported" and named:
                raise UsageError(f"{found.uri}: {_UNSUPPORTED}")
            if kind == "unsupported":
                yield failed(file, MediaError("unsupported_archive", _UNSUPPORTED, stage="listing"))
            else:
                yield from _list_shard(file, kind, options, named)
        elif head is not None and (reason := sniff(head).reason):
            yield skipped(file, "not_media" if reason == "nested_archive" else reason)
        else:
            yield _identified(file, options)


_UNSUPPORTED = "members of a compressed archive cannot be read one at a time: unpack it, or make it a plain tar or zip"
_CLASSES = {"no_answer": "read_short", "needs_query": "unaddressable"}
_TROUBLES = {
    "missing": "no such file",
    "unreadable": "permission denied",
    "unknown_size": "the server does not say how large it is: download it first",
    "refused": "the store refuses this file but lets us read others",
    "needs_query": "its link has a query, which may be a secret and is not stored: name the full address in a listing",
    "unaddressable": "an object of this name cannot be requested from the store: rename or copy it there",
    "no_answer": "the store gives no valid answer about it, or answers far too slowly",
}


def _is_opened(found: Found) -> bool:
    """Whether the listing looks at the first bytes of a file."""
    return not found.trouble and found.size_bytes > 0 and not (is_remote(found.uri) and _NO_SHARD.search(found.uri))


def _waits(found: Found) -> bool:
    return is_remote(found.uri) and _is_opened(found)


def _with_head(found: Found) -> tuple[Found, bytes | MediaError | None]:
    """A file with its first bytes, or without them if they would cost a request and say little."""
    if not _is_opened(found):
        return found, None
    try:
        with open_blob(found.to_file()) as blob:
            return found, blob.read(0, min(HEAD_BYTES, found.size_bytes))
    except MediaError as error:
        return found, MediaError(error.error_class, error.message, stage="listing")
    except FileNotFoundError:
        return found, MediaError("missing", "it disappeared while it was being listed", stage="listing")


def _list_shard(
    shard: MediaFile, kind: Literal["tar", "zip"], options: ListingOptions, named: bool
) -> Iterator[Planned]:
    """The members of a shard. A shard found in a folder has its own row too, because it is one of the files there."""
    count = 0
    error: MediaError | None = None
    try:
        with open_blob(shard) as blob:
            for member in list_members(kind, blob, shard.size_bytes, options.limits):
                count += 1
                file = member_file(shard, kind, member)
                if member.failure:
                    yield failed(file, member.failure)
                elif member.skip:
                    yield skipped(file, member.skip)
                else:
                    yield _identified(file, options, blob)
    except MediaError as fault:
        error = fault
    except FileNotFoundError:
        error = MediaError("missing", "it disappeared while it was being listed", stage="listing")
    if error and error.error_class == "not_media":
        yield skipped(shard, "not_media")
    elif error:
        yield failed(shard, MediaError(error.error_class, error.message, stage="listing"))
    elif not named:
        yield skipped(shard, "shard" if count else "empty_archive")


def _identified(file: MediaFile, options: ListingOptions, blob: LocalBlob | RemoteBlob | None = None) -> Planned:
    """The file as a candidate. Its media_id is the hash of its bytes if the options want that."""
    if file.size_bytes > (most := options.limits.max_bytes):
        message = f"{file.size_bytes} bytes: at most {most} are allowed"
        return failed(file, MediaError("too_large", message, stage="listing"))
    if options.identity == "version":
        return Planned(file)
    try:
        if blob is None:
            with open_blob(file) as opened:
                return _identified(file, options, opened)
        digest = hashlib.sha256()
        for part in content(file, blob):
            digest.update(part)
        return Planned(replace(file, media_id=digest.hexdigest()))
    except MediaError as error:
        return failed(file, MediaError(error.error_class, error.message, stage="listing"))


@dataclass(frozen=True, slots=True)
class EndedFile(MediaFile):
    """A file that need not be read, because the listing found how it ends: not media, or not readable."""

    outcome: MediaOutcome | None = None
    """Never None, but the fields of a MediaFile before it have defaults."""


def planned_of(element: MediaFile | tuple[MediaFile, MediaOutcome | None]) -> tuple[MediaFile, MediaOutcome | None]:
    """A listed file, with its outcome if the listing knew it."""
    if isinstance(element, EndedFile) and element.outcome is not None:
        return element.outcome.file, element.outcome
    return (element, None) if isinstance(element, MediaFile) else element


@dataclass
class ListMedia(beam.PTransform):
    """Lists what the sources name. Takes the pipeline, yields MediaFile: every file that is there.

    Files that the listing itself finds not to be media, or not to be readable, are `EndedFile`, with their outcome.
    """

    sources: str | Sequence[str]
    options: ListingOptions = field(default_factory=ListingOptions)

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin):
        sources = [self.sources] if isinstance(self.sources, str) else list(self.sources)
        return (
            pbegin
            | beam.Create(sources)
            | beam.FlatMap(_list_one, self.options).with_output_types(MediaFile)
            # Without it, whoever lists a bucket would also score all of it: runners fuse steps into one stage.
            | "Spread" >> beam.Reshuffle()
        )

    def display_data(self):
        sources = [self.sources] if isinstance(self.sources, str) else self.sources
        return {"sources": ", ".join(map(shown_source, sources)), "identity": self.options.identity}


def _list_one(source: str, options: ListingOptions) -> Iterator[MediaFile]:
    for entry in _list_source(source, options, _log_notice):
        inc_counter("files_listed")
        yield entry.file if entry.outcome is None else _ended(entry.file, entry.outcome)


def _ended(file: MediaFile, outcome: MediaOutcome) -> EndedFile:
    return EndedFile(**{one.name: getattr(file, one.name) for one in fields(file)}, outcome=outcome)
