"""Tar and zip shards: offsets that are right, and archives that were made to hurt."""

import io
import struct
import tarfile
import zipfile

import pytest

from deephotlink.transforms.archives.members import Member, ShardLimits
from deephotlink.transforms.archives.shards import list_members, shard_kind
from deephotlink.transforms.failures import MediaError


class Bytes:
    """A blob that counts its requests."""

    uri = "/shard"

    def __init__(self, data: bytes):
        self.data, self.requests = data, 0

    def read(self, start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= len(self.data)
        self.requests += 1
        return self.data[start : start + length]


def walk(data: bytes, kind: str = "tar", limits: ShardLimits | None = None) -> tuple[list[Member], str | None]:
    members: list[Member] = []
    try:
        for member in list_members(kind, Bytes(data), len(data), limits or ShardLimits()):  # type: ignore[arg-type]
            members.append(member)
    except MediaError as error:
        return members, error.error_class
    return members, None


def make_tar(*entries: tuple[str, bytes] | tarfile.TarInfo, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_zip(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_members_lie_where_they_are_said_to(tar_format: int) -> None:
    long = "d/" * 60 + "x.mp4"
    data = make_tar(("a.mp4", b"first"), (long, b"second" * 500), ("empty", b""), tar_format=tar_format)
    assert shard_kind(data[:512]) == "tar"
    members, fault = walk(data)
    assert fault is None
    assert [(m.name, m.skip) for m in members] == [("a.mp4", None), (long, None), ("empty", "empty")]
    assert data[members[0].offset :][:5] == b"first"
    assert data[members[1].offset :][: members[1].size_bytes] == b"second" * 500


def test_tar_names_are_only_names() -> None:
    data = make_tar(
        ("../../etc/passwd", b"x"),
        ("/abs.mp4", b"y"),
        ("same.mp4", b"1"),
        ("same.mp4", b"2"),
        special("soft", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "same.mp4"),
        special("dev", tarfile.CHRTYPE),
        special("fifo", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
    )
    members, fault = walk(data)
    assert fault is None
    assert [(m.name, m.skip) for m in members] == [
        ("../../etc/passwd", None),
        ("/abs.mp4", None),
        ("same.mp4", None),
        ("same.mp4", None),
        ("soft", "link"),
        ("hard", "link"),
        ("dev", "not_a_file"),
        ("fifo", "not_a_file"),
    ]
    assert members[2].offset != members[3].offset


def test_damaged_tars_give_what_comes_before() -> None:
    data = make_tar(("a", b"1" * 600), ("b", b"2" * 600), ("c", b"3" * 600))
    at_c = walk(data)[0][2].offset
    cut, fault = walk(data[: at_c + 100])
    assert fault == "damaged_archive"
    assert [m.failure.error_class if m.failure else None for m in cut] == [None, None, "truncated"]
    wrecked = data[: at_c - 512] + b"\xaa" * 512 + data[at_c:]
    members, fault = walk(wrecked)
    assert ([m.name for m in members], fault) == (["a", "b"], "damaged_archive")
    assert walk(data[: at_c - 512]) == (walk(data)[0][:2], None)  # no end mark: older writers leave it out
    assert walk(bytes(10240)) == ([], None)


def test_a_tar_header_may_not_ask_for_everything() -> None:
    greedy = tarfile.TarInfo("pax")
    greedy.type, greedy.size = tarfile.XHDTYPE, 5 << 20
    data = make_tar(("a", b"1")).rstrip(b"\0")
    data += bytes(-len(data) % 512) + greedy.tobuf() + bytes(6 << 20)
    members, fault = walk(data)
    assert ([m.name for m in members], fault) == (["a"], "damaged_archive")


@pytest.mark.parametrize("seed", range(40))
def test_mutated_tars_and_zips_never_crash(seed: int) -> None:
    import random

    dice = random.Random(seed)
    for kind, made in (("tar", make_tar), ("zip", make_zip)):
        data = bytearray(made(*((f"{i}.mp4", bytes(dice.randrange(900))) for i in range(6))))
        for _ in range(dice.randrange(1, 30)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        members, _ = walk(bytes(data[: dice.randrange(len(data) // 2, len(data) + 1)]), kind)
        assert len(members) < 20
        for member in members:
            assert min(member.offset, member.size_bytes, member.compressed_bytes or 0) >= 0


def test_zip_members_lie_where_they_are_said_to() -> None:
    stored = make_zip(("d/a.mp4", b"first"), ("b.mp4", b"second" * 50), compression=zipfile.ZIP_STORED)
    members, fault = walk(stored, "zip")
    assert (shard_kind(stored[:512]), fault) == ("zip", None)
    assert [stored[m.offset :][: m.size_bytes] for m in members] == [b"first", b"second" * 50]
    assert all(m.compressed_bytes is None for m in members)
    deflated, _ = walk(make_zip(("b.mp4", b"second" * 50)), "zip")
    assert deflated[0].size_bytes == 300
    assert deflated[0].compressed_bytes is not None and deflated[0].compressed_bytes < 50


def test_zips_that_hurt() -> None:
    bomb = make_zip(("bomb.mp4", bytes(20 << 20)), ("good.mp4", b"good"))
    members, fault = walk(bomb, "zip")
    classes = [m.failure.error_class if m.failure else None for m in members]
    assert (classes, fault) == (["too_large", None], None)

    locked = bytearray(make_zip(("a.mp4", b"secret"), compression=zipfile.ZIP_STORED))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    members, _ = walk(bytes(locked), "zip")
    assert members[0].failure and members[0].failure.error_class == "encrypted"

    squeezed = make_zip(("a.mp4", b"abc"), compression=zipfile.ZIP_LZMA)
    members, _ = walk(squeezed, "zip")
    assert members[0].failure and members[0].failure.error_class == "unsupported_archive"

    link = zipfile.ZipInfo("link.mp4")
    link.create_system, link.external_attr = 3, 0xA1FF << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert [m.skip for m in walk(out.getvalue(), "zip")[0]] == ["link"]


def test_a_zip_without_its_directory_gives_what_comes_before() -> None:
    data = make_zip(("a.mp4", b"1" * 60), ("b.mp4", b"2" * 60), compression=zipfile.ZIP_STORED)
    members, fault = walk(data[: data.index(b"PK\x01\x02")], "zip")
    assert ([m.name for m in members], fault) == (["a.mp4", "b.mp4"], "damaged_archive")


def test_a_header_elsewhere_than_the_directory_says() -> None:
    data = bytearray(make_zip(("a.mp4", b"1"), ("b.mp4", b"2"), compression=zipfile.ZIP_STORED))
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 42, 7)
    members, fault = walk(bytes(data), "zip")
    assert fault is None
    assert sorted(m.failure.error_class if m.failure else "" for m in members) == ["", "damaged_archive"]


@pytest.mark.parametrize("name", ["[Content_Types].xml", "META-INF/MANIFEST.MF", "mimetype"])
def test_documents_are_no_shards(name: str) -> None:
    assert walk(make_zip((name, b"x"), ("film.mp4", b"y")), "zip") == ([], "not_media")


def test_limits() -> None:
    data = make_tar(*((f"{i}", b"x") for i in range(5)))
    members, fault = walk(data, limits=ShardLimits(max_members=3))
    assert (len(members), fault) == (3, "too_large")
    members, _ = walk(data, limits=ShardLimits(max_bytes=0))
    assert all(m.failure and m.failure.error_class == "too_large" for m in members)


def test_small_members_are_read_in_large_pieces() -> None:
    data = make_tar(*((f"{i}", b"x" * 2000) for i in range(3000)))
    blob = Bytes(data)
    assert sum(1 for _ in list_members("tar", blob, len(data), ShardLimits())) == 3000
    assert blob.requests < 12


def test_which_files_are_shards() -> None:
    import gzip

    tar = make_tar(("a", b"b"))
    old = bytearray(tar)
    old[257:265] = bytes(8)
    old[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(old[:512]))[0]
    assert shard_kind(bytes(old[:512]), "/x/v7.tar") == "tar"
    assert shard_kind(bytes(old[:512]), "/x/film.mp4") is None
    assert shard_kind(gzip.compress(tar)[:512], "/x/a") == "unsupported"
    assert shard_kind(gzip.compress(b"log")[:512], "/x/log.gz") is None
    assert shard_kind(b"7z\xbc\xaf\x27\x1c\0\4") == "unsupported"
    assert shard_kind(b"\0\0\0\x18ftypmp42" + bytes(500)) is None
    assert shard_kind(bytes(512), "/x/empty.tar") == "tar"
    assert shard_kind(bytes(512), "/x/zeros.mp4") is None
