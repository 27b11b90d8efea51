"""Planted secrets and hostile names in whole jobs: no output shows them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_video
from tests.chaos.launching import Job, Server, failures
from tests.chaos.web import Manner, Web
from tests.numbered import ffmpeg

QUERY, PASSWORD, KEY, SECRET, TOKEN, OTHER, ECHO = (
    f"CANARY{kind}x7Qd" for kind in ("QUERY", "PASSWORD", "KEY", "SECRET", "TOKEN", "OTHER", "ECHO")
)
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
SPOOL = "canary-spool"
NEEDLES = (QUERY, PASSWORD, KEY, SECRET, TOKEN, OTHER, ECHO, BASIC.rstrip("="), SPOOL)
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={SECRET}",
    "HF_TOKEN": TOKEN,
    "AWS_MAX_ATTEMPTS": "1",
    "DATABASE_PASSWORD": OTHER,
    "CHAOS_NAP_SECONDS": "0.1",
    "CHAOS_ATTEMPT_SECONDS": "1",
}
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""What moves a cursor, turns text round, or hides in it."""
HOSTILE_NAMES = (
    "<script>alert(1)<\\script>.mp4",
    "'\"><img src=x onerror=alert(1)>.mp4",
    '=HYPERLINK("http:||evil","click").mp4',
    "@SUM(1).mp4",
    "\x1b]0;owned\x07\x1b[31mred.mp4",
    "gpj.\u202egpj.mp4",
    "two\nlines\r\n\x00".replace("\x00", "") + ".mp4",
    "bell\x07 back\x08.mp4",
    "c1\x9b31m.mp4",
    os.fsdecode(b"no-utf8-\xff\xfe.mp4"),
    "{{7*7}} ${HOME} %s %(x)s {0.__class__}.mp4",
    "[bold red]markup[bold].mp4",
    "zero\u200bwidth\ufeff.mp4",
    "' OR 1=1; drop table scores; --.mp4",
)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A film whose tags are hostile too."""
    folder = tmp_path_factory.mktemp("film")
    plain = make_video(folder / "plain.mp4", seconds=1, fps=8, size=(64, 48), audio="tone")
    hostile = "\x1b]0;owned\x07 <script>alert(1)</script> \u202e =cmd()"
    tags = [word for name in ("title", "comment", "encoder", "artist") for word in ("-metadata", f"{name}={hostile}")]
    ffmpeg("-i", plain, "-c", "copy", *tags, folder / "tagged.mp4")
    return (folder / "tagged.mp4").read_bytes()


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from texts(key)
            yield from texts(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from texts(below)


def found_in(text: str) -> list[str]:
    return [needle for needle in NEEDLES if needle in text]


def leaks(folder: Path) -> list[str]:
    """What should not be there, in the bytes and names of all files below, in unpacked Parquet and in its footers."""
    found: list[str] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found += [f"{path.name}: {needle}" for needle in found_in(str(path.relative_to(folder)))]
        data = path.read_bytes()
        found += [f"{path.name}: {needle}" for needle in NEEDLES if needle.encode() in data]
        if path.suffix == ".parquet":
            table = pq.read_table(io.BytesIO(data))
            footer = pq.read_metadata(io.BytesIO(data))
            places = {name: table.column(name).to_pylist() for name in table.column_names}
            places["(footer)"] = [footer.metadata or {}, table.schema.metadata or {}]
            for name, values in places.items():
                for text in texts(values):
                    found += [f"{path.name}.{name}: {needle}" for needle in found_in(text)]
                    if CONTROL.search(text) and name not in RAW:
                        found.append(f"{path.name}.{name}: control character in {text!r}")
        elif path.suffix in (".json", ".html"):
            if CONTROL.search(data.decode().replace("\n", "")):
                found.append(f"{path.name}: control character")
            if path.suffix == ".json":
                found += [f"{path.name}: {t!r}" for t in texts(json.loads(data)) if CONTROL.search(t)]
            elif re.search(r"<img|<script>\s*alert|<[a-z][^>]*onerror=", data.decode(), re.I):
                found.append(f"{path.name}: markup out of a name")
    return found


RAW = frozenset({"path_bytes", "name_bytes", "(footer)"})
"""Bytes by which files are opened again, exactly; nobody is shown them."""


def said_ill(job: Job) -> list[str]:
    """The same in what a command printed. A table on the terminal has its own line ends."""
    text = job.told()
    return found_in(text) + [f"control character: {m[0]!r}" for m in CONTROL.finditer(text.replace("\n", ""))]


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    """In a compressed column, a footer, a name and a page."""
    table = pa.table({"uri": ["x"] * 99 + [f"a?sig={QUERY}", "bell\x07"]})
    pq.write_table(table.replace_schema_metadata({"note": TOKEN}), tmp_path / f"{KEY}.parquet", compression="zstd")
    (tmp_path / "report.html").write_text(f"<p>/tmp/{SPOOL}/x</p><script>alert(1)</script>")
    found = "\n".join(leaks(tmp_path))
    for wanted in (QUERY, TOKEN, KEY, SPOOL, "control character", "markup"):
        assert wanted in found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / SPOOL
    folder.mkdir()
    return folder


def shard_of(film: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, name in enumerate(HOSTILE_NAMES):
            if "\udcff" not in name:
                archive.writestr(f"{number}/{name}", film)
        archive.writestr("damaged.mp4", film[: len(film) // 3])
    return packed.getvalue()


def test_nothing_secret_comes_out_of_an_audit(
    server: Server, web: Web, film: bytes, spool: Path, tmp_path: Path
) -> None:
    """Good, damaged, missing, cut, short and dripping files, also in shards, under addresses that hold secrets."""
    web.password = f"Basic {BASIC}"
    bad = b"\x1b[31m not a film " * 40
    bodies = {"good": film, "gone": film, "short": film, "cut": film, "drip": film, "damaged": film[:3000], "text": bad}
    web.files = {f"/{name}.mp4": body for name, body in bodies.items()} | {"/shard.zip": shard_of(film)}
    web.manners = {
        "/gone.mp4": Manner(status=404, body=ECHO.encode(), silent_head=False),
        "/short.mp4": Manner(missing=5),
        "/cut.mp4": Manner(cut_after=100),
        "/drip.mp4": Manner(drip_seconds=0.5),
    }
    local = tmp_path / "local"
    local.mkdir()
    for name in HOSTILE_NAMES:
        for prefix, body in (("", film), ("damaged ", film[: len(film) // 3])):
            with open(os.fsencode(local / (prefix + name)), "wb") as file:
                file.write(body)
    listing = tmp_path / "films.csv"
    address = f"http://me:{PASSWORD}@{web.host}"
    rows = "".join(f"{address}{name}?X-Amz-Signature={QUERY}&part=1#{QUERY}\n" for name in web.files)
    listing.write_text("uri\n" + rows)
    out, display = tmp_path / "out", tmp_path / "display"
    options = ("--detectors", "metadata,chaos_look,chaos_listen", "--unit-size", "8")
    more = {**ENVIRONMENT, "TMPDIR": str(spool), "CHAOS_DISPLAY_DATA": str(display)}
    jobs = [server.start("audit", listing, local, "--output", out, *options, **more)]
    assert jobs[0].wait() == 0, jobs[0].told()
    told = {uri.rpartition("/")[2]: kind for uri, kind in failures(out).items() if uri.startswith(web.url)}
    assert {told.get(f"{n}.mp4") for n in ("short", "cut", "drip")} == {"read_short"} and told["gone.mp4"] == "missing"
    for arguments in (
        ("audit", listing, local, "--output", out, *options, "--retry-failures", "--json"),
        ("audit", listing, local, "--output", out, *options, "--dry-run"),
        ("check", out),
        ("query", out, "from failures"),
        ("query", out, "select * from scores", "--json"),
        ("quarantine", out),
        ("quarantine", out, "--output", tmp_path / "quarantine.csv"),
        ("detectors",),
    ):
        jobs.append(server.start(*arguments, **more))
        assert jobs[-1].wait() == 0, jobs[-1].told()
    assert leaks(out) == []
    assert {n: ill for n, job in enumerate(jobs) if (ill := said_ill(job))} == {}
    listed = (tmp_path / "quarantine.csv").read_text()
    assert found_in(listed) == [] and not CONTROL.search(listed.replace("\r\n", "").replace("\n", ""))
    assert display.stat().st_size > 500 and found_in(display.read_text(errors="replace")) == []
    assert list(spool.iterdir()) == []
    assert web.gets["/good.mp4"]  # it was asked for with the secrets, by name and password
    places = scored(out)
    assert f"{web.url}/good.mp4" in places and len(places) == 2 * len(
        HOSTILE_NAMES
    )  # one of them can be no name in a zip


def scored(out: Path) -> set[str]:
    return {row["uri"] for row in run_query(str(out), "select distinct uri from scores").to_pylist()}


@pytest.mark.parametrize("status", [403, 500])
def test_nothing_secret_comes_out_of_a_job_that_cannot_go_on(
    server: Server, web: Web, film: bytes, spool: Path, tmp_path: Path, status: int
) -> None:
    """Stores that refuse, over HTTP and S3, and repeat the request's secrets in their answers: messages include what S3
    says."""
    page = f"<h1>{ECHO} {PASSWORD} {QUERY} {BASIC}</h1>".encode()
    echo = f"<Error><Code>Nope</Code><Message>no such key: {KEY} {TOKEN}</Message></Error>".encode()
    web.files = {"/a.mp4": film, "/b.mp4": film}
    web.manners = {"/b.mp4": Manner(status=status, body=page, silent_head=False)}
    for path in ("/bucket/c.mp4", "/bucket", "/bucket/", "/bucket/_runs"):
        web.manners[path] = Manner(status=status, body=echo, silent_head=False)
    listing = tmp_path / "films.csv"
    listing.write_text(f"uri\nhttp://me:{PASSWORD}@{web.host}/b.mp4?sig={QUERY}\n")
    more = {**ENVIRONMENT, "TMPDIR": str(spool), "AWS_ENDPOINT_URL": web.url, "AWS_DEFAULT_REGION": "us-east-1"}
    out = tmp_path / "out"
    options = ("--detectors", "metadata")
    address = f"http://me:{PASSWORD}@{web.host}/b.mp4?sig={QUERY}"
    jobs = [
        server.start("audit", source, "--output", output, *options, *quiet, **more)
        for source, output, quiet in (
            (listing, out, ()),
            (address, out, ("--quiet",)),
            ("s3://bucket/c.mp4", out, ()),
            (listing, "s3://bucket/out", ()),
            (address, f"http://me:{PASSWORD}@{web.host}/out?sig={QUERY}", ()),
            (f"http://me:{PASSWORD}@127.0.0.1:9/x.mp4?sig={QUERY}", out, ()),
            (f"https://me:{PASSWORD}@host:port/x.mp4?sig={QUERY}", out, ()),
        )
    ]
    for job in jobs:
        assert job.wait() in (2, 75), job.told()
        assert job.told().strip(), "it said nothing"
        assert said_ill(job) == [], job.told()
    assert leaks(out) == [] if out.exists() else True
    assert list(spool.iterdir()) == []
