"""Whole jobs from object stores into object stores: killed, raced, resumed, published and read back, all exact.

moto is part of `make test`. The real servers belong to the long form: radosgw, azurite, and rclone, which breaks its
promise.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import fsspec
import pytest

from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.storage.output_store import open_store
from deephotlink.transforms.storage.sources import open_blob
from deephotlink.transforms.storage.uris import unescape
from tests.builders import make_video
from tests.chaos.launching import Server, evidence, exact, watched
from tests.chaos.sizes import LONG, sized
from tests.chaos.stores import STARTERS, Bucket

SEED = 20261124
FILMS = sized(10, 40)
KILLS = sized(3, 20)
OPTIONS = ("--detectors", "metadata,chaos_look,chaos_listen", "--unit-size", "2", "--wave-size", "1")
LYING = ("rclone",)
KILLED = -9


@pytest.fixture(params=["moto", *(pytest.param(name, id=name) for name in STARTERS if name != "moto")])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    if request.param != "moto" and not LONG:
        pytest.skip(f"{request.param} is part of the long form: make chaos")
    folder = tmp_path / "store"
    folder.mkdir()
    with STARTERS[request.param](folder) as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        kind = fsspec.get_filesystem_class(bucket.uri.partition(":")[0])
        kind.clear_instance_cache()  # they are known by their options, not by the environment
        try:
            fsspec.core.url_to_fs(bucket.uri)[0].mkdir(bucket.uri.partition("://")[2])
            yield bucket
        finally:
            kind.clear_instance_cache()


@pytest.fixture
def films(bucket: Bucket, tmp_path: Path) -> Path:
    """Local films, also in the bucket's `films/` under the same names."""
    folder = tmp_path / "films"
    folder.mkdir()
    fs, root = fsspec.core.url_to_fs(bucket.uri)
    film = make_video(tmp_path / "one.mp4", seconds=1, fps=8, size=(64, 48), audio="tone").read_bytes()
    for number in range(FILMS):
        body = film + b"\0\0\0\x0cfree" + number.to_bytes(4, "big")
        (folder / f"{number:03d}.mp4").write_bytes(body)
        fs.pipe_file(f"{root}/films/{number:03d}.mp4", body)
    return folder


ODD = [
    "plain.mp4",
    "a//b.mp4",
    "/lead.mp4",
    "a/./dot.mp4",
    "a/../up.mp4",
    "x",
    "x/y.mp4",
    "trail/",
    "q?v=1.mp4",
    "q?v=2.mp4",
]
ODD += [
    "#1.mp4",
    "50%.mp4",
    "%2F.mp4",
    "a b+c.mp4",
    "*[1]{2}.mp4",
    'it\'s "it".mp4',
    "tab\t.mp4",
    "🎬é.mp4",
    "e\u0301.mp4",
]
ODD += ["?versionid=1.mp4", "a::b.mp4", "&amp;.mp4", " space.mp4 ", "\u202e.mp4", "~@:.mp4", "//", "back\\x41.mp4"]


def test_every_key_that_a_store_took_is_listed_and_read_as_itself(bucket: Bucket) -> None:
    """Compared with the listing of the store's own client. Keys that a store refuses or renames are not our concern."""
    put, listed = own_client(bucket)
    bodies = {}
    for key in ODD:
        body = b"\0\0\0\x18ftypmp42" + key.encode()
        with contextlib.suppress(Exception):
            put(key, body)
            bodies[key] = body
    stored = listed()
    entries = list(list_sources([bucket.uri]))
    assert sorted(unescape(e.file.uri) for e in entries) == sorted(f"{bucket.uri}/{key}" for key in stored)
    print(f"{len(stored)} of {len(ODD)} keys; refused: {sorted(set(ODD) - set(bodies))}, renamed: {stored - set(ODD)}")
    for entry in entries:
        key = unescape(entry.file.uri).removeprefix(f"{bucket.uri}/")
        assert entry.outcome is None
        with open_blob(entry.file) as blob:
            assert blob.read(0, entry.file.size_bytes) == bodies.get(key, blob.read(0, entry.file.size_bytes))
        again = [one.file for one in list_sources([entry.file.uri])]
        assert entry.file in again and (len(again) == 1 or key.endswith("/"))


def own_client(bucket: Bucket) -> tuple[Callable[[str, bytes], object], Callable[[], set[str]]]:
    """How the store's own client puts an object and lists all keys."""
    name = bucket.uri.partition("://")[2]
    if bucket.uri.startswith("az://"):
        from azure.storage.blob import BlobServiceClient

        words = bucket.environment["AZURE_STORAGE_CONNECTION_STRING"]
        container = BlobServiceClient.from_connection_string(words).get_container_client(name)
        return container.upload_blob, lambda: {blob.name for blob in container.list_blobs()}
    client = boto3.Session().client("s3")
    pages = client.get_paginator("list_objects_v2")
    return (
        lambda key, body: client.put_object(Bucket=name, Key=key, Body=body),
        lambda: {item["Key"] for page in pages.paginate(Bucket=name) for item in page.get("Contents", [])},
    )


def test_audit_kill_resume_publish_and_read_back(
    server: Server, bucket: Bucket, films: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two racing copies if the store keeps its promise, otherwise one at a time."""
    lying = request.node.callspec.params["bucket"] in LYING
    rng = random.Random(SEED)
    job = server.start("audit", films, "--output", tmp_path / "clean", "--quiet", *OPTIONS)
    assert job.wait() == 0, job.told()
    store, warning = open_store(f"{bucket.uri}/canary")
    assert store.single_committer == lying and ("only one at a time" in (warning or "")) == lying

    source, out = f"{bucket.uri}/films", f"{bucket.uri}/scores"
    command = ("audit", source, "--output", out, *OPTIONS)
    kills = rounds = 0
    with watched(out, 2.0):
        while True:
            jobs = [server.start(*command, **bucket.environment) for _ in range(1 if lying else 2)]
            rounds += 1
            if kills < KILLS:
                time.sleep(rng.uniform(0.5, 3.0 + 0.5 * rounds))
                for job in jobs:
                    if job.poll() is None:
                        job.kill()
                        kills += 1
            codes = {job.wait(600) for job in jobs}
            assert codes <= {0, KILLED}, [job.told() for job in jobs]
            if codes == {0}:
                break
    assert kills, "it was done before anybody could kill it"
    if lying:
        assert "run only one at a time" in jobs[0].told()
    places = exact(out, {f"{source}/{path.name}" for path in films.iterdir()})
    assert set(places.values()) == {"scores"}
    assert evidence(out) == evidence(tmp_path / "clean")
    again = [server.start(*command, **bucket.environment), server.start("check", out, **bucket.environment)]
    asked = "select count(*) as n from scores"
    again.append(server.start("query", out, asked, "--json", **bucket.environment))
    assert [job.wait() for job in again] == [0, 0, 0], [job.told() for job in again]
    assert f'{{"n": {FILMS}}}' in again[-1].told()
    assert run_query(out, asked).to_pylist() == [{"n": FILMS}]
    print(f"{kills} kills in {rounds} rounds, {FILMS} films, each once")
