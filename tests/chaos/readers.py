"""Every reader that we have, on every file of a folder, with no sandbox around it: to be run under strace.

python -m tests.chaos.readers FOLDER [--naked]

FOLDER is the working directory too. Before each file a path that exists nowhere is opened, `/marker/NAME`, so that the
log tells them apart. `--naked` opens each by PyAV alone as a careless program would, which shows that the tricks are
ones and that the watch sees them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import av

from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.containers import credentials
from deephotlink.transforms.media.containers.iso_boxes import read_boxes
from deephotlink.transforms.media.decoders.decord_frames import DecordFrames
from deephotlink.transforms.media.decoders.pyav_frames import PyavFrames
from deephotlink.transforms.media.decoders.sound import SoundReader
from deephotlink.transforms.media.protocol import Limits

LIMITS = Limits()
MARKER = "/marker/"


def _frames(kind: type) -> Callable[[str], object]:
    def read(path: str) -> object:
        frames = kind(path, 64, 48, LIMITS)
        try:
            return frames.pick([0.0, 0.5])
        finally:
            frames.close()

    return read


def _sound(path: str) -> object:
    with SoundReader(path, LIMITS) as reader:
        return reader.read(0, 16_000)


def _credentials(path: str) -> object:
    for suffix in (".mp4", ".mov", ".avi", ".mp3", ".jpg"):
        with contextlib.suppress(Exception):
            credentials.read_credentials(path, suffix)
    return None


def _naked(path: str) -> object:
    options = {"protocol_whitelist": "file,http,tcp,crypto,concat,subfile,async,cache,rtp,udp"}
    options |= {"enable_drefs": "1", "use_absolute_path": "1", "safe": "0"}
    options |= {"allowed_extensions": "ALL", "extension_picky": "0"}
    with av.open(path, options=options, timeout=(5, 5)) as container:
        return next(container.demux(), None)


READERS: tuple[Callable[[str], object], ...] = (
    lambda path: probe_file.probe(path, LIMITS),
    _frames(DecordFrames),
    _frames(PyavFrames),
    _sound,
    read_boxes,
    _credentials,
)


def _mark(name: str) -> None:
    with contextlib.suppress(OSError), open(MARKER + name, "rb"):
        pass


def main(folder: Path, naked: bool) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        _mark(name)
        for read in (_naked,) if naked else READERS:
            with contextlib.suppress(Exception):  # what they answer is asserted elsewhere; here, what they touch
                read(name if naked else str(path))
    _mark("end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--naked" in sys.argv)
