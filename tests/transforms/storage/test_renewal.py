"""Temporary credentials: after they expire, a refused request is made once more with the current ones."""

import base64
import http.client
import sys
import threading
import zlib
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

import fsspec
import pytest

from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.failures import MediaError, Refused, UsageError, WorldError
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.staging.spool_files import stage
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.storage.retries import ONCE
from deephotlink.transforms.storage.sources import RemoteBlob, look_remote
from tests.chaos.stores import moto
from tests.committing import finish, make_run

FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 100
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moto")
    with moto(folder) as bucket:
        yield urlsplit(bucket.environment["AWS_ENDPOINT_URL"]).netloc


@pytest.fixture
def gate(behind, monkeypatch, tmp_path):
    """S3 that lets in one access key: `gate.key`. `rotate(key)` writes it where the clients of now read it."""

    class Gate(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        key, code, refused = "first", EXPIRED, 0
        more: ClassVar[dict[str, str]] = {}
        """Headers of every answer."""

        def do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if f"Credential={self.key}/" not in self.headers.get("Authorization", ""):
                type(self).refused += 1
                return (
                    self.answer(400, {"Content-Length": "0"}, b"")
                    if self.command == "HEAD"
                    else self.answer(
                        403 if b"Denied" in self.code else 400, {"Content-Type": "application/xml"}, self.code
                    )
                )
            inner = http.client.HTTPConnection(behind)
            inner.request(self.command, self.path, body, dict(self.headers))
            answer = inner.getresponse()
            data = answer.read()
            headers = {
                name: value for name, value in answer.getheaders() if name not in ("Transfer-Encoding", "Connection")
            }
            return self.answer(answer.status, headers, data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

        def answer(self, status: int, headers: dict, data: bytes) -> None:
            self.send_response(status)
            for name, value in (headers | self.more).items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if self.command != "HEAD" else b"")

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    yield Gate
    kind.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.fixture
def rotate(gate, tmp_path):
    """A profile's file, as some tool writes it anew every hour."""

    def write(key: str, told: bool = True) -> None:
        gate.key = key
        if told:
            words = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t-{key}\n"
            (tmp_path / "credentials").write_text(words)

    write("first")
    return write


@pytest.fixture
def bucket(gate, rotate, tmp_path):
    name = f"archive-{tmp_path.name.replace('_', '-').lower()}"[:60].rstrip("-")
    fs = fsspec.filesystem("s3")
    fs.mkdir(name)
    fs.pipe_file(f"{name}/films/a.mp4", FILM)
    return f"s3://{name}"


@pytest.mark.parametrize("code", [b"ExpiredToken", b"InvalidToken", b"AccessDenied"], ids=bytes.decode)
def test_a_profile_that_was_rotated_is_read_anew(bucket, gate, rotate, tmp_path, code) -> None:
    gate.code = EXPIRED.replace(b"ExpiredToken", code)
    source, out = f"{bucket}/films", OutputStore(f"{bucket}/out")
    (entry,) = list_sources([source])
    blob = RemoteBlob(entry.file.uri, entry.file.uri)
    finish(out, make_run(out, 1, 6))
    opened = out.open("_runs/x") if out.put_new("_runs/x", FILM) else None
    keys, refusals = iter(range(1_000)), []
    calls = (
        lambda: blob.read(4, 4),
        lambda: blob.version(),
        lambda: look_remote(entry.file.uri),
        lambda: list(list_sources([source])),
        lambda: stage(entry.file, tmp_path).release(),
        lambda: out.put_new("a", b"1"),
        lambda: out.read("a"),
        lambda: out.exists("b"),
        lambda: out.list("scores"),
        lambda: out.folders("_runs"),
        lambda: out.replace("report.html", b"2"),
        lambda: opened.read(10),
        lambda: run_query(out.root, "select count(*) from scores"),
    )
    few = code != b"ExpiredToken"
    for call in (calls[0], calls[5]) if few else calls:
        rotate(f"key-{next(keys)}")
        gate.refused = 0
        call()
        refusals.append(gate.refused)
    # A client that is opened for the first time since the last renewal has the keys of now.
    assert sum(map(bool, refusals)) >= (1 if few else 8) and max(refusals) <= 8, refusals


def test_credentials_that_stay_refused_are_told_at_once(bucket, gate, rotate) -> None:
    gate.code = EXPIRED.replace(b"ExpiredToken", b"AccessDenied")
    (entry,) = list_sources([f"{bucket}/films"])
    rotate("another", told=False)
    blob = RemoteBlob(entry.file.uri, entry.file.uri)
    with pytest.raises(WorldError, match=r"cannot read s3://.*: PermissionError"):
        blob.read(0, 4)
    assert gate.refused <= 4
    gate.refused = 0
    with pytest.raises(UsageError, match="cannot list scores in s3://"):
        OutputStore(f"{bucket}/out").list("scores")
    assert gate.refused <= 4


def test_a_range_is_not_held_against_the_checksum_of_the_whole_object(bucket, gate) -> None:
    """Which rclone sends along."""
    gate.more = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(FILM).to_bytes(4, "big")).decode()}
    assert RemoteBlob(f"{bucket}/films/a.mp4", f"{bucket}/films/a.mp4", ONCE).read(4, 4) == FILM[4:8]
    out = OutputStore(f"{bucket}/films", patience_seconds=0)
    with out.open("a.mp4") as file:
        assert file.seek(len(FILM) - 4) and file.read() == FILM[-4:]


def test_an_object_in_an_archive_tier_does_not_stop_the_others(bucket, gate, rotate, tmp_path) -> None:
    """S3 lists it, and tells its size, and does not give it."""
    fs, name = fsspec.filesystem("s3"), bucket.removeprefix("s3://")
    fs.call_s3("put_object", Bucket=name, Key="films/0.mp4", Body=FILM, StorageClass="GLACIER")
    cold, warm = (entry.file for entry in list_sources([f"{bucket}/films"]))
    with pytest.raises(Refused, match="cannot read"):  # it might be us
        stage(cold, tmp_path)
    stage(warm, tmp_path).release()
    with pytest.raises(MediaError, match="other files can be read") as fault:
        stage(cold, tmp_path)
    assert fault.value.error_class == "refused"
    gate.code = EXPIRED.replace(b"ExpiredToken", b"AccessDenied")
    rotate("another", told=False)
    with pytest.raises(Refused):
        stage(cold, tmp_path)


def test_botocore_itself_asks_again_for_what_says_when_it_runs_out(bucket, gate, rotate, tmp_path, monkeypatch) -> None:
    """Of a `credential_process`, as of instance metadata and assumed roles: no client is opened anew."""
    script = tmp_path / "process.py"
    (tmp_path / "key").write_text("first")
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    words = {"Version": 1, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": soon}
    key = str(tmp_path / "key")
    script.write_text(f"import json\nkey = open({key!r}).read()\nprint(json.dumps({words!r} | {{'AccessKeyId': key}}))")
    (tmp_path / "credentials").unlink()
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    blob = RemoteBlob(f"{bucket}/films/a.mp4", f"{bucket}/films/a.mp4")
    assert blob.read(0, 4) == FILM[:4]
    monkeypatch.setattr(blob._client, "renew", lambda: pytest.fail("a client was opened anew"))
    rotate("second", told=False)
    (tmp_path / "key").write_text("second")
    gate.refused = 0
    assert blob.read(4, 4) == FILM[4:8] and gate.refused == 0
