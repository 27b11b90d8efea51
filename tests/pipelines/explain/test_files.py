"""Which file `deephotlink explain` takes a name for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deephotlink.pipelines.explain.files import find_media_id
from deephotlink.pipelines.outputs.query import connect
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.records import MediaFile
from deephotlink.transforms.storage.uris import escape
from tests.reporting import make_output, make_result

HERE = str(Path.cwd())
URIS = (
    "/archive/news/a.mp4",
    "/archive/sport/a.mp4",
    "/archive/sport/late a.mp4",
    f"{HERE}/films/take 1.mp4",
    "s3://bucket/uploads/x%y_z.mp4",
    "https://host/films/clip.mp4",
    "tar://day/one.mp4::/archive/all.tar",
    "zip://day/one.mp4::s3://bucket/all.zip",
    escape("/archive/line\nbreak.mp4"),
    escape("/archive/latin-\udcff.mp4"),
    "/archive/it's [1] 100%.mp4",
    "/archive/pictures/100_ .mp4",
    "/archive/nested/all in one.mp4",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    files = [MediaFile(id_of(uri), uri, 1000 + at, f"{at}-1") for at, uri in enumerate(URIS)]
    # Two versions of one web address, as different queries give them.
    files += [MediaFile(id_of(f"twice {at}"), "https://host/twice.mp4", 10, "1-1") for at in range(2)]
    kinds = ("manipulated", "failed", "skipped", "inconclusive")
    make_output(out, [make_result(file, kinds[at % len(kinds)]) for at, file in enumerate(files)])
    with connect(str(out)) as connection:
        yield connection


def id_of(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        (id_of(URIS[0]), URIS[0]),
        (id_of(URIS[0]).upper(), URIS[0]),
        ("/archive/news/a.mp4", URIS[0]),
        ("/archive/./news//a.mp4", URIS[0]),
        ("file:///archive/news/a.mp4", URIS[0]),
        ("news/a.mp4", URIS[0]),
        ("films/take 1.mp4", URIS[3]),
        ("./films/take 1.mp4", URIS[3]),
        ("films/../films/take 1.mp4", URIS[3]),
        ("take 1.mp4", URIS[3]),
        ("e 1.mp4", URIS[3]),
        ("x%y_z.mp4", URIS[4]),
        ("s3a://bucket/uploads/x%y_z.mp4", URIS[4]),
        ("https://me:secret@host/films/clip.mp4?signature=abc", URIS[5]),
        ("tar://day/one.mp4::/archive/all.tar", URIS[6]),
        ("one.mp4 in all.tar", URIS[6]),
        ("day/one.mp4 in archive/all.tar", URIS[6]),
        ("one.mp4 in all.zip", URIS[7]),
        ("line\nbreak.mp4", URIS[8]),
        ("line\\x0abreak.mp4", URIS[8]),
        ("latin-\udcff.mp4", URIS[9]),
        ("latin-\\xff.mp4", URIS[9]),
        ("it's [1] 100%.mp4", URIS[10]),
        ("100%.mp4", URIS[10]),
        ("100_ .mp4", URIS[11]),
        ("all in one.mp4", URIS[12]),
    ],
)
def test_a_name_finds_its_file(tables, given, uri):
    assert find_media_id(tables, given) == id_of(uri)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a.mp4", "2 audited files end in 'a.mp4': news/a.mp4, sport/a.mp4; give more of the name, or the media_id"),
        (".mp4", "and 10 more; give more"),
        ("one.mp4", "2 audited files end in 'one.mp4'"),
        ("https://host/twice.mp4", id_of("twice 1")),
        ("tape 1.mp4", "no audited file is called 'tape 1.mp4'; the nearest: "),
        ("tape 1.mp4", "take 1.mp4"),
        ("IN ONE", "no audited file is called 'IN ONE'; the nearest: all in one.mp4"),
        ("ZZZZ", "and none has a name like it: expected a URI"),
        ("%", "no audited file is called '%'"),
        ("", "expected a FILE"),
        (" ", "expected a FILE"),
        ("\x1b]0;owned\x07", "'\\x1b]0;owned\\x07'"),
        ("'; drop view files; --", "no audited file is called"),
        ("f" * 64, "no audited file is called"),
    ],
)
def test_no_file_or_several_are_told_with_the_nearest(tables, given, said):
    with pytest.raises(UsageError) as raised:
        find_media_id(tables, given)
    assert said in str(raised.value)
