"""Commands in processes of their own, their children, and a watch that checks the tables while they work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deephotlink.pipelines.outputs.check import Violation, check_output

REPOSITORY = Path(__file__).resolve().parents[2]
TABLES = ("scores", "failures", "skipped")
WORKERS = os.environ.get("CHAOS_WORKERS", "")
"""Of audits that name no number of workers themselves; the audits of the suite are too small for several by default."""


@dataclass
class Job:
    pid: int
    said: Path
    server: Server
    code: int | None = None

    def poll(self) -> int | None:
        self.server.hear(0)
        return self.code

    def wait(self, seconds: float = 600) -> int:
        until = time.monotonic() + seconds
        while self.code is None and time.monotonic() < until:
            self.server.hear(0.2)
        assert self.code is not None, f"not done after {seconds} s; it said: {self.told()}"
        return self.code

    def kill(self) -> None:
        """Kills the command and its whole group at once, as a cluster or the kernel does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def told(self) -> str:
        return self.said.read_text(errors="replace") if self.said.exists() else ""


@dataclass
class Server:
    """tests/chaos/job.py as a server: a command starts in a moment."""

    folder: Path
    jobs: dict[int, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.job"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=REPOSITORY, bufsize=0)
        self._lines: list[dict] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        self._await(lambda words: "ready" in words, 300)

    def start(self, *arguments: str | Path, **environment: str) -> Job:
        """Starts `audit …`, for example. Its output is kept beside its TMPDIR, which is its own unless one is given."""
        number = len(self.jobs)
        said = self.folder / f"said-{number}"
        assert self.process.stdin is not None
        environment = {"TMPDIR": str(self.folder), **environment}
        if WORKERS and arguments[0] == "audit" and "--workers" not in arguments:
            arguments = (*arguments, "--workers", WORKERS)
        words = {"arguments": [os.fspath(a) for a in arguments], "environment": environment, "said": str(said)}
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        job = Job(int(self._await(lambda words: "code" not in words, 60)["pid"]), said, self)
        self.jobs[job.pid] = job
        return job

    def hear(self, seconds: float) -> None:
        """Records which commands have ended."""
        with self._changed:
            if not any("code" in words for words in self._lines):
                self._changed.wait(seconds)
            for words in [words for words in self._lines if "code" in words]:
                self._lines.remove(words)
                self.jobs[words["pid"]].code = words["code"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(json.loads(line))
                self._changed.notify_all()

    def _await(self, wanted, seconds: float) -> dict:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(wanted, self._lines)), seconds), "the server does not answer"
            found = next(words for words in self._lines if wanted(words))
            self._lines.remove(found)
            return found


@contextmanager
def watched(out: Path | str, pause: float = 0.5) -> Iterator[list[Violation]]:
    """Checks the invariant again and again while the body runs, and once more at its end. Fails on any violation."""
    seen: list[Violation] = []
    looks, done = [0], threading.Event()

    def look() -> None:
        from deephotlink.transforms.failures import UsageError

        with contextlib.suppress(UsageError):  # there is no run yet
            seen.extend(check_output(str(out)))
            looks[0] += 1

    def again() -> None:
        while not done.wait(pause):
            look()

    watch = threading.Thread(target=again, daemon=True)
    watch.start()
    try:
        yield seen
    finally:
        done.set()
        watch.join(60)
    look()
    assert seen == [], f"after {looks[0]} looks: {[str(violation) for violation in seen]}"


def exact(out: Path | str, planned: set[str]) -> Mapping[str, str]:
    """The table that each URI is in, after asserting that every planned one is in exactly one table, that there are no
    others, and that no bug of ours was recorded."""
    from deephotlink.pipelines.outputs.query import run_query

    assert [str(violation) for violation in check_output(str(out))] == []
    stumbles = "select uri, message from failures where error_class = 'internal_error'"
    assert run_query(str(out), stumbles).to_pylist() == []
    union = " union all ".join(f"select uri, '{table}' as place from {table}" for table in TABLES)
    rows = run_query(str(out), union).to_pylist()
    uris = [row["uri"] for row in rows]
    assert len(uris) == len(set(uris)), "a file is there twice"
    assert set(uris) == planned, f"lost {sorted(planned - set(uris))[:5]}, strange {sorted(set(uris) - planned)[:5]}"
    return {row["uri"]: row["place"] for row in rows}


def evidence(out: Path | str, part: str = "") -> list[tuple[str, str]]:
    """(name, row) of everything that `scores` and `evidence` hold about the files with `part` in their names: every
    column except which run made the row, when, where the file was, and how old it was."""
    from deephotlink.pipelines.outputs.query import run_query

    found = []
    for table, own in (("scores", ", scored_at, version"), ("evidence", "")):
        columns = f"regexp_extract(uri, '[^/]*$') as name, * exclude (run_id, run_date, media_id, uri{own})"
        rows = run_query(str(out), f"select {columns} from {table}").to_pylist()
        found += [(name, f"{table}: {row}") for row in rows if part in (name := row.pop("name"))]
    return sorted(found)


def failures(out: Path | str) -> dict[str, str]:
    """URI → error class of each file that could not be read."""
    from deephotlink.pipelines.outputs.query import run_query

    return {row["uri"]: row["error_class"] for row in run_query(str(out), "from failures").to_pylist()}


def children_of(pid: int) -> dict[int, list[int]]:
    """Living processes below `pid`, each with its children: the leaves are the workers, the others the zygotes."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents[int(entry.name)] = int(parent)
    below: dict[int, list[int]] = {}
    todo = [pid]
    while todo:
        above = todo.pop()
        found = [child for child, parent in parents.items() if parent == above]
        if above != pid:
            below[above] = found
        todo += found
    return below


def gone(pids: set[int], seconds: float = 15) -> bool:
    """Whether all of them end within this time. A zombie has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        alive = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    alive.add(pid)
        if not alive:
            return True
        time.sleep(0.05)
    return False
