"""A real S3 server for a test: a monitor, an OSD in memory and a radosgw of Debian's Ceph, in a folder of their own.

apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
python -m tests.chaos.radosgw FOLDER     runs one until it is interrupted, and prints how to reach it
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
KEY, SECRET = "radosgw-key", "radosgw-secret"
CONF = """[global]
fsid = {fsid}
mon_host = 127.0.0.1:{mon_port}
mon_initial_members = a
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_bind_ipv4 = true
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = {folder}
admin_socket = {folder}/$name.sock
log_file = {folder}/$name.log
pid_file = {folder}/$name.pid
crash_dir = {folder}
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
mon_data_avail_warn = 1
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_run_sync_thread = false
"""


def missing() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """The server's URL; the server ends with the body. Raises RuntimeError with the last output of the part that did
    not start."""
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    fsid, mon_port, port = str(uuid.uuid4()), free_port(), free_port()
    conf = folder / "ceph.conf"
    conf.write_text(CONF.format(fsid=fsid, mon_port=mon_port, port=port, folder=folder))
    monmap = folder / "monmap"
    daemons: list[subprocess.Popen[bytes]] = []

    def run(*words: str | Path, seconds: float = 120) -> str:
        command = [str(word) for word in words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def start(*words: str | Path) -> None:
        log = open(folder / f"{words[0]}.said", "ab")  # noqa: SIM115
        daemons.append(subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, start_new_session=True))
        log.close()

    try:
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", monmap)
        run("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", monmap)
        start("ceph-mon", "-c", conf, "-f", "-i", "a")
        ceph: Sequence[str | Path] = ("ceph", "-c", conf, "--connect-timeout", "30")
        osd = str(uuid.uuid4())
        number = run(*ceph, "osd", "new", osd).strip()
        run("ceph-osd", "-c", conf, "-i", number, "--mkfs", "--osd-uuid", osd)
        start("ceph-osd", "-c", conf, "-f", "-i", number)
        _wait(lambda: "1 up" in run(*ceph, "osd", "stat"), 60, folder)
        start("radosgw", "-c", conf, "-f", "-n", "client.rgw.a")
        _wait(lambda: _answers(port), 180, folder)
        user = ("user", "create", "--uid", "audit", "--display-name", "audit")
        run("radosgw-admin", "-c", conf, *user, "--access-key", KEY, "--secret-key", SECRET)
        yield f"http://127.0.0.1:{port}"
    finally:
        for daemon in reversed(daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait(there, seconds: float, folder: Path) -> None:
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            said = "; ".join(f"{path.name}: {path.read_text()[-800:]}" for path in sorted(folder.glob("*.said")))
            raise RuntimeError(f"no answer after {seconds:.0f} s: {said}")
        time.sleep(0.5)


if __name__ == "__main__":
    with running(Path(sys.argv[1]).absolute()) as url:
        print(f"AWS_ENDPOINT_URL={url} AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={SECRET}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
