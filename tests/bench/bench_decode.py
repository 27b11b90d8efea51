"""Decoding speed compared with ffmpeg's own limit, and the saving from starting on key frames."""

from __future__ import annotations

from pathlib import Path

from deephotlink.models.base import ClipGeometry
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import decode_request
from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.decoders import decode_file
from deephotlink.transforms.media.protocol import DecodedClip, DecodeRequest, Limits
from deephotlink.transforms.probe import probe_from_facts
from tests.bench.measure import FFMPEG, cost_of, cost_of_command
from tests.builders import make_face_video, make_media_file, make_video

LIMITS = Limits()
GRAIN = "noise=alls=6:allf=t"
"""Film grain: without it made pictures decode faster than any camera's."""
LIP_SYNC, FRAMES = ClipGeometry(60, 15.0), ClipGeometry(16, 30.0)


def planned(path: Path, geometry: ClipGeometry, decoder: str | None = None) -> DecodeRequest:
    facts = probe_file.probe(str(path), LIMITS)
    probe = probe_from_facts(make_media_file(path), str(path), facts, None)
    request = decode_request(plan_decoding(probe, Sampling(), lambda _: geometry, False, lambda _: ()))
    return DecodeRequest(
        request.path, decoder or request.decoder, request.width, request.height, request.rotation, request.clips
    )


def decode(request: DecodeRequest) -> tuple[int, int]:
    """(frames kept, frames decoded)."""
    clips = [item for item in decode_file.decode_items(request, LIMITS) if isinstance(item, DecodedClip)]
    assert len(clips) == len(request.clips)
    return sum(len(c.frames) for c in clips), sum(c.frames_decoded for c in clips)


def ffmpeg(path: Path, start_seconds: float, output: list[str]) -> float:
    """CPU-seconds of `ffmpeg -threads 1` from a moment on, to nowhere, start-up included."""
    command = [
        FFMPEG,
        "-v",
        "error",
        "-nostdin",
        "-threads",
        "1",
        "-ss",
        f"{start_seconds}",
        "-i",
        path,
        "-map",
        "0:v:0",
    ]
    return min(cost_of_command([*command, *output, "-f", "null", "-"]).cpu_seconds for _ in range(3))


def limits_of(path: Path, request: DecodeRequest, frame_rate: float) -> tuple[float, float]:
    """CPU-seconds that ffmpeg needs for the frames of these clips: to decode them, and to hand them over as we do,
    scaled and as RGB. The time to start and to open the file is subtracted."""
    opening = ffmpeg(path, 0.0, ["-frames:v", "1"])
    decoding = same = 0.0
    for clip in request.clips:
        step = round((clip.times_seconds[1] - clip.times_seconds[0]) * frame_rate)
        count = (len(clip.times_seconds) - 1) * step + 1
        decoding += ffmpeg(path, clip.start_seconds, ["-frames:v", f"{count}"]) - opening
        chosen = f"select=not(mod(n\\,{step})),scale={request.width}:{request.height},format=rgb24"
        output = ["-vf", chosen, "-fps_mode", "passthrough", "-frames:v", f"{len(clip.times_seconds)}"]
        same += ffmpeg(path, clip.start_seconds, output) - opening
    return decoding, same


def bench(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for name, size, gop in (("720p, GOP 50", (1280, 720), 50), ("VGA, GOP 250", (640, 480), 250)):
        path = make_face_video(folder / f"{size[1]}p.mp4", 30, 25, size, gop=gop, options={"vf": GRAIN, "crf": 20})
        for decoder in ("decord", "pyav"):
            request = planned(path, LIP_SYNC, decoder)
            decode(request)
            ours = min(cost_of(lambda request=request: decode(request)).cpu_seconds for _ in range(3))
            decoding, same = limits_of(path, request, 25)
            rows.append((f"{name}, {decoder}: ffmpeg for the same frames / ours (CPU)", f"{same / ours:.2f}", ">= 0.6"))
            rows.append((f"{name}, {decoder}: ffmpeg that only decodes / ours (CPU)", f"{decoding / ours:.2f}", "-"))
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
