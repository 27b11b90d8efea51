"""What it costs to plan a listing of a million entries, of each kind: peak memory above the imports, and seconds.

    python -m tests.bench.bench_planning [--entries N] [--kinds csv,tar,…]

Each kind is planned in a process of its own, by the same calls as `audit` makes: list, sort, freeze as `plan.parquet`;
`again` plans the same listing over a finished run that has them all, and `retry` one whose entries all failed. A bucket
is a server here that makes up its pages; the time is mostly that of the client, which reads XML in Python.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import REPOSITORY

FOLDER_FILES = 5000


def name(folder: Path, number: int) -> str:
    return f"{folder}/films/{number // FOLDER_FILES:05d}/a film of some length, number {number:08d}.mp4"


def make_csv(folder: Path, entries: int) -> str:
    path = folder / "listing.csv"
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, delimiter=";")
        writer.writerow(["id", "uri", "title"])
        writer.writerows([number, name(folder, number), "t"] for number in range(entries))
    return str(path)


def make_present(folder: Path, entries: int) -> str:
    make_folder(folder, entries)
    return make_csv(folder, entries)


def make_jsonl(folder: Path, entries: int) -> str:
    path = folder / "listing.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as f:
        f.writelines(json.dumps({"id": number, "uri": name(folder, number)}) + "\n" for number in range(entries))
    return str(path)


def make_parquet(folder: Path, entries: int) -> str:
    path = folder / "listing.parquet"
    pq.write_table(pa.table({"uri": [name(folder, number) for number in range(entries)]}), path)
    return str(path)


def make_folder(folder: Path, entries: int) -> str:
    for number in range(entries):
        path = name(folder, number)
        if number % FOLDER_FILES == 0:
            os.makedirs(os.path.dirname(path))
        with open(path, "wb") as f:
            f.write(b"\0\0\0\x18ftypmp42")
    return str(folder / "films")


def make_flat(folder: Path, entries: int) -> str:
    os.makedirs(folder / "flat")
    for number in range(entries):
        with open(f"{folder}/flat/a film of some length, number {number:08d}.mp4", "wb") as f:
            f.write(b"\0\0\0\x18ftypmp42")
    return str(folder / "flat")


def make_tar(folder: Path, entries: int) -> str:
    path = folder / "shard.tar"
    body = b"\0\0\0\x18ftypmp42".ljust(512, b"\0")
    with path.open("wb") as f:
        for number in range(entries):
            info = tarfile.TarInfo(f"films/a film of some length, number {number:08d}.mp4")
            info.size = 512
            f.write(info.tobuf(tarfile.USTAR_FORMAT) + body)
        f.write(bytes(1024))
    return str(path)


def make_members(folder: Path, entries: int) -> str:
    shard, path = make_tar(folder, entries), folder / "members.csv"
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["uri", "id"])
        for number in range(entries):
            writer.writerow([f"tar://films/a film of some length, number {number:08d}.mp4::{shard}", number])
    return str(path)


def make_bucket(folder: Path, entries: int) -> str:
    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            start = int(parse_qs(urlsplit(self.path).query).get("continuation-token", ["0"])[0])
            numbers = range(start, min(start + 1000, entries))
            more = numbers.stop < entries
            items = "".join(
                f"<Contents><Key>films/{n // FOLDER_FILES:05d}/a%20film%20number%20{n:08d}.mp4</Key>"
                f"<ETag>{n:032x}</ETag><Size>{n + 1}</Size>"
                "<LastModified>2026-11-23T10:00:00.000Z</LastModified></Contents>"
                for n in numbers
            )
            token = f"<NextContinuationToken>{numbers.stop}</NextContinuationToken>" if more else ""
            page = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}<EncodingType>url</EncodingType>{items}"
            body = f"<ListBucketResult>{page}</ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
    return "s3://bucket/films/"


KINDS: dict[str, Callable[[Path, int], str]] = {
    "csv": make_csv,
    "present": make_present,
    "jsonl": make_jsonl,
    "parquet": make_parquet,
    "folder": make_folder,
    "flat": make_flat,
    "tar": make_tar,
    "members": make_members,
    "bucket": make_bucket,
    "again": make_csv,
    "retry": make_csv,
}


def plan(source: str, out: str, kind: str) -> None:
    """In a process of its own: prints what it took as JSON."""
    from deephotlink.pipelines.jobs import make_plan, start_run
    from deephotlink.pipelines.options import AuditConfig, Parser, add_audit_arguments, audit_config
    from deephotlink.transforms.storage.output_store import open_store

    if source.startswith("s3://"):
        import s3fs  # noqa: F401

    parser = Parser()
    add_audit_arguments(parser)
    options = ["--retry-failures"] if kind == "retry" else []
    args, rest = parser.parse_known_args([source, "--output", out, "--detectors", "metadata", *options])
    config: AuditConfig = audit_config(args, rest)
    store, _ = open_store(out)
    before, begun = peak(), time.monotonic()
    with make_plan(config, store) as made:
        listed = time.monotonic() - begun
        if made.rows:
            start_run(config, store, made, f"{kind:0<64}", 1)
        facts = {"rows": made.rows, "done": made.already_done, "units": made.units, "listed_seconds": round(listed, 1)}
    print(json.dumps(facts | took(begun, before)))


def finish(out: str) -> None:
    """Makes the run finished, as if all its units had been committed and published, in a process of its own."""
    from deephotlink.transforms.commit import commit_known
    from deephotlink.transforms.publish import publish
    from deephotlink.transforms.storage.output_store import OutputStore
    from deephotlink.transforms.tables.runs import list_runs, pending_units

    store = OutputStore(out)
    (run,) = list_runs(store)
    before, begun = peak(), time.monotonic()
    commit_known(store, run, pending_units(store, run))
    committed = time.monotonic() - begun
    publish(store, run, complete=True)
    print(json.dumps({"rows": run.planned, "committed_seconds": round(committed, 1)} | took(begun, before)))


def took(begun: float, before: int) -> dict[str, float]:
    """CPU-seconds are those of the whole process, including imports."""
    facts = {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time()}
    return {**{k: round(v, 1) for k, v in facts.items()}, "peak_mib": peak() - before, "imports_mib": before}


def peak() -> int:
    """MiB. Not from `getrusage`, which begins with the memory of the process that started this one."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) >> 10  # type: ignore[index]


def child(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.bench.bench_planning", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--child", nargs=4, metavar=("WHAT", "SOURCE", "OUT", "KIND"))
    args = parser.parse_args()
    if args.child:
        what, source, out, kind = args.child
        return plan(source, out, kind) if what == "plan" else finish(out)
    for kind in args.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            source, out = KINDS[kind](Path(folder), args.entries), f"{folder}/out"
            if kind in ("again", "retry"):
                child("--child", "plan", source, out, "csv")
                print(f"{'finish':8} {child('--child', 'finish', source, out, kind)}", flush=True)
            print(f"{kind:8} {child('--child', 'plan', source, out, kind)}", flush=True)
    return None


if __name__ == "__main__":
    main()
