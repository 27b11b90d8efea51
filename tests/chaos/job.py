"""The command `deephotlink`, with two detectors that cost nothing, other deadlines and a note of who overstayed them.

`python -m tests.chaos.job audit …` is one command. `python -m tests.chaos.job` alone is a server: it loads everything
once, then forks a command for each line of JSON `{"arguments": […], "environment": {…}, "said": PATH}` and answers with
its pid; when one has ended, it says `{"pid": …, "code": …}`. Loading takes longer than most commands of these tests do.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import torch
from apache_beam.transforms.display import DisplayData
from threadpoolctl import threadpool_info

from deephotlink.models import registry
from deephotlink.models.base import AudioGeometry, ClipGeometry, Detector, DetectorSpec, Judgement
from deephotlink.pipelines import cli, options
from deephotlink.transforms.media.children import zygote
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.storage import requests, retries

NOTES = "CHAOS_NOTES"
"""Names the file that the command writes at its end: `{"answers": …, "slowest_over_seconds": …, …}`."""
DEADLINE = "CHAOS_DEADLINE_SECONDS"
ATTEMPT = "CHAOS_ATTEMPT_SECONDS"
"""What an attempt to read a range may take, besides what its bytes do."""
NAPS = "CHAOS_NAP_SECONDS"
"""The longest pause between two attempts."""
WEIGHTS = "CHAOS_WEIGHTS"
"""Names the file in which weighed.py notes how much memory each decoder child had."""
OUTAGE = "CHAOS_OUTAGE_SECONDS"
"""How long a store may be down."""

LOOK = DetectorSpec(
    name="chaos_look",
    family="synthetic",
    unit="clip",
    needs=frozenset({"frames"}),
    summary="The mean of all pixels: another frame gives another logit.",
    blind_to="everything",
    clip=ClipGeometry(frames=4, frame_rate=4.0),
    batch_size=4,
)
LISTEN = DetectorSpec(
    name="chaos_listen",
    family="audio",
    unit="audio_window",
    needs=frozenset({"sound"}),
    summary="The mean loudness.",
    blind_to="everything",
    audio=AudioGeometry(8_000, 8_000),
    batch_size=4,
)
DETECTORS = (LOOK, LISTEN)
THREADS = "CHAOS_THREADS"
"""Names the file to which each process that scores appends its id and the threads of its libraries."""
DISPLAY = "CHAOS_DISPLAY_DATA"
"""Names the file to which the display data of every pipeline is written, as a runner would show it."""


class _Mean(Detector):
    def load(self, device: str) -> None: ...

    def score(self, items: Sequence[Any]) -> list[Judgement]:
        if path := os.environ.get(THREADS):
            pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
            with open(path, "a") as file:
                file.write(json.dumps([os.getpid(), torch.get_num_threads(), max(pools, default=1)]) + "\n")
        return [Judgement(logit=self._mean(item)) for item in items]

    def _mean(self, item: Any) -> float:
        if self.spec.unit == "clip":
            return float(item.frames.mean(dtype="f8")) / 255 if len(item.frames) else 0.0
        return float(abs(item.samples).mean(dtype="f8")) if len(item.samples) else 0.0


def make(spec: DetectorSpec, weights: object = None) -> Detector:
    return _Mean(spec)


def install() -> None:
    """Makes both detectors known, and shortens the deadlines where the environment says so."""
    known = registry._known().by_name
    known.update({spec.name: (spec, sys.modules[__name__]) for spec in DETECTORS})


def _shorten(seconds: float) -> None:
    """Defaults of a frozen, slotted dataclass are those of its __init__."""
    names = [field for field in Limits.__dataclass_fields__ if Limits.__dataclass_fields__[field].init]
    given = list(Limits.__init__.__defaults__ or ())
    for name in ("probe_deadline_seconds", "item_deadline_seconds"):
        given[names.index(name) - len(names)] = seconds
    Limits.__init__.__defaults__ = tuple(given)  # type: ignore[misc]
    assert Limits().item_deadline_seconds == seconds
    assert options.Reading().limits.item_deadline_seconds == seconds


def _note_workers(notes: dict[str, float]) -> None:
    real, losing = zygote.Worker.answer, zygote.WorkerLost.__init__

    def answer(self, max_bytes, countdown, patience, stage):
        begun = time.monotonic()
        try:
            return real(self, max_bytes, countdown, patience, stage)
        finally:
            took = time.monotonic() - begun
            notes["answers"] += 1
            notes["slowest_over_seconds"] = max(notes["slowest_over_seconds"], took - patience)

    def lose(self, *args, **more):
        losing(self, *args, **more)
        notes["killed_from_outside"] += self.from_outside

    zygote.Worker.answer = answer  # type: ignore[method-assign]
    zygote.WorkerLost.__init__ = lose  # type: ignore[method-assign]


def _note_display_data(path: str) -> None:
    real = beam.Pipeline.run

    def noting(self: beam.Pipeline, *args: Any, **more: Any) -> Any:
        proto = self.to_runner_api()
        with open(path, "ab") as file:
            for transform in proto.components.transforms.values():
                file.write(transform.unique_name.encode() + b"\n")
                file.writelines(item.payload + b"\n" for item in transform.display_data)
            options = DisplayData.create_from_options(self._options)
            file.writelines(f"{item.key} {item.value}\n".encode() for item in options.items)
        return real(self, *args, **more)

    beam.Pipeline.run = noting


def run(arguments: list[str]) -> int:
    if seconds := os.environ.get(DEADLINE):
        _shorten(float(seconds))
    if seconds := os.environ.get(ATTEMPT):
        requests.ATTEMPT_SECONDS = float(seconds)
    if seconds := os.environ.get(NAPS):
        retries.BACKOFF_CAP_SECONDS = float(seconds)
    if seconds := os.environ.get(OUTAGE):  # it is the default of functions: another one would not be seen
        object.__setattr__(retries.READING, "outage_seconds", float(seconds))
    if display := os.environ.get(DISPLAY):
        _note_display_data(display)
    if weights := os.environ.get(WEIGHTS):
        zygote.PROGRAM = (sys.executable, "-P", os.path.join(os.path.dirname(__file__), "weighed.py"), weights)
    notes = {"answers": 0, "slowest_over_seconds": float("-inf"), "killed_from_outside": 0}
    path = os.environ.get(NOTES)
    if path:
        _note_workers(notes)
    code = cli.main(arguments)
    if path:
        with open(path, "w") as file:
            json.dump(notes, file)
    return code


def serve() -> None:
    """Until stdin ends. Children are groups of their own, to be killed whole."""
    running: dict[int, None] = {}
    print(json.dumps({"ready": True}), flush=True)
    while True:
        readable, _, _ = select.select([0], [], [], 0.05)
        for pid in list(running):
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del running[pid]
                    print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)
        if not readable:
            continue
        line = b""
        while not line.endswith(b"\n"):  # unbuffered, so that select sees what is left
            if not (byte := os.read(0, 1)):
                for pid in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                return
            line += byte
        asked = json.loads(line)
        if (pid := os.fork()) == 0:
            os.setsid()
            said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for number, descriptor in ((0, null), (1, said), (2, said)):
                os.dup2(descriptor, number)
            os.environ.update(asked["environment"])
            code = 1
            try:
                code = run(asked["arguments"])
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()  # lets the pool's children go, as the interpreter's end would
            os._exit(code)
        running[pid] = None
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    # Under its own name too: the registry is told of the module by it.
    sys.modules.setdefault("tests.chaos.job", sys.modules[__name__])
    install()
    if sys.argv[1:]:
        sys.exit(run(sys.argv[1:]))
    serve()
