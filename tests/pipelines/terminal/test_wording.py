import doctest
import os
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deephotlink.pipelines import runners
from deephotlink.pipelines.outputs import query
from deephotlink.pipelines.terminal import printing, progress, wording
from deephotlink.pipelines.terminal.wording import counted, seconds, shell_word, told_apart


@pytest.mark.parametrize("module", [wording, printing, progress, query, runners])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_counts_and_seconds_read_as_they_are_said():
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [seconds(s) for s in (0, 0.01, 0.5, 1, 1.96, 9.94, 10.4, 227)] == [
        "0",
        "0.1",
        "0.5",
        "1",
        "2",
        "9.9",
        "10",
        "227",
    ]


def test_names_show_where_they_differ():
    long = "a_very_long_name_that_all_the_films_of_one_evening_have_in_common"
    folder, names = told_apart([f"/films/{long}__interview_take{n}.mp4" for n in (1, 2)], 30)
    assert folder == "/films" and names[0].endswith("take1.mp4") and names[1].endswith("take2.mp4")
    _, names = told_apart([f"/films/{n}_{long}.mp4" for n in (1, 2)], 30)
    assert names[0].startswith("1_") and names[1].startswith("2_") and max(map(len, names)) <= 30
    _, names = told_apart([f"/films/{long}_{n}_{long}.mp4" for n in (1, 2)], 30)
    assert len(set(names)) == 2 and max(map(len, names)) <= 30


def test_the_common_folder_is_told_once_and_members_with_their_shard():
    assert told_apart(["/a/b/c.mp4", "/a/d.mp4"], 40) == ("/a", ["b/c.mp4", "d.mp4"])
    assert told_apart(["/a/b/c.mp4"], 40) == ("/a/b", ["c.mp4"])
    assert told_apart(["/c.mp4", "/a/c.mp4"], 40) == ("/", ["c.mp4", "a/c.mp4"])
    assert told_apart(["s3://b/x/c.mp4", "s3://b/y/c.mp4"], 40) == ("s3://b", ["x/c.mp4", "y/c.mp4"])
    assert told_apart(["s3://b/c.mp4", "/a/c.mp4"], 40) == ("", ["s3://b/c.mp4", "/a/c.mp4"])
    assert told_apart(["tar://x/c.mp4::/a/s.tar", "/a/s.mp4"], 40) == ("/a", ["x/c.mp4 in s.tar", "s.mp4"])
    assert told_apart([], 40) == ("", [])


PARTS = st.text("ab/_é:. ", min_size=1, max_size=60)


@settings(deadline=None)
@given(st.lists(PARTS.map(lambda part: "/" + part), min_size=1, max_size=6, unique=True), st.integers(10, 40))
def test_different_files_never_look_the_same(uris, width):
    folder, names = told_apart(uris, width)
    assert len(names) == len(uris)
    whole, _ = told_apart(uris, 10_000)
    full = told_apart(uris, 10_000)[1]
    assert folder == whole and len(set(names)) == len(set(full))
    for name, complete in zip(names, full, strict=True):
        assert name == complete or "..." in name


@example(b"\x80\n", "ascii")
@example(b"\n", "utf-8")
@settings(deadline=None, max_examples=30)
@given(
    st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name),
    st.sampled_from(["ascii", "utf-8", "cp1252"]),
)
def test_a_shell_gives_every_name_back(name, encoding):
    text = os.fsdecode(name)
    word = shell_word(text, encoding)
    assert word.encode(encoding) and (word.isprintable() or text.endswith("\n"))
    found = subprocess.run(["sh", "-c", f"printf '%s' {word}"], capture_output=True, check=True).stdout
    assert found == (b"./" + name if name.startswith(b"-") else name)


def test_a_plain_name_stays_plain():
    assert [shell_word(name) for name in ("scores", "s3://bucket/out", "../a.b")] == [
        "scores",
        "s3://bucket/out",
        "../a.b",
    ]
