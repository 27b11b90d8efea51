"""The sample archive: about forty small files of every kind that an archive holds, made offline by code.

Some are sound, some declare an AI source, some are damaged, some are hostile. Its README.txt says which is which.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ...transforms.failures import UsageError
from ..terminal.printing import steady
from .encoding import EncodingError
from .signing import sign_sample
from .synthetic_media import encode, face_frames, make_audio, make_gif, make_sound, make_video, portrait, remux

BOMB_BYTES = 128 << 20
"""Unpacked size of the hostile zip member. In the shard it takes 1/1000 of that."""
GIANT_SIDE = 16_000
"""Width and height in pixels of the hostile picture: 256 M pixels, 40 kB on disk."""
_MODIFIED = 1_767_225_600
"""Modification time of every file: 2026-01-01 UTC. A file's version includes this time, and the same archive must have
the same versions."""

README = """\
A sample archive made by `deephotlink`. No person was filmed: the face is matplotlib's sample portrait of Rear Admiral
Grace Hopper (US Navy, public domain), moved about by code; the sounds are synthetic. This file is the text file among
the media: it belongs in the table `skipped`.

interview.*      one portrait that talks, in six containers; copy/ has the first of them once more
dubbed.mp4       the same, with the voice 0.9 s late: the mouth does not fit it
phone.mov        a clip held upright, as a telephone writes it (stored sideways)
silent.mp4 scene.mp4 open-gop.mp4 film.mp4 animation.gif
                 no sound; no face; pictures that need the group before; one minute; a GIF
speech.*         sound alone
declared/        files that say where they come from: signed Content Credentials and plain tags that name an AI
                 generator, and a signed file that was changed afterwards
names/           names that trip up scripts
shards/          the same kinds of file inside tar and zip
damaged/         cut short, bits flipped, the header alone, nothing at all
hostile/         a playlist, a network session and a giant picture, all called .mp4; a zip whose member swells
portrait.jpg     a still picture: not media here
"""


def make_sample(folder: Path) -> None:
    """Makes the sample archive in `folder`, whole or not at all. An archive that is already there is left as it is.

    The bytes are the same each time, except the signatures under `declared/`, whose keys are new each time.

    Raises:
        UsageError: `folder` holds something else, or the archive cannot be made there.
    """
    folder = Path(os.path.abspath(folder))
    if (folder / "README.txt").is_file():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"expected a sample archive or nothing at {folder}, found something else: name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"the sample archive cannot be made at {folder}: {error.strerror}") from error
    try:
        for name in ("copy", "declared", "names", "shards", "damaged", "hostile"):
            (scratch / name).mkdir()
        for make in (_make_plain, _make_declared, _make_names, _make_shards, _make_damaged, _make_hostile):
            make(scratch)
        (scratch / "README.txt").write_text(README, encoding="utf-8")
        for path in scratch.rglob("*"):
            os.utime(path, (_MODIFIED, _MODIFIED))
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            if not (folder / "README.txt").is_file():  # if it is there, another process was faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_plain(root: Path) -> None:
    size, fps, seconds = (320, 240), 25, 6
    frames = list(face_frames(seconds * fps, fps, size, speech=True))
    sound = make_sound(seconds)
    first = encode(root / "interview.mp4", iter(frames), seconds, fps, size, gop=25, audio=sound)
    for suffix in (".mkv", ".mov", ".ts"):
        remux(first, root / f"interview{suffix}")
    for suffix in (".webm", ".avi"):
        encode(root / f"interview{suffix}", iter(frames[:75]), 3, fps, size, gop=25, audio=sound[: 3 * 16_000])
    shutil.copyfile(first, root / "copy" / "interview.mp4")
    late = np.roll(sound, round(0.9 * 16_000))
    encode(root / "dubbed.mp4", iter(frames), seconds, fps, size, gop=25, audio=late)
    encode(
        root / "phone.mov",
        face_frames(75, fps, (240, 320), speech=True, seed=5),
        3,
        fps,
        (240, 320),
        gop=25,
        audio=make_sound(3, seed=5),
        options={"movflags": "+use_metadata_tags"},
        rotate=90,
        tags={
            "com.apple.quicktime.make": "Apple",
            "com.apple.quicktime.model": "iPhone 15",
            "com.apple.quicktime.software": "17.4.1",
            "com.apple.quicktime.creationdate": "2025-06-01T10:20:30+0200",
            "creation_time": "2025-06-01T08:20:30Z",
        },
    )
    encode(root / "silent.mp4", iter(frames[:50]), 2, fps, size, gop=25)
    make_video(root / "scene.mp4", 4, 25, (320, 240), gop=50, audio="noise", pattern="scene")
    options = {"x265-params": "open-gop=1:bframes=3:log-level=error:pools=1:frame-threads=1"}
    make_video(root / "open-gop.mp4", 4, 25, (320, 240), codec="libx265", gop=20, audio="tone", options=options)
    make_video(root / "film.mp4", 60, 12, (160, 120), gop=24, audio="speechlike")
    make_gif(root / "animation.gif")
    make_audio(root / "speech.flac", 6)
    make_audio(root / "speech.mp3", 5, 44_100, seed=2)
    make_audio(root / "speech.m4a", 5, 44_100, seed=3)
    portrait().resize((256, 300)).save(root / "portrait.jpg", quality=85)


def _make_declared(root: Path) -> None:
    folder = root / "declared"
    plain = make_video(root / "plain.mp4", 3, 25, (256, 192), gop=25, audio="tone", pattern="scene")
    sign_sample(plain, folder / "signed-ai.mp4", "trainedAlgorithmicMedia")
    sign_sample(plain, folder / "signed-camera.mp4", "digitalCapture")
    plain.unlink()
    signed = bytearray((folder / "signed-camera.mp4").read_bytes())
    # One bit of a picture in the middle of the media data: the file still plays, but the signature no longer fits.
    start = signed.index(b"mdat") + 4
    signed[(start + len(signed)) // 2] ^= 1
    (folder / "signed-then-changed.mp4").write_bytes(signed)
    tags = {
        "comment": "Generated by AI",
        "software": "Sora",
        "aigc_info": '{"aigc_label_type": 1, "source_info": "dreamina"}',
    }
    make_video(
        folder / "tagged-ai.mp4",
        3,
        24,
        (256, 192),
        gop=24,
        options={"movflags": "+use_metadata_tags"},
        pattern="scene",
        tags=tags,
    )


def _make_names(root: Path) -> None:
    small = make_video(root / "small.mp4", 1, 10, (128, 96), gop=10).read_bytes()
    (root / "small.mp4").unlink()
    names: list[bytes] = [
        b"-dash.mp4",
        b"line\nbreak.mp4",
        "übergröße 日本 \u202egnp.mp4".encode(),
        b"a%03d'\"$(b)?*.mp4",
        b"<script>alert(1)<.mp4",
        b"no extension",
    ]
    if sys.platform == "linux":  # macOS refuses such names
        names.append(b"latin-\xff\xfe.mp4")
    for number, name in enumerate(names):
        # A box of free space at the end makes each file different, so that only copy/ holds a duplicate.
        note = b"number %d" % number
        (root / "names" / os.fsdecode(name)).write_bytes(small + (8 + len(note)).to_bytes(4, "big") + b"free" + note)


def _make_shards(root: Path) -> None:
    members: list[tuple[str, bytes]] = [
        ("uploads/portrait.mp4", (root / "silent.mp4").read_bytes()),
        ("uploads/speech.mp3", (root / "speech.mp3").read_bytes()),
        ("uploads/animation.gif", (root / "animation.gif").read_bytes()),
        ("uploads/notes.txt", b"no media\n"),
        ("../../outside.mp4", (root / "names" / "-dash.mp4").read_bytes()),
    ]
    with tarfile.open(root / "shards" / "uploads.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size, header.mtime = len(data), _MODIFIED
            tar.addfile(header, io.BytesIO(data))
    with zipfile.ZipFile(root / "shards" / "uploads.zip", "w") as archive:
        for number, (name, data) in enumerate(members):
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(entry, data)


def _make_damaged(root: Path) -> None:
    folder, rng = root / "damaged", np.random.default_rng(11)
    whole = (root / "interview.mp4").read_bytes()
    (folder / "no-index.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end
    front = remux(root / "interview.mp4", root / "front.mp4", {"movflags": "+faststart"})
    data = bytearray(front.read_bytes())
    front.unlink()
    (folder / "cut-short.mp4").write_bytes(data[: len(data) * 6 // 10])
    (folder / "header-only.mp4").write_bytes(data[:32])
    start = data.index(b"mdat") + 4
    for position in rng.integers(start, len(data), 200):
        data[position] ^= 1 << int(rng.integers(8))
    (folder / "bits-flipped.mp4").write_bytes(data)
    (folder / "empty.mp4").write_bytes(b"")
    sound = bytearray((root / "speech.flac").read_bytes())
    (folder / "cut-short.flac").write_bytes(sound[: len(sound) // 3])


def _make_hostile(root: Path) -> None:
    folder = root / "hostile"
    (folder / "playlist.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n../interview.ts\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    )
    (folder / "session.mp4").write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    picture = root / "giant.png"
    picture.write_bytes(_black_png(GIANT_SIDE))
    remux(picture, folder / "giant.mov")
    picture.unlink()
    (folder / "giant.mov").rename(folder / "giant.mp4")
    head = (24).to_bytes(4, "big") + b"ftypisom" + bytes(4) + b"isommp42" + BOMB_BYTES.to_bytes(4, "big") + b"free"
    entry = zipfile.ZipInfo("holiday.mp4", (2026, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(folder / "swells.zip", "w") as archive, archive.open(entry, "w") as member:
        member.write(head)
        for _ in range(BOMB_BYTES >> 20):
            member.write(bytes(1 << 20))


def _black_png(side: int) -> bytes:
    """A square black PNG with one bit per pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


if __name__ == "__main__":  # `make audit` without an archive
    with steady():
        try:
            make_sample(Path(sys.argv[1]))
        except (OSError, EncodingError, UsageError) as fault:
            print(f"deephotlink: the sample archive cannot be made: {fault}", file=sys.stderr)
            sys.exit(2 if isinstance(fault, UsageError) else 75)
