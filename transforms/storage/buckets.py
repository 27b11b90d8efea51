"""Objects of a bucket by their exact keys: pages of a listing, details of an object, ranges of it.

The paths of fsspec's clients cannot name every key. They drop slashes at either end, take `?versionId=` and `#1` for
versions, and make folders of prefixes, which hide the object of the same name. So this module calls the clients below
the level of paths, with their own connections, credentials and retries.
"""

from __future__ import annotations

import errno
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .requests import in_time, seconds_for
from .retries import OddRead
from .uris import SCHEME, scheme_of, split_remote

PAGE_KEYS = 1000
"""The most keys that S3 and GCS return in one answer."""
_PAGE_BYTES = 2 << 20
"""The most bytes of a page on the wire. Sets how long we wait for one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a page of the store's listing describes it."""

    key: str
    info: Mapping[str, Any]
    """`size`, `type` and the fields that `sources.version_of` reads, as `Objects.info` gives them."""

    @property
    def is_mark(self) -> bool:
        """Whether it has no bytes and only marks a folder. Consoles and mounts create such objects."""
        return self.info["type"] == "directory" or (not self.info["size"] and self.key.endswith("/"))


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[Entry]
    next: str | None
    """What requests the next page; None on the last."""


class Objects(ABC):
    """One bucket or container. `fs` is fsspec's client of its store, `key` the key that the address names."""

    page_keys = PAGE_KEYS

    def __init__(self, fs: Any, address: str):
        self.fs = fs
        self._host, self.key = self.split(split_remote(address)[0])
        self._scheme = scheme_of(address)

    @property
    def bucket(self) -> str:
        return self._host

    @property
    def has_bucket(self) -> bool:
        """Whether the address names a bucket, and not a pattern or the whole store."""
        return bool(self._host) and not re.search(r"[*?\[]", self._host)

    def split(self, shown: str) -> tuple[str, str]:
        """Bucket (as spelt in the URI) and key."""
        host, _, key = SCHEME.sub("", shown, count=1).partition("/")
        return host, key

    def uri(self, key: str) -> str:
        """The object's URI, not escaped."""
        return f"{self._scheme}://{self._host}/{key}"

    def is_addressable(self, key: str) -> bool:
        """Whether `uri(key)` leads back to this very object."""
        uri = self.uri(key)
        return bool(key) and split_remote(uri)[0] == uri and self.split(uri) == (self._host, key)

    @abstractmethod
    def page(self, prefix: str, after: str | None = None, most: int = 0) -> Page:
        """One page of the objects whose keys begin with `prefix`: the first, or with `after=page.next` the next one."""

    @abstractmethod
    def info(self, key: str) -> Mapping[str, Any]:
        """What the store says about one object. Raises FileNotFoundError."""

    @abstractmethod
    def range_of(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes. Raises FileNotFoundError."""

    def look(self) -> Mapping[str, Any]:
        """What is at the address: the object, or else a folder if longer keys begin with it.

        Raises:
            FileNotFoundError: neither.
        """
        if not self.has_bucket:
            if self._host:
                raise FileNotFoundError(self._host)
            return {"type": "directory", "size": 0}
        with suppress(FileNotFoundError):
            if self.key and ((info := self.info(self.key))["size"] or not self.key.endswith("/")):
                return info
        below = self.key if not self.key or self.key.endswith("/") else self.key + "/"
        if self.page(below, most=1).entries or not self.key:
            return {"type": "directory", "size": 0}
        raise FileNotFoundError(self.uri(self.key))

    def _wait(self, length: int, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return in_time(self.fs, seconds_for(length), call, *args)


class S3Objects(Objects):
    """Objects of S3, read by s3fs."""

    def split(self, shown: str) -> tuple[str, str]:
        # An access point has a slash in its name.
        bucket, key = self.fs._find_bucket_key(SCHEME.sub("", shown, count=1))
        return bucket, key

    def page(self, prefix: str, after: str | None = None, most: int = 0) -> Page:
        more = {"ContinuationToken": after} if after else {}
        wanted = {"Bucket": self.bucket, "Prefix": prefix, "MaxKeys": most or self.page_keys, **more}

        async def listed() -> Any:
            return await self.fs._call_s3("list_objects_v2", **wanted)

        answer = self._wait(_PAGE_BYTES, listed)
        following = answer.get("NextContinuationToken")
        if answer.get("IsTruncated") and not following:
            raise OddRead("a page of the listing says that there are more, but not how to request them")
        return Page([_s3_entry(item) for item in answer.get("Contents", ())], following)

    def info(self, key: str) -> Mapping[str, Any]:
        async def looked() -> Any:
            return await self.fs._call_s3("head_object", Bucket=self.bucket, Key=key)

        answer = self._wait(0, looked)
        return {**answer, "size": answer["ContentLength"], "type": "file"}

    def range_of(self, key: str, start: int, length: int) -> bytes:
        async def got() -> bytes:
            span = f"bytes={start}-{start + length - 1}"
            answer = await self.fs._call_s3("get_object", Bucket=self.bucket, Key=key, Range=span)
            try:
                return bytes(await answer["Body"].read())
            finally:
                answer["Body"].close()

        return bytes(self._wait(length, got))


def _s3_entry(item: Mapping[str, Any]) -> Entry:
    return Entry(str(item["Key"]), {**item, "size": int(item["Size"]), "type": "file"})


class GoogleObjects(Objects):
    """Objects of Google Cloud Storage, read by gcsfs."""

    def page(self, prefix: str, after: str | None = None, most: int = 0) -> Page:
        wanted = {"prefix": prefix or None, "pageToken": after, "maxResults": most or self.page_keys}

        async def listed() -> Any:
            return await self.fs._call("GET", "b/{}/o", self.bucket, json_out=True, **wanted)

        answer = self._wait(_PAGE_BYTES, listed)
        entries = [Entry(str(item["name"]), self._info(item)) for item in answer.get("items", ())]
        return Page(entries, answer.get("nextPageToken"))

    def _info(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(self.fs._process_object(self.bucket, item))

    def info(self, key: str) -> Mapping[str, Any]:
        async def looked() -> Any:
            return await self.fs._call("GET", "b/{}/o/{}", self.bucket, key, json_out=True)

        try:
            return self._info(self._wait(0, looked))
        except PermissionError:
            # We may be allowed to list objects but not to look one up. Of all keys with this prefix, the key itself
            # is listed first.
            first = self.page(key, most=1).entries
            if first and first[0].key == key:
                return first[0].info
            raise

    def range_of(self, key: str, start: int, length: int) -> bytes:
        place = f"{self.fs._location}/download/storage/v1/b/{self.bucket}/o/{quote(key, safe='')}?alt=media"

        async def got() -> Any:
            return await self.fs._call("GET", place, headers={"Range": f"bytes={start}-{start + length - 1}"})

        return bytes(self._wait(length, got)[1])

    def _wait(self, length: int, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Turns what gcsfs raises (bare OSErrors and ValueErrors) into Python's own exceptions."""
        try:
            return super()._wait(length, call, *args)
        except ValueError as error:
            if "requester pays" in str(error):
                raise PermissionError(
                    "this bucket is requester-pays: set FSSPEC_GS_REQUESTER_PAYS to the project that pays"
                ) from None
            raise OSError(errno.EINVAL, str(error).partition("\n")[2] or str(error)) from None
        except OSError as error:
            if str(error).startswith("Forbidden"):
                raise PermissionError(str(error).partition("\n")[2] or "Forbidden") from None
            raise

    def is_addressable(self, key: str) -> bool:
        return key not in (".", "..") and super().is_addressable(key)


class AzureObjects(Objects):
    """Objects of Azure Blob Storage, read by adlfs."""

    @property
    def bucket(self) -> str:
        return self._host.partition("@")[0]

    def page(self, prefix: str, after: str | None = None, most: int = 0) -> Page:
        wanted = {"name_starts_with": prefix or None, "results_per_page": most or self.page_keys}

        async def listed() -> Page:
            async with self.fs.service_client.get_container_client(container=self.bucket) as container:
                found = container.list_blobs(include=["metadata"], **wanted)
                pages = found.by_page(after)
                async for page in pages:
                    return Page([_azure_entry(blob) async for blob in page], pages.continuation_token or None)
                return Page([], None)

        with _azure_answers():
            return self._wait(_PAGE_BYTES, listed)

    def info(self, key: str) -> Mapping[str, Any]:
        async def looked() -> Any:
            async with self.fs.service_client.get_blob_client(container=self.bucket, blob=key) as client:
                return await client.get_blob_properties()

        with _azure_answers():
            return _azure_entry(self._wait(0, looked)).info

    def range_of(self, key: str, start: int, length: int) -> bytes:
        async def got() -> bytes:
            async with self.fs.service_client.get_blob_client(container=self.bucket, blob=key) as client:
                stream = await client.download_blob(offset=start, length=length)
                return bytes(await stream.readall())

        with _azure_answers():
            return bytes(self._wait(length, got))

    def is_addressable(self, key: str) -> bool:
        # Azure's own client removes these parts from its URLs.
        return not {".", ".."} & set(key.split("/")) and super().is_addressable(key)


@contextmanager
def _azure_answers() -> Iterator[None]:
    """Turns Azure's error for a missing object into FileNotFoundError."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "ResourceNotFoundError":
            raise FileNotFoundError(getattr(error, "error_code", None)) from None
        raise


def _azure_entry(blob: Any) -> Entry:
    info = {"size": blob.size, "type": "file", "etag": blob.etag, "last_modified": blob.last_modified}
    # In an account with a hierarchical namespace each folder is an object with such metadata.
    words = {str(name).lower(): value for name, value in (blob.metadata or {}).items()}
    is_folder = not blob.size and "true" in (words.get("hdi_isfolder"), words.get("is_directory"))
    return Entry(str(blob.name), {**info, "type": "directory"} if is_folder else info)


class MemoryObjects(Objects):
    """Objects of fsspec's memory file system, whose names all begin with a slash."""

    page_keys = 1 << 16
    """Large, because each page scans everything."""
    has_bucket = True

    def split(self, shown: str) -> tuple[str, str]:
        return "", SCHEME.sub("", shown, count=1)

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    def page(self, prefix: str, after: str | None = None, most: int = 0) -> Page:
        most = most or self.page_keys
        names = sorted(name for name in tuple(self.fs.store) if name[1:].startswith(prefix) and name > (after or ""))
        taken = names[:most]
        entries = [Entry(name[1:], info) for name in taken if (info := self._info(name)) is not None]
        return Page(entries, taken[-1] if len(names) > most else None)

    def info(self, key: str) -> Mapping[str, Any]:
        info = self._info(f"/{key}")
        if info is None:
            raise FileNotFoundError(key)
        return info

    def look(self) -> Mapping[str, Any]:
        try:
            return super().look()
        except FileNotFoundError:
            if f"/{self.key.rstrip('/')}" in self.fs.pseudo_dirs:
                return {"type": "directory", "size": 0}
            raise

    def _info(self, name: str) -> Mapping[str, Any] | None:
        file = self.fs.store.get(name)
        return None if file is None else {"size": file.size, "type": "file", "created": getattr(file, "created", None)}

    def range_of(self, key: str, start: int, length: int) -> bytes:
        file = self.fs.store.get(f"/{key}")
        if file is None:
            raise FileNotFoundError(key)
        return bytes(file.getbuffer()[start : start + length])


_KINDS: dict[str, tuple[type[Objects], str]] = {
    "s3": (S3Objects, "_call_s3"),
    "gs": (GoogleObjects, "_process_object"),
    "az": (AzureObjects, "service_client"),
    "memory": (MemoryObjects, "store"),
}
"""By scheme: the class, and an attribute by which the store's client is recognised."""


def objects_of(fs: Any, address: str) -> Objects | None:
    """The objects behind a URI. None if the file system's paths name its files exactly, as on the web and by FTP."""
    kind, mark = _KINDS.get(scheme_of(address), (None, ""))
    return kind(fs, address) if kind is not None and hasattr(fs, mark) else None
