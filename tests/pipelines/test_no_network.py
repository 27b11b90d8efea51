"""An audit makes no network request, and a stranger's checkpoint is refused before anything begins."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deephotlink.models.architectures.aasist import AASIST_L, Aasist
from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from tests.builders import make_audio

FORBIDDEN = """
import os, socket, sys

tried = []

def forbid(name):
    real = getattr(socket.socket, name)

    def connect(self, address, *more):
        if self.family == socket.AF_UNIX:
            return real(self, address, *more)
        tried.append(f"{name} {address}")
        raise OSError("no network")

    setattr(socket.socket, name, connect)

def unresolved(*asked, **more):
    tried.append(f"getaddrinfo {asked}")
    raise OSError("no network")

for name in ("connect", "connect_ex", "sendto"):
    forbid(name)
socket.getaddrinfo = socket.gethostbyname = unresolved
from deephotlink.pipelines.cli import main
code = main()
print("TRIED", tried, file=sys.stderr)
assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
sys.exit(code)
"""


def audit(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FORBIDDEN, "audit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """`voice.flac`, and a checkpoint of AASIST-L with random weights."""
    folder = tmp_path_factory.mktemp("made")
    make_audio(folder / "voice.flac", seconds=3)
    torch.manual_seed(0)
    torch.save(Aasist(AASIST_L).state_dict(), folder / "random.pth")
    return folder


def test_an_audit_with_weights_tries_no_connection(made, tmp_path):
    given = ("--detectors", "aasist_l", "--weights", f"aasist_l={made}/random.pth", "--allow-unpinned", "aasist_l")
    done = audit(made / "voice.flac", "--output", tmp_path / "out", "--json", *given)
    assert done.returncode == 0, done.stderr
    assert "TRIED []" in done.stderr and "warning" in done.stderr
    run_id = json.loads(done.stdout)["runs"][0]
    record = json.loads((tmp_path / "out/_runs" / run_id / "run.json").read_text())
    sha256 = hashlib.sha256((made / "random.pth").read_bytes()).hexdigest()
    assert record["settings"]["detectors"][0]["weights_sha256"] == sha256
    assert record["settings"]["licences_accepted"] == {}


class Canary:
    """A pickle that leaves a file behind where it is run."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("runner", [(), ("--runner=FnApiRunner",)])
def test_a_hostile_checkpoint_is_refused_in_one_line(runner, made, tmp_path, capfd):
    torch.save({"state_dict": Canary(tmp_path / "canary")}, tmp_path / "hostile.pth")
    given = ("--detectors", "aasist_l", "--weights", f"aasist_l={tmp_path}/hostile.pth", "--allow-unpinned", "aasist_l")
    code = cli.main(["audit", str(made / "voice.flac"), "--output", str(tmp_path / "out"), "--quiet", *given, *runner])
    said = capfd.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("deephotlink: warning")]
    assert code == cli.USAGE and len(lines) == 1 and said.out == "", said
    assert "refused, none of it was run" in lines[0]
    assert not (tmp_path / "canary").exists()
    # A cluster finds out when a worker loads it; here nothing was planned yet.
    assert bool(list((tmp_path / "out").glob("_runs/*/plan.parquet"))) == bool(runner)


def test_for_a_runner_weights_are_staged_beside_the_tables(made, tmp_path, capsys):
    given = ("--detectors", "aasist_l", "--weights", f"aasist_l={made}/random.pth", "--allow-unpinned", "aasist_l")
    out = tmp_path / "out"
    done = audit(made / "voice.flac", "--output", out, "--quiet", *given, "--runner=FnApiRunner")
    assert done.returncode == 0 and "TRIED []" in done.stderr, done.stderr
    assert [path.name for path in (out / "_weights").iterdir()] == [
        hashlib.sha256((made / "random.pth").read_bytes()).hexdigest()
    ]
    assert check_output(str(out)) == []
    # The output may lie in the archive: what is staged in it is not listed.
    assert (
        cli.main(["audit", str(out), str(made / "voice.flac"), "--output", str(out), "--dry-run", "--json", *given])
        == 0
    )
    shown = capsys.readouterr().out
    facts = json.loads(shown)
    assert facts["files in the tables already"] == 1 and "random.pth" not in shown
    assert "AASIST-L.pth" in facts["detector aasist_l"] and "MIT" in facts["detector aasist_l"]
