"""Google's and Azure's object stores, as far as an audit uses them: pages of keys, details of a key, ranges of bytes.

The wire formats are those of the JSON API of Cloud Storage (storage/v1) and of the Blob service's REST API. Keys are
kept in a dictionary. Nothing is normalised, because the real stores keep every byte of a key too.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = "Mon, 23 Nov 2026 10:00:00 GMT"
AZURE_ACCOUNT = "devstoreaccount1"


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets: ClassVar[dict[str, dict[str, bytes]]] = {}
    most_keys: ClassVar[int] = 1000
    """In one page, whatever is asked for."""
    url: ClassVar[str] = ""

    def answer(self, status: int, headers: dict[str, str], body: bytes, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def part(self, body: bytes, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
        if not (span := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")):
            return 200, {}, body
        first, last = int(span[1]), min(int(span[2] or len(body)), len(body) - 1)
        if first >= len(body):
            return 416, {}, b""
        return 206, {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1]

    def keys_of(self, bucket: str, prefix: str, after: str, most: int) -> tuple[list[str], str]:
        """A page of keys, and the token of the next page."""
        keys = sorted((k for k in self.buckets[bucket] if k.startswith(prefix)), key=lambda key: key.encode())
        start = int(after or 0)
        end = start + min(most, self.most_keys)
        return keys[start:end], str(end) if end < len(keys) else ""

    def log_message(self, *args: object) -> None:
        pass


class GoogleServer(_Server):
    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        is_download = place.path.startswith("/download")
        found = re.fullmatch(r"/storage/v1/b/([^/]+)(/o(?:/([^/]*))?)?", place.path.removeprefix("/download"))
        if not found or found[1] not in self.buckets:
            return self.answer(404, {}, b"no such bucket")
        bucket, key = found[1], None if found[3] is None else unquote(found[3])
        if key is None and not found[2]:
            return self.answer(200, {}, json.dumps({"name": bucket, "kind": "storage#bucket"}).encode())
        if key is None:
            most = int(query.get("maxResults", 1000))
            keys, after = self.keys_of(bucket, query.get("prefix", ""), query.get("pageToken", ""), most)
            page = {"kind": "storage#objects", "items": [self.item(bucket, key) for key in keys]}
            return self.answer(200, {}, json.dumps({**page, **({"nextPageToken": after} if after else {})}).encode())
        if key not in self.buckets[bucket]:
            return self.answer(404, {}, b"no such object")
        if not is_download:
            return self.answer(200, {}, json.dumps(self.item(bucket, key)).encode())
        return self.answer(*self.part(self.buckets[bucket][key], self.headers.get("Range")))

    def item(self, bucket: str, key: str) -> dict[str, str]:
        body = self.buckets[bucket][key]
        tag = hashlib.md5(body).hexdigest()
        time = "2026-11-23T10:00:00.000Z"
        return {"name": key, "bucket": bucket, "size": str(len(body)), "etag": tag, "generation": "1", "updated": time}


class AzureServer(_Server):
    def do_HEAD(self) -> None:
        self.do_GET(with_body=False)

    def do_GET(self, with_body: bool = True) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        _, _, bucket, *rest = place.path.split("/", 3)
        key = unquote(rest[0]) if rest else ""
        if bucket not in self.buckets:
            return self.answer(404, {"x-ms-error-code": "ContainerNotFound"}, b"", with_body)
        if query.get("comp") == "list":
            most = int(query.get("maxresults", 5000))
            keys, after = self.keys_of(bucket, query.get("prefix", ""), query.get("marker", ""), most)
            blobs = "".join(self.item(bucket, key) for key in keys)
            page = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{after}</NextMarker></EnumerationResults>"
            body = f'<?xml version="1.0" encoding="utf-8"?>{page}'.encode()
            return self.answer(200, {"Content-Type": "application/xml"}, body, with_body)
        if key not in self.buckets[bucket]:
            return self.answer(404, {"x-ms-error-code": "BlobNotFound"}, b"", with_body)
        body = self.buckets[bucket][key]
        span = self.headers.get("x-ms-range") or self.headers.get("Range")
        status, more, part = self.part(body, span)
        kept = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last-Modified": MODIFIED, "x-ms-blob-type": "BlockBlob"}
        return self.answer(status, {**kept, **more}, part, with_body)

    def item(self, bucket: str, key: str) -> str:
        body = self.buckets[bucket][key]
        plain = all(char.isprintable() for char in key) and key.strip() == key
        name = f"<Name>{escape(key)}</Name>" if plain else f'<Name Encoded="true">{quote(key, safe="")}</Name>'
        kept = f"<Etag>{hashlib.md5(body).hexdigest()}</Etag><Content-Length>{len(body)}</Content-Length>"
        kept += f"<Last-Modified>{MODIFIED}</Last-Modified><BlobType>BlockBlob</BlobType>"
        return f"<Blob>{name}<Properties>{kept}</Properties><Metadata/></Blob>"


@contextmanager
def serving(kind: type[_Server]) -> Iterator[type[_Server]]:
    """A server of its own, without a bucket."""
    made = type(kind.__name__, (kind,), {"buckets": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


def azure_environment(url: str) -> dict[str, str]:
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # everybody's
    words = f"AccountName={AZURE_ACCOUNT};AccountKey={key};BlobEndpoint={url}/{AZURE_ACCOUNT};"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{words}"}
