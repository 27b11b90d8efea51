"""Names lose nothing, secrets are never shown, and a read is exact or an error."""

import os
import pickle
import socket

import fsspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deephotlink.transforms.failures import MediaError, UsageError, WorldError
from deephotlink.transforms.storage import retries, sources
from deephotlink.transforms.storage.uris import escape, local_path, media_id_of, redact, split_remote, unescape


@given(st.binary(max_size=20) | st.text(alphabet="\\xuU0459af\n\x85é\u202e", max_size=20).map(str.encode))
@example(b"\\x00")
@example("\x85".encode())
@example(b"\x85")
def test_escaping_is_printable_and_loses_nothing(name: bytes) -> None:
    shown = escape(os.fsdecode(name))
    assert os.fsencode(unescape(shown)) == name
    assert shown.replace("\u200c", "").replace("\u200d", "").isprintable() or not any(
        c in shown for c in "\n\u202e\x85"
    )


def test_what_names_look_like() -> None:
    assert escape("plain name %20 #1?.mp4") == "plain name %20 #1?.mp4"
    assert escape("a\\b.mp4") == "a\\b.mp4"
    assert escape(os.fsdecode(b"\xff\xfe.mp4")) == "\\xff\\xfe.mp4"
    assert escape("\\xff.mp4") == "\\x5cxff.mp4"
    assert escape("\x1b]0;\u202e") == "\\x1b]0;\\u202e"


@pytest.mark.parametrize(
    ("uri", "shown", "secret"),
    [
        ("https://me:CANARY@host/a.mp4?sig=CANARY#t", "https://host/a.mp4", True),
        ("s3a://bucket/a%20b.mp4", "s3://bucket/a%20b.mp4", False),
        ("s3://bucket/what?.mp4", "s3://bucket/what?.mp4", False),
        ("s3://bucket//a?v=1#2.mp4/", "s3://bucket//a?v=1#2.mp4/", False),
        ("s3://bucket/a.mp4?versionId=1", "s3://bucket/a.mp4?versionId=1", False),
        ("abfs://box@account.dfs.core.windows.net/a", "az://box@account.dfs.core.windows.net/a", False),
        ("memory:///a/b.mp4", "memory://a/b.mp4", False),
    ],
)
def test_canonical_uris_have_no_secret(uri: str, shown: str, secret: bool) -> None:
    assert split_remote(uri) == (shown, uri if secret else "")


def test_a_signature_that_strayed_to_an_object_store_is_told_to_nobody(no_naps) -> None:
    """No object has such a name, so it is none: somebody put `s3://` before what signs a web address."""
    for query in ("X-Amz-Expires=60&X-Amz-Signature=CANARY", "sv=2026&sig=CANARY", "Expires=1&Signature=CANARY"):
        found = sources.look_remote(f"memory://bucket/a.mp4?{query}", one_of_many=True)
        assert (found.uri, found.trouble) == ("memory://bucket/a.mp4", "missing")


def test_redacting() -> None:
    text = "403, url='http://u:CANARY@h/x?X-Sig=CANARY' aws_secret_access_key=CANARY 'token': 'CANARY'"
    assert "CANARY" not in redact(text)
    assert "http://h/x" in redact(text)
    assert redact("no s3://b/what?v=1#2.mp4 in az://c@a/x") == "no s3://b/what?v=1#2.mp4 in az://c@a/x"


def test_secrets_of_the_environment_are_redacted_wherever_a_store_repeats_them(monkeypatch) -> None:
    monkeypatch.setenv("SOME_STORE_KEY", "CANARY/plus+more=")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json")
    monkeypatch.setenv("SHORT_TOKEN", "of")
    assert redact("no such key of CANARY/plus+more= in /etc/key.json") == "no such key of … in /etc/key.json"


def test_parts_of_an_id_cannot_be_mistaken_for_others() -> None:
    ids = {media_id_of(b"ab", b"c"), media_id_of(b"a", b"bc"), media_id_of(b"abc"), media_id_of(b"ab", b"c", b"")}
    assert len(ids) == 4


def test_local_paths(tmp_path, monkeypatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    monkeypatch.chdir(tmp_path)
    assert local_path("real/x") == os.fsencode(tmp_path / "real" / "x")
    assert local_path(f"file://{tmp_path}/a%20b") == os.fsencode(tmp_path / "a b")
    (tmp_path / "a%20b").touch()
    assert local_path(f"file://{tmp_path}/a%20b") == os.fsencode(tmp_path / "a%20b")
    assert local_path("link/../x") == os.fsencode(tmp_path / "real" / "x")


def test_what_is_at_a_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "film").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("film")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)
    server.bind("socket")

    def look(name: str) -> sources.Found:
        return sources.look_local(os.fsencode(tmp_path / name))

    film = look("film")
    status = (tmp_path / "film").stat()
    assert (film.uri, film.size_bytes, film.trouble) == (str(tmp_path / "film"), 5, None)
    assert film.version == f"5-{status.st_mtime_ns}"
    assert film.path_bytes is None
    assert look("link").version == film.version
    assert look("link").to_file().media_id != film.to_file().media_id
    troubles = {name: look(name).trouble for name in ("loop", "dangling", "fifo", "socket", "gone", ".")}
    assert troubles == {
        "loop": "not_a_file",
        "dangling": "broken_link",
        "fifo": "not_a_file",
        "socket": "not_a_file",
        "gone": "missing",
        ".": "folder",
    }
    server.close()


def test_names_that_are_no_text(tmp_path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\n.mp4"
    with open(path, "wb") as f:
        f.write(b"abc")
    found = sources.look_local(path)
    assert found.uri == f"{tmp_path}/\\xff\\x0a.mp4"
    file = found.to_file()
    assert sources.path_of(file) == path
    with sources.open_blob(file) as blob:
        assert blob.read(1, 2) == b"bc"


def test_a_file_cut_short_is_changed_not_a_crash(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    file = sources.look_local(os.fsencode(path)).to_file()
    with sources.open_blob(file) as blob, pytest.raises(MediaError) as fault:
        blob.read(0, 4)
    assert fault.value.error_class == "changed"
    path.unlink()
    with pytest.raises(MediaError) as fault, sources.open_blob(file):
        pass
    assert fault.value.error_class == "missing"


@pytest.mark.parametrize(("start", "length"), [(0, -256), (-1, 4), (-1, -1)])
def test_a_range_that_no_file_has_is_the_files_fault(tmp_path, start, length) -> None:
    (tmp_path / "a").write_bytes(b"film")
    blob = sources.LocalBlob(os.fsencode(tmp_path / "a"), "/a")
    with pytest.raises(MediaError, match="damaged_archive"):
        blob.read(start, length)
    blob.close()


def test_a_store_says_what_state_a_file_is_in() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/sources-test/a.mp4", b"abc")
    looked = sources.look_remote("memory://sources-test/a.mp4")
    listed = sources.found_remote("memory://sources-test/a.mp4", fs.ls("/sources-test", detail=True)[0])
    assert looked == listed
    assert looked.uri == "memory://sources-test/a.mp4"
    assert looked.size_bytes == 3
    assert sources.look_remote("memory://sources-test/b.mp4").trouble == "missing"
    assert sources.version_of({"ETag": '"abc"', "mtime": 3}) == "abc"
    assert sources.version_of({"generation": 7, "updated": "x"}) == "7"


def test_secrets_stay_out_of_sight() -> None:
    file = sources.found_remote("https://u:CANARY@h/a.mp4?s=CANARY", {"type": "file", "size": 3, "ETag": "e"}).to_file()
    assert file.fetch_uri and "CANARY" not in repr(file)
    again = sources.found_remote("https://h/a.mp4?s=other", {"type": "file", "size": 3, "ETag": "e"}).to_file()
    assert again.media_id == file.media_id
    assert pickle.loads(pickle.dumps(file)) == file


THREE = retries.Patience(3, 600.0, outage_attempts=3)


def test_what_is_retried(monkeypatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(retries, "interruptible_sleep", naps.append)
    answers = iter([OSError("503"), TimeoutError("slow"), "here"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retries.retried("read it", call) == "here"
    assert len(naps) == 2

    def always(error: Exception):
        def raising():
            raise error

        return raising

    with pytest.raises(WorldError, match=r"cannot read it: OSError: http://h/x$"):
        retries.retried("read it", always(OSError("http://u:pw@h/x?sig=CANARY")), THREE)
    assert len(naps) == 4
    with pytest.raises(MediaError) as fault:
        retries.retried("read it", always(retries.ShortRead("got 4 bytes of 10")), THREE)
    assert fault.value.error_class == "read_short"
    naps.clear()
    for error in (FileNotFoundError("gone"), KeyError("a mistake of ours")):
        with pytest.raises(type(error)):
            retries.retried("read it", always(error))
    with pytest.raises(WorldError):
        retries.retried("read it", always(PermissionError(13, "Forbidden")))
    assert naps == []


def test_an_outage_uses_up_none_of_an_objects_chances(monkeypatch) -> None:
    """An object that came short twice, amid nine answers of 503, is not one that kept coming short."""
    monkeypatch.setattr(retries, "interruptible_sleep", lambda seconds: None)
    down, short = OSError("503"), retries.ShortRead("got 4 bytes of 10")

    def answering(*answers: Exception | str):
        asked = iter(answers)

        def call() -> str:
            answer = next(asked)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    ten = retries.Patience(10, 6_000.0, outage_attempts=10)
    assert retries.retried("read it", answering(short, *[down] * 9, short, "here"), ten) == "here"
    assert retries.retried("read it", answering(*[down, short] * 9, "here"), ten) == "here"
    with pytest.raises(WorldError, match="503"):
        retries.retried("read it", answering(*[short] * 9, *[down] * 10), ten)
    with pytest.raises(MediaError, match="got 4 bytes of 10, 10 times") as fault:
        retries.retried("read it", answering(*[down] * 9, *[short] * 10), ten)
    assert fault.value.error_class == "read_short"


def test_a_store_may_be_down_for_ten_minutes(monkeypatch) -> None:
    """However often it is asked meanwhile; then it is the world's fault, and one object is never asked for so long."""
    slept: list[float] = []
    monkeypatch.setattr(retries, "interruptible_sleep", slept.append)

    def down() -> None:
        raise OSError("503")

    def short() -> None:
        raise retries.ShortRead("got 4 bytes of 10")

    with pytest.raises(WorldError, match="503"):
        retries.retried("read it", down)
    assert 600 <= sum(slept) < 600 + retries.BACKOFF_CAP_SECONDS and max(slept) <= retries.BACKOFF_CAP_SECONDS
    slept.clear()
    with pytest.raises(MediaError):
        retries.retried("read it", short)
    assert len(slept) == retries.READING.attempts - 1 and sum(slept) < 200


def test_an_object_is_not_blamed_at_the_end_of_an_outage(monkeypatch) -> None:
    """The last answer before the deadline was short, and the five before it were the store's own faults."""
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(retries, "interruptible_sleep", lambda seconds: None)
    monkeypatch.setattr(retries.time, "monotonic", lambda: float(next(clock)))
    faults = iter([*[OSError("503")] * 5, *[retries.ShortRead("got 4 bytes of 10")] * 5])

    def call() -> str:
        raise next(faults)

    with pytest.raises(WorldError, match="got 4 bytes of 10"):
        retries.retried("read it", call)


def test_an_unknown_store_is_said_in_a_line() -> None:
    with pytest.raises(UsageError, match="cannot open nosuch:// sources"):
        sources.look_remote("nosuch://a/b")


@pytest.mark.parametrize("size", [None, -5])
def test_a_size_that_no_file_has_is_none(size) -> None:
    found = sources.found_remote("https://h/a.mp4", {"type": "file", "size": size, "ETag": "e"})
    assert (found.size_bytes, found.trouble) == (0, "unknown_size")
