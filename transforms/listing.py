"""The listing: from what a user names to every file in it, each exactly once.

Takes sources (file, folder, glob, fsspec URI, tar or zip shard, listing with a `uri` column), yields MediaFile.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import Literal

import apache_beam as beam

from .failures import MediaError, NothingFound, UsageError
from .manifests import is_listing, read_listing
from .media.sniff import HEAD_BYTES, sniff
from .members import ShardLimits
from .metrics import inc_counter
from .records import MediaFile
from .retries import LISTING, READING, BadAddress, Patience
from .shards import list_members, member_file, shard_kind
from .sources import Found, LocalBlob, Planned, RemoteBlob, failed, look_local, look_remote, open_blob, skipped
from .staging import content
from .uris import SCHEME, escape, is_member, is_remote, local_path, name_bytes, split_remote, unescape
from .walk import MAGIC, excluding, glob_local, in_order, leads_up, shown_source, walk_local, walk_remote

Identity = Literal["version", "content"]
_NO_SHARD = re.compile(
    r"\.(mp4|m4v|mov|mkv|webm|avi|wmv|flv|mpe?g|ts|mts|m2ts|3gp|ogv|mxf|gif|mp3|m4a|aac|wav|flac|ogg|opus|wma|aiff?"
    r"|jpe?g|png|webp|heic|avif|tiff?|bmp|svg|txt|json|xml|html?|csv|md|srt|vtt|pdf)$",
    re.IGNORECASE,
)
"""Remote files of these names are not opened to see whether they are shards: a request each, for millions of them."""


@dataclass(frozen=True, slots=True)
class ListingOptions:
    exclude: tuple[str, ...] = ()
    """Outputs: of what lies there, only our own part is left out (`walk.excluding`)."""
    identity: Identity = "version"
    """What media_id is a hash of: URI and version, or every byte of the file."""
    limits: ShardLimits = field(default_factory=ShardLimits)
    """Its `max_bytes` holds for plain files too, before they are read."""


def list_sources(sources: Sequence[str], options: ListingOptions | None = None) -> Iterator[Planned]:
    """Every file that the sources name. What is known already not to be media, or not to be readable, says so.

    A source named twice is listed twice: `plan_media` keeps each media_id once.

    Raises:
        UsageError: a source does not exist or cannot be opened; NothingFound: all of them together hold nothing.
        WorldError: a store does not answer.
    """
    options = options or ListingOptions()
    some = False
    for source in sources:
        for entry in _list_source(source, options):
            some = True
            yield entry
    if not some:
        raise NothingFound(f"nothing to look at: no file in {', '.join(shown_source(source) for source in sources)}")


def secret_addresses(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(canonical URI, fetch URI) of whatever in these sources can only be fetched with a secret in its URI.

    A frozen plan does not hold secrets; who goes on with one puts them back from the sources named now.
    """
    for source in sources:
        # of a pattern, the folder that all its matches lie in
        folder = [MAGIC.split(source)[0].rpartition("/")[0] + "/"] if _is_pattern(source) else []
        for address in chain(folder, _addresses(source)):
            if is_remote(address) and (secret := split_remote(address)[1]):
                yield escape(split_remote(address)[0]), secret


def fetch_address(name: str, secrets: Mapping[str, str]) -> str | None:
    """The address with the secret for a canonical name, of what `secret_addresses` told; None where it needs none.

    The user and password that a folder or pattern was named with are good for what lies below it, and nothing else.

    >>> fetch_address("http://h/films/a.mp4", {"http://h/films/": "http://me:pw@h/films/"})
    'http://me:pw@h/films/a.mp4'
    >>> fetch_address("http://h.evil.com/films/a.mp4", {"http://h/films/": "http://me:pw@h/films/"})
    """
    scheme = SCHEME.match(name)
    if name in secrets or not scheme or leads_up(name) or "@" in _host(name):
        return secrets.get(name)
    folder = name
    while (folder := folder.rpartition("/")[0]) and len(folder) > scheme.end():
        # only on the web a folder's name always ends with a slash
        secret = secrets.get(folder + "/") or ("" if name.startswith("http") else secrets.get(folder, ""))
        if user := _host(secret).rpartition("@")[0]:
            return f"{scheme.group(0)}{user}@{unescape(name[scheme.end() :])}"
    return None


def _is_pattern(source: str) -> bool:
    """Of a remote source; `?` and `[` are plain characters of a URL."""
    shown = split_remote(source)[0]
    return "*" in shown if shown.startswith(("http://", "https://")) else bool(MAGIC.search(shown))


def _host(address: str) -> str:
    return SCHEME.sub("", address, count=1).partition("/")[0]


def _addresses(source: str) -> Iterator[str]:
    """The source and, of a listing, what it names; one that cannot be read (any more) gave the plan no secrets."""
    yield source
    try:
        if is_listing(source) and (is_remote(source) or look_local(local_path(source)).trouble is None):
            yield from read_listing(source)
    except (FileNotFoundError, UsageError, ValueError) as error:
        logging.getLogger(__name__).info("%s: no addresses in it (%s)", shown_source(source), error)


def _list_source(source: str, options: ListingOptions) -> Iterator[Planned]:
    if is_member(source):
        entries = [e for e in _list_source(source.rpartition("::")[2], options) if e.file.uri == source]
        if not entries:
            raise UsageError(f"{shown_source(source)}: no such member")
        yield from entries
    elif is_remote(source):
        yield from _list_remote(source, options)
    else:
        yield from _list_local(source, options)


def _list_local(source: str, options: ListingOptions) -> Iterator[Planned]:
    if not source:
        raise UsageError("an empty source: name a file, a folder, a glob or a URI")
    try:
        path = local_path(source)
    except ValueError:
        raise UsageError(f"{shown_source(source)}: no such file or folder") from None
    # what exists under that very name is meant, whatever stars are in it
    found = look_local(path) if b"\0" not in path else Found(escape(source), b"", trouble="missing")
    if os.path.isdir(path):
        if not os.access(path, os.R_OK | os.X_OK):
            raise UsageError(f"{shown_source(source)}: the folder may not be read")
        yield from _expand(walk_local(path, excluding(options.exclude)), options)
    elif found.trouble == "missing" and MAGIC.search(source):
        yield from _expand(glob_local(source, excluding(options.exclude)), options)
    elif found.trouble == "missing":
        raise UsageError(f"{shown_source(source)}: no such file or folder")
    elif found.trouble is None and is_listing(source):
        yield from _list_rows(read_listing(source), options)
    else:
        yield from _expand([found], options, named=True)


def _list_remote(source: str, options: ListingOptions) -> Iterator[Planned]:
    shown = split_remote(source)[0]
    web = shown.startswith(("http://", "https://"))
    if is_listing(source):
        try:
            yield from _list_rows(read_listing(source), options)
        except FileNotFoundError:
            raise UsageError(f"{shown_source(source)}: no such file or folder") from None
        return
    pattern = _is_pattern(source)
    page = web and (pattern or shown.endswith("/"))  # of links: the folders of the web
    found = None if page else look_remote(source)
    if found and found.trouble is None:
        yield from _expand([found], options, named=True)
    elif page or pattern or (found and found.trouble == "folder"):
        yield from _expand(walk_remote(source, pattern, excluding(options.exclude)), options)
    elif found and found.trouble == "missing":
        raise UsageError(f"{shown_source(source)}: no such file or folder")
    elif found:
        yield from _expand([found], options, named=True)


def _list_rows(uris: Iterable[str], options: ListingOptions) -> Iterator[Planned]:
    """The files that a listing names, also as our tables spell them; one that is not there is a failure of its own."""
    excluded = excluding(options.exclude)

    answered: set[str] = set()  # hosts and buckets

    def look_patiently(uri: str) -> Found:
        found = _look(uri, READING if _host(uri) in answered else LISTING)
        answered.add(_host(uri))
        return found

    def look(uri: str) -> Found:
        found = look_patiently(uri)
        name = unescape(uri) if found.trouble == "missing" else uri
        return found if name == uri or (other := look_patiently(name)).trouble == "missing" else other

    # Neighbours of one shard together: it is walked once for all of them.
    for shard, rows in groupby(uris, lambda uri: uri.rpartition("::")[2] if is_member(uri) else None):
        if shard is not None:
            yield from _named_members(set(rows), _expand([look(shard)], options))
            continue
        for found in in_order(look, rows):
            if not excluded(found.uri):
                folder = found.trouble in ("folder", "linked_folder")
                yield from _expand([replace(found, trouble="not_a_file") if folder else found], options)


def _named_members(uris: Set[str], entries: Iterable[Planned]) -> Iterator[Planned]:
    seen = set()
    for entry in entries:
        if entry.file.uri in uris:  # two members may be called the same
            seen.add(entry.file.uri)
            yield entry
    for uri in sorted(uris - seen):
        missing = Found(uri, name_bytes(uri), trouble="missing").to_file()
        yield failed(missing, MediaError("missing", "no such member", stage="listing"))


def _look(uri: str, patience: Patience) -> Found:
    try:
        return look_remote(uri, patience, one_of_many=True) if is_remote(uri) else look_local(local_path(uri))
    except (ValueError, BadAddress):  # a NUL, half a surrogate pair, a URL without a host
        shown = split_remote(uri)[0] if is_remote(uri) else uri
        return Found(escape(shown), name_bytes(shown), trouble="missing")


def _expand(entries: Iterable[Found], options: ListingOptions, named: bool = False) -> Iterator[Planned]:
    """What was found as entries of the plan: shards as their members, the rest as they are."""
    for found, head in in_order(_with_head, entries):
        file = found.to_file()
        if found.trouble in _TROUBLES:
            error_class = "read_short" if found.trouble == "no_answer" else found.trouble
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


_UNSUPPORTED = "members of a compressed archive cannot be read one by one: unpack it, or make it a plain tar or zip"
_TROUBLES = {
    "missing": "no such file",
    "unreadable": "it may not be read (permission denied)",
    "unknown_size": "the server does not say how long it is; download it first",
    "refused": "its store refuses it to us, and lets us have others",
    "no_answer": "what the store says of it is no answer, or comes byte by byte",
}


def _with_head(found: Found) -> tuple[Found, bytes | MediaError | None]:
    """A file with its first bytes; without them where they would cost a request and tell little."""
    if found.trouble or found.size_bytes == 0:
        return found, None
    file = found.to_file()
    if is_remote(found.uri) and _NO_SHARD.search(found.uri):
        return found, None
    try:
        with open_blob(file) as blob:
            return found, blob.read(0, min(HEAD_BYTES, found.size_bytes))
    except MediaError as error:
        return found, MediaError(error.error_class, error.message, stage="listing")
    except FileNotFoundError:
        return found, MediaError("missing", "it went while it was being listed", stage="listing")


def _list_shard(
    shard: MediaFile, kind: Literal["tar", "zip"], options: ListingOptions, named: bool
) -> Iterator[Planned]:
    """The members of a shard. One that was found in a folder has a row of its own too: it is one of the files there."""
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
        error = MediaError("missing", "it went while it was being listed", stage="listing")
    if error and error.error_class == "not_media":
        yield skipped(shard, "not_media")
    elif error:
        yield failed(shard, MediaError(error.error_class, error.message, stage="listing"))
    elif not named:
        yield skipped(shard, "shard" if count else "empty_archive")


def _identified(file: MediaFile, options: ListingOptions, blob: LocalBlob | RemoteBlob | None = None) -> Planned:
    """The file as a candidate; named by its bytes, if that is wanted."""
    if file.size_bytes > (most := options.limits.max_bytes):
        message = f"{file.size_bytes} bytes: at most {most} are read"
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


@dataclass
class ListMedia(beam.PTransform):
    """Lists what the sources name. Takes the pipeline, yields MediaFile: every file that may be media.

    What the listing itself can tell to be no media, or not to be readable, is counted and left out; with
    `known_outcomes` everything comes, as `Planned` (MediaFile, MediaOutcome | None).
    """

    sources: str | Sequence[str]
    options: ListingOptions = field(default_factory=ListingOptions)
    known_outcomes: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin):
        sources = [self.sources] if isinstance(self.sources, str) else list(self.sources)
        return pbegin | beam.Create(sources) | beam.FlatMap(_list_one, self.options, self.known_outcomes)


def _list_one(source: str, options: ListingOptions, known_outcomes: bool) -> Iterator[MediaFile | Planned]:
    left_out = 0
    for entry in _list_source(source, options):
        inc_counter("files_listed")
        if known_outcomes:
            yield entry
        elif entry.outcome is None:
            yield entry.file
        else:
            left_out += 1
    if left_out:
        logging.getLogger(__name__).info("%s: %d files are no media or cannot be read", shown_source(source), left_out)
