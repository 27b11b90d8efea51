"""Decoding against ffmpeg's own limit, and what starting on key frames saves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from deephotlink.models.base import ClipGeometry
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import decode_request
from deephotlink.transforms.media import containers, decoders
from deephotlink.transforms.media.protocol import DecodedClip, DecodeRequest, Limits
from deephotlink.transforms.probe import probe_from_facts
from tests.bench.measure import FFMPEG, cost_of, cost_of_command, median
from tests.builders import make_media_file, make_video

LIMITS = Limits()
LIP_SYNC, FRAMES = ClipGeometry(60, 15.0), ClipGeometry(16, 30.0)


def planned(path: Path, geometry: ClipGeometry, decoder: str | None = None) -> DecodeRequest:
    facts = containers.probe(str(path), LIMITS)
    probe = probe_from_facts(make_media_file(path), str(path), facts, None)
    request = decode_request(plan_decoding(probe, Sampling(), lambda _: geometry, False, lambda _: ()))
    return DecodeRequest(
        request.path, decoder or request.decoder, request.width, request.height, request.rotation, request.clips
    )


def decode(request: DecodeRequest) -> tuple[int, int]:
    """(frames kept, frames decoded)."""
    clips = [item for item in decoders.decode_items(request, LIMITS) if isinstance(item, DecodedClip)]
    assert len(clips) == len(request.clips)
    return sum(len(c.frames) for c in clips), sum(c.frames_decoded for c in clips)


def ffmpeg_rate(path: Path) -> float:
    """Frames a CPU-second of `ffmpeg -threads 1 -f null`: the limit for whoever needs these frames."""
    command = [FFMPEG, "-v", "info", "-nostdin", "-threads", "1", "-i", path, "-map", "0:v:0", "-f", "null", "-"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    frames = int(re.findall(r"frame=\s*(\d+)", done.stderr)[-1])
    return frames / median([cost_of_command(command).cpu_seconds for _ in range(3)])


def bench(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for name, size, seconds, gop in (
        ("720p h264, GOP 50", (1280, 720), 60, 50),
        ("VGA h264, GOP 250", (640, 480), 60, 250),
    ):
        path = make_video(
            folder / f"{size[1]}p-{gop}.mp4",
            seconds,
            25,
            size,
            gop=gop,
            options={"preset": "veryfast", "sc_threshold": 0},
        )
        limit = ffmpeg_rate(path)
        for decoder in ("decord", "pyav"):
            request = planned(path, LIP_SYNC, decoder)
            decode(request)
            costs, counted = [], (0, 0)
            for _ in range(3):
                costs.append(cost_of(lambda request=request: decode(request)).cpu_seconds)
                counted = decode(request)
            ratio = counted[1] / median(costs) / limit
            rows.append((f"decode {name}, {decoder}: share of ffmpeg's limit", f"{ratio:.2f}", ">= 0.6"))
    path = make_video(
        folder / "gop250.mp4", 120, 25, (640, 360), gop=250, options={"preset": "veryfast", "sc_threshold": 0}
    )
    for what, geometry in (
        ("clips of 16 frames (the default without sound)", FRAMES),
        ("clips of 60 frames (with lip_sync)", LIP_SYNC),
    ):
        on_keys = planned(path, geometry)
        shifted = tuple(
            type(c)(c.clip_index, c.start_seconds + 5, c.end_seconds + 5, tuple(t + 5 for t in c.times_seconds))
            for c in on_keys.clips
        )
        in_the_middle = DecodeRequest(on_keys.path, "pyav", on_keys.width, on_keys.height, on_keys.rotation, shifted)
        kept, decoded = decode(DecodeRequest(on_keys.path, "pyav", on_keys.width, on_keys.height, 0, on_keys.clips))
        kept_mid, decoded_mid = decode(in_the_middle)
        saved = (decoded_mid / kept_mid) / (decoded / kept)
        rows.append(
            (
                f"GOP 250, {what}: frames decoded a frame kept, key frame / mid-GOP",
                f"{decoded / kept:.2f} / {decoded_mid / kept_mid:.2f} = {saved:.1f}x fewer",
                ">= 5x" if geometry is FRAMES else "-",
            )
        )
    return rows
