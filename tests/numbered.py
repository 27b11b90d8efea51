"""Films in which every frame shows its number as bars, so that "which frame is this" has exactly one answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
WIDTH, HEIGHT, BITS = 192, 128, 12
LOWEST_HZ, STEP_HZ = 400, 100
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params")
QUIET_265 = "bframes=3:log-level=none:pools=1:keyint=24"


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)


def make_numbered(
    path: Path, frames: int, fps: float, *output: str | Path, first: int = 0, sound: bool = False
) -> Path:
    """Frame n shows n in binary in its upper half and a moving texture below; the numbers begin at `first`. `sound`: a
    tone whose pitch identifies the second it belongs to (`read_second`)."""
    rng = np.random.default_rng(0)
    texture = rng.integers(60, 190, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    command = [FFMPEG, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}"]
    command += ["-r", str(fps), "-i", "-"]
    if sound:
        tone = f"aevalsrc='0.3*sin(2*PI*({LOWEST_HZ}+{STEP_HZ}*floor(t+{first / fps}))*t)':s=48000:d={frames / fps}"
        command += ["-f", "lavfi", "-i", tone]
    command += [*map(str, output), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        for n in range(first, first + frames):
            picture = np.roll(texture, 2 * n, axis=1).copy()
            bars = np.array([(n >> bit) & 1 for bit in range(BITS)], np.uint8) * 255
            picture[: HEIGHT // 2] = bars.repeat(WIDTH // BITS)[None, :, None]
            process.stdin.write(picture.tobytes())
        process.stdin.close()
    assert process.returncode == 0, path.name
    return path


def read_number(picture: np.ndarray) -> int:
    """The number shown in an upright picture of any size, [H, W] or [H, W, 3]."""
    columns = picture[: picture.shape[0] * 3 // 8].reshape(picture.shape[0] * 3 // 8, picture.shape[1], -1).mean((0, 2))
    centres = ((np.arange(BITS) + 0.5) * picture.shape[1] / BITS).astype(int)
    return int(sum(int(columns[x] > 128) << bit for bit, x in enumerate(centres)))


def read_second(samples: np.ndarray) -> int:
    """The second to which a stretch of 16 kHz sound belongs; the stretch must lie within one second."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return round((int(spectrum.argmax()) * 16_000 / len(samples) - LOWEST_HZ) / STEP_HZ)


def by_ffmpeg(path: Path, turns: int = 0) -> tuple[np.ndarray, list[int]]:
    """(pts in seconds, frame numbers) of a full decode by ffmpeg; `turns` quarter turns make the bars upright."""
    command = [FFMPEG, "-v", "info", "-nostdin", "-i", str(path), "-an", "-vf", "showinfo"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    told = done.stderr.decode(errors="replace")
    pts = np.array([float(x) for x in re.findall(r"pts_time:\s*(-?[\d.]+)", told)])
    size = re.search(r" s:(\d+)x(\d+)", told)
    assert size is not None
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]))
    return pts, [read_number(np.rot90(picture, turns)) for picture in pictures]


def on_display(pts: np.ndarray, numbers: Sequence[int], times: Sequence[float]) -> list[int]:
    """The numbers shown at `times`, each once."""
    found: list[int] = []
    for time in times:
        index = max(0, int(np.searchsorted(pts, time + 0.0005, side="right")) - 1)
        if not found or numbers[index] != found[-1]:
            found.append(numbers[index])
    return found
