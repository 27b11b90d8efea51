"""`weights pull` and `weights verify` against servers and mirrors, good and bad ones."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import fsspec
import pytest

from deephotlink.models import registry
from deephotlink.models.base import Detector, DetectorSpec, Judgement
from deephotlink.models.weights.files import WeightsFile
from deephotlink.pipelines import cli
from deephotlink.pipelines.weights import hub
from deephotlink.pipelines.weights.cache import PULLED, at_hand, weights_folder
from deephotlink.pipelines.weights.pull import pull, verify
from deephotlink.transforms.failures import UsageError, WorldError
from deephotlink.transforms.storage import downloads, retries
from deephotlink.transforms.storage.downloads import PARTIAL, fetch

DATA = bytes(range(256)) * 4096 + b"the end"
SHA256 = hashlib.sha256(DATA).hexdigest()


class Silent(Detector):
    def score(self, items):
        return [Judgement(abstained="no_face") for _ in items]


def make_spec(name: str, *files: WeightsFile, **fields) -> DetectorSpec:
    return DetectorSpec(name, "facial", "face_track", frozenset({"frames"}), "a test", "all", weights=files, **fields)


def file_at(url: str, role: str = "weights", **fields) -> WeightsFile:
    record = {"sha256": SHA256, "size_bytes": len(DATA), **fields}
    return WeightsFile(fields.pop("file_name", None) or f"{role}.pth", url, role, **record)


@pytest.fixture
def install(monkeypatch):
    """Makes these the installed detectors."""

    def install(*specs: DetectorSpec) -> None:
        module = types.ModuleType("fakes")
        module.make = Silent
        known = registry._Known({spec.name: (spec, module) for spec in specs})
        monkeypatch.setattr(registry, "_known", lambda: known)

    return install


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA at /file: with ranges or without, cutting the first `cuts` bodies in the middle, or always."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.ranges, self.cuts, self.pause_seconds, self.fails = DATA, True, 0, 0.0, 0
        self.holds: int | None = None
        """Bytes of a body after which every connection is cut."""
        self.asked: list[tuple[str, str | None]] = []
        self.handle_error = lambda *request: None  # whoever is cut off is meant to be
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.answer(body=True)

    def answer(self, body: bool):
        server, data = self.server, self.server.data
        if self.path.partition("?")[0] != "/file":
            self.send_error(404)
            return
        if body and server.fails:
            server.fails -= 1
            self.send_error(503)
            return
        start, end = 0, len(data)
        wanted = self.headers.get("Range") if server.ranges else None
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if not body:
            return
        part = data[start:end]
        if server.holds is not None and len(part) > server.holds:
            self.wfile.write(part[: server.holds])
            self.wfile.flush()
            self.connection.close()
            return
        if server.cuts and len(part) > 1000:
            server.cuts -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        for at in range(0, len(part), 1 << 16):
            self.wfile.write(part[at : at + (1 << 16)])
            time.sleep(server.pause_seconds)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch, tmp_path):
    """No pauses between attempts, small ranges, and nothing in the cache of whoever runs this."""
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 1 << 18)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPHOTLINK_WEIGHTS", raising=False)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["weights", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out.strip(), said.err.strip()


def test_a_pull_is_checked_and_said(server, install, tmp_path, capsys):
    install(make_spec("fake", file_at(server.url)))
    code, said, _ = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.DONE
    assert all(part in said for part in ("weights.pth", str(len(DATA)), SHA256, str(tmp_path / "c/fake/weights.pth")))
    assert files_in(tmp_path / "c") == ["fake/weights.pth"]
    assert (tmp_path / "c/fake/weights.pth").read_bytes() == DATA
    asked = len(server.asked)
    code, said, _ = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.DONE and "already there" in said and len(server.asked) == asked


def test_a_connection_that_is_cut_is_gone_on_with(server, install, tmp_path):
    install(make_spec("fake", file_at(server.url)))
    server.cuts, server.fails = 3, 1
    (got,) = pull(["fake"], str(tmp_path))
    assert got.sha256 == SHA256 and files_in(tmp_path) == ["fake/weights.pth"]
    starts = [wanted for _, wanted in server.asked if wanted]
    assert len(starts) > len(set(starts)) and any(not s.startswith("bytes=0-") for s in starts)


def test_a_line_that_never_holds_for_long_still_gets_on(server, install, tmp_path):
    server.data, server.holds = DATA * (1 + (3 << 20) // len(DATA)), 700_000
    record = {"sha256": hashlib.sha256(server.data).hexdigest(), "size_bytes": len(server.data)}
    install(make_spec("one", file_at(server.url, **record)))
    (got,) = pull(["one"], str(tmp_path))
    assert got.sha256 == record["sha256"] and Path(got.where).read_bytes() == server.data
    assert len(server.asked) < 40


@pytest.mark.parametrize("cuts", [0, 2])
def test_a_server_without_ranges(cuts, server, install, tmp_path):
    install(make_spec("fake", file_at(server.url)))
    server.ranges, server.cuts = False, cuts
    list(pull(["fake"], str(tmp_path)))
    assert (tmp_path / "fake/weights.pth").read_bytes() == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_is_always_cut_ends_in_75_and_leaves_nothing(ranges, server, install, tmp_path, capsys):
    install(make_spec("fake", file_at(server.url)))
    server.cuts, server.ranges = 10_000, ranges
    code, _, said = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.AGAIN and "same command again" in said and len(said.splitlines()) == 1
    assert files_in(tmp_path / "c") == [] and not (tmp_path / "c" / PARTIAL).exists()


def test_a_server_that_is_down_ends_in_75(install, tmp_path, capsys):
    install(make_spec("fake", file_at("http://127.0.0.1:9/file")))
    code, _, said = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.AGAIN and "127.0.0.1:9" in said and len(said.splitlines()) == 1
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": b"?" + DATA[1:]}, SHA256),
        ({"data": DATA[:-1]}, str(len(DATA))),
        ({"data": DATA + b"x"}, str(len(DATA))),
        ({"url": "/nothing"}, "--weights fake=PATH"),
    ],
)
def test_what_is_not_the_published_file_is_refused_and_nothing_kept(change, says, server, install, tmp_path, capsys):
    server.data = change.get("data", DATA)
    install(make_spec("fake", file_at(server.url.replace("/file", change.get("url", "/file")))))
    code, _, said = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.USAGE and says in said and "--from" in said and len(said.splitlines()) == 1
    assert "nothing of it was kept" in said and files_in(tmp_path) == [] and not (tmp_path / "c" / PARTIAL).exists()


def test_a_wrong_file_does_not_take_the_place_of_a_right_one_nor_the_other_way(server, install, tmp_path):
    install(make_spec("fake", file_at(server.url)))
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/weights.pth").write_bytes(b"an older release")
    server.data = b"?" + DATA[1:]
    with pytest.raises(UsageError):
        list(pull(["fake"], str(tmp_path)))
    assert (tmp_path / "fake/weights.pth").read_bytes() == b"an older release"
    server.data = DATA
    list(pull(["fake"], str(tmp_path)))
    assert (tmp_path / "fake/weights.pth").read_bytes() == DATA


KILLED = """
import sys
from pathlib import Path
from deephotlink.transforms.storage import downloads
downloads.CHUNK_BYTES = 1 << 16
def tell(came, total):
    print(came, flush=True)
downloads.fetch(sys.argv[1], Path(sys.argv[2]), "fake/weights.pth", sys.argv[3], 0, tell)
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_after_a_kill_the_next_pull_goes_on(damaged, server, install, tmp_path):
    server.pause_seconds = 0.05
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url, str(tmp_path), SHA256], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    while int(child.stdout.readline()) < 3 << 16:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (partial,) = (tmp_path / PARTIAL).iterdir()
    came = partial.stat().st_size
    assert came >= 3 << 16 and not (tmp_path / "fake/weights.pth").exists()
    if damaged:
        partial.write_bytes(b"!" * came)
    server.pause_seconds, server.asked = 0.0, []
    install(make_spec("fake", file_at(server.url)))
    list(pull(["fake"], str(tmp_path)))
    assert (tmp_path / "fake/weights.pth").read_bytes() == DATA and files_in(tmp_path) == ["fake/weights.pth"]
    assert server.asked[0][1].startswith(f"bytes={came}-")
    assert any(wanted.startswith("bytes=0-") for _, wanted in server.asked) == damaged


def test_two_that_pull_the_same_file_wait_for_each_other(server, tmp_path):
    server.pause_seconds = 0.01
    threads = [threading.Thread(target=fetch, args=(server.url, tmp_path, "a/b", SHA256)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (tmp_path / "a/b").read_bytes() == DATA and files_in(tmp_path) == ["a/b"]
    assert sum(wanted.startswith("bytes=0-") for _, wanted in server.asked if wanted) == 1


def test_without_a_checksum_on_record_the_source_has_to_be_trusted(server, install, tmp_path, capsys):
    install(make_spec("fake", file_at(server.url, sha256="", size_bytes=0)))
    code, _, said = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.USAGE and "--allow-unpinned fake" in said and server.url in said and not server.asked
    code, said, _ = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c", "--allow-unpinned", "fake")
    assert code == cli.DONE and SHA256 in said
    assert [(f.file, f.state) for f in verify(None, str(tmp_path / "c"))] == [("fake/weights.pth", "ok")]
    (tmp_path / "c/fake/weights.pth").write_bytes(b"changed since")
    assert [f.state for f in verify(None, str(tmp_path / "c"))] == ["sha256 differs"]


def test_a_size_that_is_not_on_record_has_a_limit_all_the_same(server, install, tmp_path, monkeypatch):
    install(make_spec("fake", file_at(server.url, sha256="", size_bytes=0)))
    monkeypatch.setattr(downloads, "MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(UsageError, match="more than 1000"):
        list(pull(["fake"], str(tmp_path), unpinned=["fake"]))
    assert files_in(tmp_path) == []


def test_a_licence_that_forbids_commercial_use_is_accepted_by_name(server, install, tmp_path, capsys):
    install(make_spec("fake", file_at(server.url), licence="CC-BY-NC-4.0", commercial_use=False))
    code, _, said = run(capsys, "pull", "fake", "--weights-cache", tmp_path / "c")
    assert code == cli.USAGE and "CC-BY-NC-4.0" in said and "--accept-licence fake" in said and not server.asked
    assert run(capsys, "pull", "fake", "--weights-cache", tmp_path, "--accept-licence", "fake")[0] == cli.DONE


@pytest.mark.parametrize(
    ("names", "says"),
    [(["nobody"], "nobody"), (["free"], "no weights"), (["onnx:a.onnx"], "of your own"), (["hf:a"], "OWNER/REPO")],
)
def test_names_that_cannot_be_pulled(names, says, install, tmp_path, capsys):
    install(make_spec("free"))
    code, _, said = run(capsys, "pull", *names, "--weights-cache", tmp_path)
    assert code == cli.USAGE and says in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_mirrors_are_laid_out_like_a_cache(scheme, install, tmp_path):
    roles = [file_at("http://127.0.0.1:9/none", role) for role in ("backbone", "head")]
    install(make_spec("two", *roles))
    mirror = f"{scheme}{tmp_path}/mirror"
    for role in ("backbone", "head"):
        with fsspec.open(f"{mirror}/two/{role}.pth", "wb", auto_mkdir=True) as file:
            file.write(DATA)
    assert [p.file_name for p in pull(["two"], str(tmp_path / "c"), mirror)] == ["backbone.pth", "head.pth"]
    assert files_in(tmp_path / "c") == ["two/backbone.pth", "two/head.pth"]


def test_a_mirror_may_be_the_one_file_itself(server, install, tmp_path):
    install(make_spec("fake", file_at("http://127.0.0.1:9/none")))
    list(pull(["fake"], str(tmp_path / "a"), f"{server.url}?signature=secret"))
    here = tmp_path / "elsewhere.bin"
    here.write_bytes(DATA)
    list(pull(["fake"], str(tmp_path / "b"), str(here)))
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b") == ["fake/weights.pth"]


def test_secrets_of_a_mirror_are_not_repeated(server, install, tmp_path, capsys):
    install(make_spec("fake", file_at(server.url)))
    server.data = b"?" + DATA[1:]
    source = server.url.replace("://", "://me:hush@") + "?signature=hush"
    _, said, error = run(capsys, "pull", "fake", "--weights-cache", tmp_path, "--from", source)
    assert "hush" not in said + error and "127.0.0.1" in error


def test_a_cache_that_is_a_url(server, install):
    cache = "memory://weights-cache-of-a-test"
    install(make_spec("fake", file_at(server.url)))
    (got,) = pull(["fake"], cache)
    assert got.where == f"{cache}/fake/weights.pth"
    with fsspec.open(got.where) as file:
        assert file.read() == DATA
    assert [(f.file, f.state) for f in verify(None, cache)] == [("fake/weights.pth", "ok")]
    found = at_hand(cache, "fake", registry.installed()["fake"].weights[0])
    assert found is not None and found.sha256 == SHA256 and Path(found.path).read_bytes() == DATA
    with pytest.raises(UsageError, match="cannot be written"):
        list(pull(["fake"], "http://127.0.0.1:9/cache"))


def test_verify_says_what_is_wrong(install, tmp_path, capsys):
    names = [make_spec(name, file_at("http://127.0.0.1:9/none")) for name in ("good", "bad", "gone", "half")]
    half = make_spec("half", *(file_at("http://127.0.0.1:9/none", role) for role in ("one", "two")))
    install(*names[:3], half, make_spec("free"))
    for name, data in (("good/weights.pth", DATA), ("bad/weights.pth", b"x"), ("half/one.pth", DATA), ("odd/a", b"a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    code, said, _ = run(capsys, "verify", "--weights-cache", tmp_path)
    states = dict(line.split(": ", 1) for line in said.splitlines())
    assert code == cli.BROKEN and states["good/weights.pth"] == f"ok {SHA256}"
    assert states["bad/weights.pth"].startswith("sha256 differs") and f"expected {SHA256}" in states["bad/weights.pth"]
    assert states["half/two.pth"].startswith("missing") and states["odd/a"].startswith("not on record")
    assert set(states) == {"good/weights.pth", "bad/weights.pth", "half/one.pth", "half/two.pth", "odd/a"}
    assert run(capsys, "verify", "good", "--weights-cache", tmp_path)[0] == cli.DONE
    code, said, _ = run(capsys, "verify", "gone", "--weights-cache", tmp_path)
    assert code == cli.BROKEN and "gone/weights.pth: missing" in said
    assert run(capsys, "verify", "nobody", "--weights-cache", tmp_path)[0] == cli.USAGE
    assert run(capsys, "verify", "--weights-cache", tmp_path / "empty")[0] == cli.DONE


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert weights_folder("memory://a/") == "memory://a" and weights_folder(str(tmp_path)) == str(tmp_path)
    assert weights_folder() == str(tmp_path / "home/deephotlink/weights")
    monkeypatch.setenv("DEEPHOTLINK_WEIGHTS", "s3://bucket/weights")
    assert weights_folder() == "s3://bucket/weights" and weights_folder("/x") == "/x"
    monkeypatch.delenv("DEEPHOTLINK_WEIGHTS")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == os.path.expanduser("~/.cache/deephotlink/weights")


def test_a_missing_package_is_named_as_an_extra(install, tmp_path, monkeypatch, capsys):
    def missing(protocol):
        raise ImportError("no aiohttp")

    install(make_spec("fake", file_at("https://host/file")))
    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    code, _, said = run(capsys, "pull", "fake", "--weights-cache", tmp_path)
    assert code == cli.USAGE and "deephotlink[http]" in said


def fake_hub(monkeypatch, files: dict[str, bytes], fail: Exception | None = None, lie: bool = False, licence="mit"):
    import huggingface_hub

    sibling = [
        types.SimpleNamespace(
            rfilename=name,
            size=len(data),
            lfs=types.SimpleNamespace(sha256=hashlib.sha256(b"lie" if lie else data).hexdigest())
            if name.endswith(".safetensors")
            else None,
        )
        for name, data in files.items()
    ]
    info = types.SimpleNamespace(sha="c0ffee" * 6, siblings=sibling, card_data={"license": licence})

    def snapshot(repo, *, revision, local_dir, allow_patterns):
        assert revision == info.sha
        import fnmatch

        for name, data in files.items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (Path(local_dir) / name).write_bytes(data)
        (Path(local_dir) / ".cache").mkdir()
        (Path(local_dir) / ".cache/half").write_bytes(b"1")
        if fail:
            raise fail

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: types.SimpleNamespace(model_info=lambda repo, **more: info))


MODEL = {"config.json": b"{}", "model.safetensors": DATA, "pytorch_model.bin": b"code", "modeling.py": b"code"}


def test_a_model_of_the_hub_comes_without_code(monkeypatch, install, tmp_path, capsys):
    install()
    fake_hub(monkeypatch, MODEL)
    code, said, _ = run(capsys, "pull", "hf:some/model@main", "--weights-cache", tmp_path)
    assert code == cli.DONE and SHA256 in said
    assert files_in(tmp_path / "hf/some/model") == [PULLED, "config.json", "model.safetensors"]
    assert not (tmp_path / PARTIAL).exists()
    note = json.loads((tmp_path / "hf/some/model" / PULLED).read_text())
    assert note["revision"] == "c0ffee" * 6 and note["files"]["model.safetensors"] == SHA256
    assert {f.state for f in verify(["hf:some/model"], str(tmp_path))} == {"ok"}
    (tmp_path / "hf/some/model/model.safetensors").unlink()
    assert {f.state for f in verify(None, str(tmp_path))} == {"ok", "missing"}


@pytest.mark.parametrize(
    ("files", "fail", "lie", "expected"),
    [
        (MODEL, OSError("connection reset"), False, WorldError),
        (MODEL, None, True, UsageError),
        ({"config.json": b"{}", "pytorch_model.bin": b"code"}, None, False, UsageError),
    ],
)
def test_a_pull_of_the_hub_that_fails_leaves_nothing(files, fail, lie, expected, monkeypatch, install, tmp_path):
    install()
    fake_hub(monkeypatch, files, fail, lie)
    with pytest.raises(expected):
        list(pull(["hf:some/model"], str(tmp_path)))
    assert files_in(tmp_path) == [] and not (tmp_path / PARTIAL).exists()


def test_the_licence_of_a_model_of_the_hub_counts_too(monkeypatch, install, tmp_path):
    install()
    fake_hub(monkeypatch, MODEL, licence="cc-by-nc-4.0")
    with pytest.raises(UsageError, match="--accept-licence hf:some/model"):
        list(hub.pull_hub("hf:some/model", str(tmp_path)))
    assert list(pull(["hf:some/model"], str(tmp_path), accepted=["hf:some/model"]))
