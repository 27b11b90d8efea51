"""Archives whose headers lie about offsets and sizes: every member still becomes a row."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from deephotlink.transforms.archives.members import Member, ShardLimits
from deephotlink.transforms.archives.shards import list_members
from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.plan import plan_media
from deephotlink.transforms.probe import probe_media
from deephotlink.transforms.records import MediaOutcome
from deephotlink.transforms.tables.id_sets import SortedIds
from deephotlink.transforms.tables.plan_table import plan_from_table, plan_to_table

FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


class NoDecoder:
    """A pool that finds nothing in any file: what comes before it is what is looked at here."""

    sandbox_in_force = "off"

    def probe(self, request):
        return self

    def result(self):
        raise MediaError("unreadable", "nothing in it")


def ends(shard: Path) -> dict[str, str]:
    """How each member ends when a shard is listed, planned, and read as an audit does; the shard too, if it has a row.

    Anything that is raised but a fault of the data fails the test: a WorldError would be tried again for ever.
    """
    spool = shard.parent.with_name("spool")
    spool.mkdir(exist_ok=True)
    plan = plan_media(list_sources([str(shard.parent)]), SortedIds.from_batches([]))
    told = {}
    for file, known in plan_from_table(plan_to_table(plan.entries)):
        assert min(file.size_bytes, file.member_offset or 0, file.member_compressed_bytes or 0) >= 0
        outcome = known or probe_media((file, known), NoDecoder(), spool, False, 1 << 30, 1e5)  # type: ignore[arg-type]
        assert isinstance(outcome, MediaOutcome)
        if outcome.skipped_reason != "shard":
            name = file.member if file.member is not None else "SHARD"
            told[name] = outcome.failure.error_class if outcome.failure else str(outcome.skipped_reason)
    assert not list(spool.iterdir())
    assert "internal_error" not in told.values()
    return told


def header(name: str, size: int, **fields) -> bytearray:
    info = tarfile.TarInfo(name)
    info.size = max(size, 0)
    for field, value in fields.items():
        setattr(info, field, value)
    return bytearray(info.tobuf(tarfile.GNU_FORMAT))


def summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def of_size(name: str, size: int) -> bytes:
    """A header with a size in base 256, which has a sign."""
    block = header(name, 0)
    block[124:136] = (size & ((1 << 96) - 1) | (0x80 << 88 if size >= 0 else 0)).to_bytes(12, "big")
    return summed(block)


def pax(*records: tuple[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    body = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        body += str(length).encode() + rest
    return summed(header("pax", len(body), type=kind)) + padded(body)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes = FILM, **fields) -> bytes:
    return summed(header(name, len(data), **fields)) + padded(data)


END = bytes(1024)


@pytest.mark.parametrize("size", [-1, -256, -600, -(1 << 62), 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 80])
def test_a_tar_member_of_a_size_that_no_file_has(folder, size):
    (folder / "a.tar").write_bytes(member("good.mp4") + of_size("bad.mp4", size) + FILM + END)
    told = ends(folder / "a.tar")
    # A size that a table can hold, and the shard cannot, is a shard cut short.
    assert told == {
        "good.mp4": "unreadable",
        "bad.mp4": "truncated" if 0 <= size < 1 << 63 else "damaged_archive",
        "SHARD": "damaged_archive",
    }


@pytest.mark.parametrize("size", ["-600", "-256", "99999999999999", str(1 << 63), "1" * 40])
def test_a_size_in_a_pax_header_that_no_file_has(folder, size):
    data = member("good.mp4") + pax(("size", size)) + member("bad.mp4") + END
    (folder / "a.tar").write_bytes(data)
    told = ends(folder / "a.tar")
    assert told["good.mp4"] == "unreadable" and told["SHARD"] == "damaged_archive"
    assert told["bad.mp4"] == ("truncated" if size == "99999999999999" else "damaged_archive")


def test_a_moment_before_1970_or_none_is_no_matter(folder):
    for moment in ("-5.5", "nan", "-inf", "1e400", "soon"):
        (folder / "a.tar").write_bytes(pax(("mtime", moment)) + member("a.mp4") + END)
        assert ends(folder / "a.tar") == {"a.mp4": "unreadable"}


@pytest.mark.parametrize("seed", range(25))
def test_members_of_mutated_tars_and_zips_are_read_like_others(folder, seed):
    dice = random.Random(seed)
    tar, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=dice.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) as out:
        for n in range(4):
            info = tarfile.TarInfo("long/" * 30 * (n % 2) + f"{n}.mp4")
            info.size, info.mtime = len(FILM), 0.5 + n
            out.addfile(info, io.BytesIO(FILM))
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(4):
            archive.writestr(f"{n}.mp4", FILM, zipfile.ZIP_DEFLATED if n % 2 else zipfile.ZIP_STORED)
    for name, whole in (("a.tar", tar.getvalue()), ("a.zip", packed.getvalue())):
        for _ in range(8):
            data = bytearray(whole)
            for _ in range(dice.randrange(1, 12)):
                at = dice.randrange(len(data))
                if name == "a.tar" and dice.random() < 0.3:
                    at = dice.choice(range(0, len(data), 512)) + 124  # where a header says the size
                data[at : at + dice.choice([1, 1, 4, 8])] = dice.choice(
                    [b"\xff" * 8, b"\x80" + bytes(7), dice.randbytes(4), b"-9", b"\0"]
                )[: len(data) - at]
            if name == "a.tar" and dice.random() < 0.8:
                data = mended(data)
            (folder / name).write_bytes(data)
            ends(folder / name)
            (folder / name).unlink()


def mended(tar: bytearray) -> bytearray:
    """With checksums that are right wherever a header was: a mutated one is then believed."""
    for at in range(0, len(tar) - 511, 512):
        if tar[at + 257 : at + 262] == b"ustar":
            tar[at : at + 512] = summed(tar[at : at + 512])
    return tar


def broken_past_a_full_piece() -> bytes:
    """A deflated film whose end is none, found out only when all of it was taken and a piece of 1 MiB was full."""
    for more in range(258):
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        whole = packer.compress(FILM) + packer.flush(zlib.Z_FULL_FLUSH)
        whole += packer.compress(bytes((1 << 20) - len(FILM) + more)) + packer.flush(zlib.Z_SYNC_FLUSH)
        for bits in (0x80, 0xC0, 0xE0, 0xF0, 0xF8):  # the last bits before that flush's length: another type of block
            data = whole[:-5] + bytes([whole[-5] | bits])
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                inflate.decompress(data, 1 << 20)
            except zlib.error:
                continue
            if not inflate.unconsumed_tail:
                try:
                    inflate.decompress(b"", 1 << 20)
                except zlib.error:
                    return data
    raise AssertionError("no such stream")


def test_a_member_that_breaks_after_all_of_it_was_taken(folder):
    data = broken_past_a_full_piece()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("good.mp4", FILM, zipfile.ZIP_DEFLATED)
        archive.writestr("bad.mp4", data)
    whole = bytearray(packed.getvalue())
    entry = whole.index(b"PK\1\2", whole.index(b"PK\1\2") + 4)
    struct.pack_into("<H", whole, entry + 10, zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", whole, entry + 24, (1 << 20) + 300)
    (folder / "a.zip").write_bytes(whole)
    assert ends(folder / "a.zip") == {"good.mp4": "unreadable", "bad.mp4": "damaged_archive"}


def zip64(name: str, size: int, compressed: int, offset: int, data: bytes = FILM) -> bytes:
    """A zip of one stored member, of which the directory says these numbers in 64 bits."""
    called = name.encode()
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, len(data), len(data), len(called), 0) + called + data
    extra = struct.pack("<HHQQQ", 1, 24, size, compressed, offset)
    most = 0xFFFFFFFF
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, most, most, len(called), len(extra), 0, 0, 0, 0, most
    )
    directory = entry + called + extra
    return local + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)


@pytest.mark.parametrize(
    ("size", "compressed", "offset", "said"),
    [
        (len(FILM), len(FILM), 0, "unreadable"),
        (len(FILM) - 1, len(FILM), 0, "damaged_archive"),
        (1 << 62, 1 << 62, 0, "truncated"),
        (1 << 63, 1 << 63, 0, "damaged_archive"),
        ((1 << 64) - 1, (1 << 64) - 1, 0, "damaged_archive"),
        (len(FILM), len(FILM), 1 << 20, "damaged_archive"),
        (len(FILM), len(FILM), 1 << 62, "damaged_archive"),
        (len(FILM), len(FILM), (1 << 64) - 1, "damaged_archive"),
    ],
)
def test_zip64_numbers_that_do_not_fit(folder, size, compressed, offset, said):
    (folder / "a.zip").write_bytes(zip64("a.mp4", size, compressed, offset))
    assert ends(folder / "a.zip") == {"a.mp4": said}


def listed(kind: str, data: bytes, **limits) -> tuple[list[Member], MediaError | None]:
    class Bytes:
        uri = "/shard"

        def read(self, start: int, length: int) -> bytes:
            assert 0 <= start <= start + length <= len(data)
            return data[start : start + length]

    found: list[Member] = []
    try:
        for one in list_members(kind, Bytes(), len(data), ShardLimits(**limits)):  # type: ignore[arg-type]
            found.append(one)
    except MediaError as error:
        return found, error
    return found, None


def test_tars_are_read_as_tarfile_reads_them():
    odd = [
        pax(("path", "péx/" * 60 + "é.mp4")) + member("short.mp4"),
        pax(("mtime", "-3.5"), ("uname", "x" * 9000)) + member("b"),
    ]
    odd += [pax(("path", "all"), kind=tarfile.XGLTYPE) + member("c"), pax(("path", "one")) + member("d"), member("e")]
    odd += [pax(("path", "first")) + pax(("path", "second")) + member("f"), member("new-type", type=b"Z") + member("g")]
    made = [b"".join(odd)]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
            for name in (
                "a",
                "dir/" * 20 + "b" * 60,
                "ü\udcff.mp4",
                *(["n" * 300] if form != tarfile.USTAR_FORMAT else []),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(FILM)
                tar.addfile(info, io.BytesIO(FILM))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "t" * 90
            tar.addfile(link)
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            tar.addfile(tarfile.TarInfo("last"))
        made.append(out.getvalue())
    for data in made:
        with tarfile.open(fileobj=io.BytesIO(data + END), encoding="utf-8", errors="surrogateescape") as tar:
            theirs = [(info.name, info.offset_data) for info in tar if not info.isdir()]
        found, error = listed("tar", data + END)
        assert [(one.name, one.offset) for one in found] == theirs
        assert error is None and len(theirs) >= 5


def test_zips_are_read_as_zipfile_reads_them():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for n, name in enumerate(("a", "é/ü.mp4", "folder/", "x" * 300, "空.mp4")):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=bool(n % 2)) as entry:
                entry.write(b"" if name.endswith("/") else FILM[: 100 * n])
        archive.comment = b"a comment with PK in it"
        theirs = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    for before in (b"", b"MZ and other things before it"):
        data = before + out.getvalue()
        found, error = listed("zip", data)
        assert error is None
        assert {one.name: one.size_bytes for one in found} == theirs
        assert all(data[one.offset :][: one.size_bytes] == FILM[: one.size_bytes] for one in found)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        # Each record says that it is two bytes long and has its key in the rest of the header: 250 GB of keys.
        (tarfile.XHDTYPE, b"2 " * ((1 << 19) - 1) + b"2="),
        # `tarfile` looks for digits before "hdrcharset" from every place on (CVE-2024-6232).
        (tarfile.XHDTYPE, b"1048576 comment=" + b"1" * (1048576 - 17) + b"\n"),
        (tarfile.GNUTYPE_LONGNAME, b"\xff" * (1 << 20)),
    ],
    ids=["keys", "digits", "name"],
)
def test_an_extended_header_costs_what_its_length_does(kind, body):
    data = summed(header("x", len(body), type=kind)) + padded(body) + member("a.mp4") + END
    begun = time.process_time()
    tracemalloc.start()
    listed("tar", data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20 and time.process_time() - begun < 5


def test_headers_before_a_member_pile_up_neither_in_depth_nor_in_memory():
    long = summed(header("x", 100, type=tarfile.GNUTYPE_LONGNAME)) + padded(b"a" * 100)
    found, error = listed("tar", long * 20_000 + member("b") + END)
    assert error is None and [one.name for one in found] == ["a" * 100]
    lasting = b"".join(pax((f"key{n}", "x" * 50_000), kind=tarfile.XGLTYPE) for n in range(400))
    lasting += member("b") + END
    tracemalloc.start()
    found, error = listed("tar", lasting)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error is None and len(found) == 1
    assert peak < 20 << 20  # 16 of them are what is read ahead


def test_sparse_members_are_refused_and_what_follows_is_found():
    old = header("old", 512, type=tarfile.GNUTYPE_SPARSE)
    old[482], old[483:495] = 1, b"77777777777\0"
    sparse_map = bytes(504) + b"\1" + bytes(7) + bytes(512)
    data = summed(old) + sparse_map + bytes(512) + member("a")
    for records in (
        [("GNU.sparse.map", "0,5,9,5")],
        [("GNU.sparse.size", "-5"), ("GNU.sparse.numblocks", "1")],
        [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9" * 30)],
        [("GNU.sparse.realsize", "100000")],  # its bytes would be those of the members after it too
    ):
        data += pax(*records) + member("sparse") + member("b")
    found, error = listed("tar", data + END)
    assert error is None
    refused = [one.failure.error_class if one.failure else None for one in found]
    assert refused == ["unsupported_archive", None] * 5
    assert [one.size_bytes for one in found] == [512, len(FILM)] + [len(FILM)] * 8
    endless = summed(old) + (bytes(504) + b"\1" + bytes(7)) * 1000
    assert listed("tar", member("a") + endless)[1] is not None


def empty_entries(count: int, name: bytes = b"a") -> bytes:
    """A zip whose directory says `count` times the same."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *[0] * 7, len(name), *[0] * 6) + name
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entry) * count, len(local))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(local) + len(entry) * count, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return local + entry * count + record + locator + end


def test_a_zips_members_are_counted_before_they_take_memory():
    data = empty_entries(100_000)
    tracemalloc.start()
    found, error = listed("zip", data, max_members=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(found), error and error.error_class) == (1000, "too_large")
    assert error and "1000 members" in error.message
    assert peak < 3 * len(data)


def test_a_directory_that_is_too_large_gives_what_lies_in_its_first_part():
    found, error = listed("zip", empty_entries(2000), max_directory_bytes=47 * 100 + 20)
    assert (len(found), error and error.error_class) == (100, "too_large")
    assert error and error.message == "a directory of 94000 bytes: at most 4720 are allowed"


def test_folders_are_no_members():
    found, error = listed("zip", empty_entries(50, b"a/"), max_members=3)
    assert (found, error) == ([], None)
