"""Sound at 16 kHz, mono, float32, aligned to the sample by its time stamps. Uses PyAV; runs in the sandboxed child.

Sample n is at n / 16000 s on the media clock (0 = the container's start). What the decoder skips as priming is left
out; gaps are zeros. 16 kHz mono sources pass unchanged: integers are divided by full scale.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from ...failures import MediaError
from ..clock.media_clock import MediaClock
from ..clock.sampled_clock import SampledClock
from ..clock.stream_reader import StreamReader
from ..containers.opening import SCAN_BYTES, TICKING, open_container, primary_streams
from ..protocol import Limits, SoundSource, WindowRequest

SOUND_RATE = 16_000
"""Hz. The same as models.base.SOUND_RATE."""
PREROLL_SAMPLES = SOUND_RATE // 2
"""Samples decoded before a slice after a seek: AAC needs a frame, MP3 its bit reservoir, Opus 80 ms."""
SEEK_AHEAD_SAMPLES = 10 * SOUND_RATE
"""A request further ahead than this is reached by a seek. For a nearer one, decoding up to it costs less."""
SPARSE_AHEAD_SAMPLES = SOUND_RATE
"""The same for files too large to be read from end to end, local or not: the bytes between may have to come from far
away."""
SLIP_SAMPLES = SOUND_RATE // 50
"""If a time stamp differs from the count of samples by less than this, that is rounding; more is a gap."""
ASF_SLIP_SAMPLES = SOUND_RATE // 10
"""The same for ASF, which stamps whole packets: its frames jump to and fro by tens of milliseconds."""
SEEKABLE = frozenset({"mov", "matroska", "wav", "flac", "ogg", "mpegts", "avi", "flv", "caf", "aiff"})
"""Containers in which a seek lands where it says. MP3, AAC and AMR streams guess, and ASF stamps packets, not samples,
so these are read in sequence."""
MAX_DAMAGED_PACKETS = 100_000


class SoundReader:
    """One open sound stream. Requests in ascending order cost one pass. Memory: the span asked for and one frame.

    Raises MediaError: `no_audio`, and what `open_container` raises.
    """

    def __init__(
        self,
        path: str,
        limits: Limits | None = None,
        source: SoundSource | None = None,
        clock: MediaClock | SampledClock | None = None,
    ):
        """source: None for the stream that FFmpeg would choose. clock: see StreamReader."""
        self._path = path
        self._limits = limits or Limits()
        self._in_use = source.in_use if source is not None else 0
        self._chunks: deque[tuple[int, np.ndarray]] = deque()
        self._low = 0
        """Samples before this are forgotten."""
        self._position = 0
        """Number of the next sample to be decoded."""
        self._ended = False
        large = os.path.getsize(path) > SCAN_BYTES
        self._seek_ahead = SPARSE_AHEAD_SAMPLES if large else SEEK_AHEAD_SAMPLES
        index = source.stream if source is not None else self._own_choice()
        self._reader = StreamReader(path, self._limits, index, clock)
        name = self._reader.container.format.name
        self._slip = ASF_SLIP_SAMPLES if name == "asf" else SLIP_SAMPLES
        # A reader that seeks by skipping packets is exact in every container.
        self._seeks = self._reader.ordered or name.split(",")[0] in SEEKABLE or (large and name in TICKING)
        self._restart(0)

    def _own_choice(self) -> int:
        with open_container(self._path, self._limits) as container:
            _, stream = primary_streams(container)
            if stream is None:
                raise MediaError("no_audio", "no decodable sound", "sound")
            return int(stream.index)

    def read(self, start: int, end: int) -> np.ndarray:
        """float32 [S], samples [start, end) on the media clock. Zeros before the clock begins, shorter at the end of
        the sound, empty past it."""
        if start < 0:
            # A recording may begin a little before the clock does; sample 0 of the slice stays at `start`.
            silence = np.zeros(max(0, min(end, 0) - start), np.float32)
            return np.concatenate([silence, self.read(0, end)]) if end > 0 else silence
        if not self._reached(start):
            self._go_to(start)
        while self._position < end and not self._ended:
            self._pull()
        while self._chunks and self._chunks[0][0] + len(self._chunks[0][1]) <= start:
            self._chunks.popleft()
        self._low = max(self._low, start)
        end = min(end, self._position)
        out = np.zeros(max(0, end - start), np.float32)
        for first, samples in self._chunks:
            low, high = max(first, start), min(first + len(samples), end)
            if low < high:
                out[low - start : high - start] = samples[low - first : high - first]
        return out

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _open(self) -> None:
        self._reader.open()
        self._restart(0)

    def _restart(self, low: int) -> None:
        self._packets = self._reader.packets()
        self._resampler: Any = None
        self._format: tuple[Any, ...] | None = None
        self._chunks.clear()
        self._low = low
        self._position = 0
        self._fresh = True
        """Nothing is decoded yet: the first frame will tell where we are."""
        self._on_grid = low == 0
        """Whether sample 0 of a run falls on the 16 kHz grid of the media clock. After a seek it must be brought there,
        so that the resampler meets the same phase as in a pass from the start."""
        self._run = (0.0, 0)
        """Where the unbroken run of sound began, in samples, and how many source samples were taken since."""
        self._damaged = 0
        self._ended = False

    def _reached(self, start: int) -> bool:
        return start >= self._low and (start <= self._position + self._seek_ahead or self._ended)

    def _go_to(self, start: int) -> None:
        """Goes to before `start`, with preroll. If the container cannot seek, reads on, or again from the beginning."""
        target = start - PREROLL_SAMPLES
        forward = start >= self._low
        if self._seeks and target > 0:
            self._reader.seek(target / SOUND_RATE)
            if not self._reader.at_start:
                self._restart(start)
                while self._fresh and not self._ended:
                    self._pull()
                if self._run[0] <= start:
                    return
            self._open()
        elif not forward:
            self._open()
        self._low = start

    def _pull(self) -> None:
        """Decodes one more packet."""
        packet = next(self._packets, None)
        if packet is None:
            self._flush()
            self._ended = True
            return
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, ValueError):
            self._damaged += 1
            if self._damaged > MAX_DAMAGED_PACKETS:
                self._ended = True
            return
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Any) -> None:
        if not frame.samples or not frame.sample_rate:
            return
        if self._fresh and not self._on_grid:
            if frame.pts is None:
                return  # after a seek we cannot tell where this frame belongs
            frame = _cut_to_grid(frame, self._reader.zero)
            self._on_grid = True
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        pts = None if frame.pts is None else float(frame.pts * frame.time_base - self._reader.zero) * SOUND_RATE
        began, taken = self._run
        expected = began + taken * SOUND_RATE / frame.sample_rate
        gap = pts is not None and not self._fresh and pts - expected > self._slip
        if self._fresh or gap or form != self._format:
            self._flush()
            # A stamp that goes back is not trusted: the sound continues where it was.
            began = pts if pts is not None and (self._fresh or gap) else expected
            taken = 0
            self._position = round(began)
            several = self._in_use > 0 and frame.layout.nb_channels > 2
            self._resampler = (
                av.AudioResampler(format="flt", layout=frame.layout, rate=SOUND_RATE)
                if several
                else av.AudioResampler(format="flt", layout="mono", rate=SOUND_RATE)
            )
            self._format = form
            self._fresh = False
        self._run = (began, taken + frame.samples)
        frame.pts = None
        for out in self._resampler.resample(frame):
            self._append(out)

    def _flush(self) -> None:
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                self._append(out)
            self._resampler = None

    def _append(self, out: Any) -> None:
        samples = by_channel(out)  # (1, S), or (C, S) if FFmpeg does not mix
        samples = samples[0] if len(samples) == 1 else np.clip(samples.sum(axis=0) / self._in_use, -1, 1)
        first = self._position
        self._position += len(samples)
        if self._position > self._low:
            self._chunks.append((first, np.ascontiguousarray(samples, np.float32)))


def _cut_to_grid(frame: Any, zero: Fraction) -> Any:
    """`frame` without its first samples, so that it begins on a whole sample at 16 kHz; unchanged if too short."""
    rate = frame.sample_rate
    step = rate // math.gcd(rate, SOUND_RATE)
    first = round((frame.pts * frame.time_base - zero) * rate)
    drop = -first % step
    if not drop or drop >= frame.samples:
        return frame
    samples = frame.to_ndarray()
    packed = not frame.format.is_planar
    samples = samples[:, drop * (len(frame.layout.channels) if packed else 1) :]
    cut = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), frame.format.name, frame.layout.name)
    cut.sample_rate = rate
    cut.time_base = Fraction(1, rate)
    cut.pts = first + drop + round(zero * rate)
    return cut


def by_channel(frame: Any) -> np.ndarray:
    """float32 [C, S] of a frame of interleaved floats. Not of planar ones: if their channels have no layout, PyAV reads
    planes that do not exist, and crashes."""
    channels = frame.layout.nb_channels
    return frame.to_ndarray().reshape(-1, channels).T


class SoundMix:
    """Several streams mixed: their sum, divided by how many are audible. It is read like a SoundReader. A stream that
    breaks is left out from there on.

    Raises the last stream's error (MediaError, or what PyAV raises) if none can be opened.
    """

    def __init__(
        self,
        path: str,
        limits: Limits | None = None,
        sources: Sequence[SoundSource] = (),
        clock: MediaClock | SampledClock | None = None,
    ):
        """sources: empty for the stream that FFmpeg would choose."""
        self._readers: list[SoundReader] = []
        self._audible = max(1, sum(source.audible for source in sources))
        error: Exception | None = None
        for source in sources or (None,):
            try:
                self._readers.append(SoundReader(path, limits, source, clock))
            except (MediaError, av.error.FFmpegError, ValueError, AttributeError) as raised:
                error = raised
        if not self._readers and error is not None:
            raise error

    def read(self, start: int, end: int) -> np.ndarray:
        """As `SoundReader.read`; as long as the longest stream."""
        parts, error = [], None
        for reader in list(self._readers):
            try:
                parts.append(reader.read(start, end))
            except (MediaError, av.error.FFmpegError, ValueError) as raised:
                error = raised
                if len(self._readers) > 1:
                    self._readers.remove(reader)
                    reader.close()
        if not parts:
            assert error is not None
            raise error
        if len(parts) == 1 and self._audible == 1:
            return parts[0]
        out = np.zeros(max(map(len, parts)), np.float32)
        for part in parts:
            out[: len(part)] += part
        mixed: np.ndarray = np.clip(out / np.float32(self._audible), -1, 1)
        return mixed

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> SoundMix:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def iter_windows(
    reader: SoundReader | SoundMix, windows: Iterable[WindowRequest]
) -> Iterator[tuple[WindowRequest, np.ndarray | Exception]]:
    """Yields each window with its samples, or with the error if it cannot be read, in order of start. One forward pass;
    stretches that nobody asked for are skipped if the container can seek."""
    for window in sorted(windows, key=lambda w: w.start_sample):
        try:
            yield window, reader.read(window.start_sample, window.start_sample + window.samples)
        except (MediaError, av.error.FFmpegError, ValueError) as error:
            yield window, error
