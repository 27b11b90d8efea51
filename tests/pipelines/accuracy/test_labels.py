"""Labels as a spreadsheet saves them: which file each line is about, and the error if that is unclear."""

import os

import pytest

from deephotlink.pipelines.accuracy.labels import Label, join, read_labels, without_secrets
from deephotlink.transforms.failures import UsageError

IDS = {"a": "aa" * 32, "b": "bb" * 32, "c": "cc" * 32}


def row(name, uri, run_id="1"):
    return {"media_id": IDS.get(name, name), "uri": uri, "run_id": run_id}


ROWS = [row("a", "/films/one/x.mp4"), row("b", "/films/two/x.mp4"), row("c", "s3://bucket/two/y.mp4")]


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "labels.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path):
    with pytest.raises(UsageError) as error:
        read_labels(path)
    return str(error.value)


def test_a_spreadsheets_marks_ends_and_separators_are_fine(written):
    plain = read_labels(written("uri,label,group\na.mp4,real,g\n\nb.mp4,Fake,\n"))
    assert [(r.line, r.uri, r.fake, r.group) for r in plain.rows] == [(2, "a.mp4", False, "g"), (4, "b.mp4", True, "")]
    for other in (
        b"\xef\xbb\xbfuri,label,group\r\na.mp4,real,g\r\n\r\nb.mp4,Fake,\r\n",
        b"URI; Label ;group\r\na.mp4;real;g\r\n;;\r\nb.mp4; fake\r\n",
        b'uri\tlabel\tgroup\n"a.mp4"\treal\tg\n\n b.mp4\tFAKE\t\n',
    ):
        found = read_labels(written(other))
        assert found.rows == plain.rows and found.sha256 != plain.sha256
    extra = read_labels(written("uri,label,familiy\na,real,x\n"))
    assert extra.ignored == ("familiy",) and extra.rows[0].family == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,label\na,real\n", ["line 1", "`uri` or `media_id`", "Found: name, label"]),
        ("uri,truth\na,real\n", ["line 1", "`label`", "Found: uri, truth"]),
        ("", ["line 1", "Found: nothing"]),
        ("uri,uri,label\na,a,real\n", ["line 1", "found uri twice"]),
        ("uri,label\na,real\nb,genuine\n", ["line 3", "real or fake", "'genuine'"]),
        ("uri,label\na,\n", ["line 2", "real or fake", "''"]),
        ("uri,label\n,real\n", ["line 2", "a uri or a media_id", "neither"]),
        ("uri,label\na, b.mp4,real\n", ["line 2", "2 fields", "found 3", "quotes"]),
        ("uri,label\n", ["no data lines"]),
        (b"uri,label\na,real\nf\xfc.mp4,fake\n", ["line 3", "UTF-8"]),
        ("uri,label\n" + "x,maybe\n" * 9, ["line 2", "line 4", "and 6 more"]),
    ],
)
def test_what_is_wrong_is_told_by_line(written, text, told):
    said = refused(written(text))
    assert all(part in said for part in told), said


def test_a_file_that_is_not_there(tmp_path):
    assert "none.csv" in refused(tmp_path / "none.csv")


def test_a_label_finds_its_media_by_id_name_or_end(written, tmp_path):
    beside = row("here", f"{tmp_path}/sub/z.mp4")
    text = f"uri,media_id,label\n,{IDS['a'].upper()},real\ntwo/x.mp4,,fake\ns3://user@bucket/two/y.mp4,,real\n"
    joined = join(read_labels(written(text + "sub/z.mp4,,real\n./nothing.mp4,,real\n")), [*ROWS, beside])
    assert [(label.line, found["media_id"]) for label, found in joined.pairs] == [
        (2, IDS["a"]),
        (3, IDS["b"]),
        (4, IDS["c"]),
        (5, "here"),
    ]
    assert [label.line for label in joined.unmatched] == [6] and joined.unlabelled == 0
    some = join(read_labels(written("uri,label\n/films/one/x.mp4,real\n")), ROWS)
    assert len(some.pairs) == 1 and some.unlabelled == 2


def test_an_end_begins_at_a_slash(written):
    joined = join(read_labels(written("uri,label\no/y.mp4,real\n")), ROWS)
    assert not joined.pairs and len(joined.unmatched) == 1


def test_a_path_from_the_labels_folder_comes_before_an_end(written, tmp_path):
    rows = [row("far", "/elsewhere/x.mp4"), row("near", f"{tmp_path}/x.mp4")]
    joined = join(read_labels(written("uri,label\nx.mp4,real\n")), rows)
    assert [found["media_id"] for _, found in joined.pairs] == ["near"]


def test_labels_may_be_read_from_another_folder(written, tmp_path, monkeypatch):
    path = written("uri,label\nx.mp4,real\n")
    monkeypatch.chdir(tmp_path.parent)
    joined = join(read_labels(os.path.relpath(path)), [row("near", f"{tmp_path}/x.mp4"), *ROWS])
    assert joined.pairs[0][1]["media_id"] == "near"


def test_a_uri_that_several_media_have_is_refused(written):
    with pytest.raises(UsageError) as error:
        join(read_labels(written("uri,label\nx.mp4,real\n")), ROWS)
    said = str(error.value)
    assert "line 2" in said and "fits 2" in said and "/films/one/x.mp4" in said and "media_id" in said


def test_of_a_file_in_two_versions_the_newest_run_counts(written):
    rows = [row("old", "/f/x.mp4", "1"), row("new", "/f/x.mp4", "2"), row("other", "/f/y.mp4", "1")]
    joined = join(read_labels(written("uri,label\nx.mp4,real\n")), rows)
    assert [found["media_id"] for _, found in joined.pairs] == ["new"] and joined.unlabelled == 1
    by_id = join(read_labels(written("media_id,label\nold,real\n")), rows)
    assert [found["media_id"] for _, found in by_id.pairs] == ["old"]


def test_the_same_again_is_counted_and_a_contradiction_refused(written):
    text = "uri,label,group\none/x.mp4,real,g\n/films/one/x.mp4,real,g\n"
    assert join(read_labels(written(text)), ROWS).repeated == 1
    for last in ("/films/one/x.mp4,fake,g", "/films/one/x.mp4,real,h"):
        with pytest.raises(UsageError, match="lines 2 and 4 contradict each other"):
            join(read_labels(written(f"{text}{last}\n")), ROWS)


def test_an_address_is_told_without_its_secrets():
    label = Label(2, "https://me:secret@host/a.mp4?X-Amz-Signature=SECRET", "", False, "", "", "")
    assert without_secrets(label) == "https://host/a.mp4"
    assert without_secrets(Label(2, "films/a.mp4", "", False, "", "", "")) == "films/a.mp4"
