"""The work behind `forge`: one real film or sound file gives its forgeries, and itself through the same chain."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...models.base import SOUND_RATE, ClipGeometry
from ...models.signals.speech import analyse_speech
from ...transforms.clips import Sampling, plan_decoding
from ...transforms.decode import decode_request
from ...transforms.faces import shared_detector, track_faces
from ...transforms.failures import printable
from ...transforms.media.children.pool import WorkerPool
from ...transforms.media.protocol import DecodedClip
from ...transforms.records import Clip, DecodePlan, FaceTrack, MediaProbe
from ..samples.encoding import FilmWriter, film_suffix, join_sound, sound_suffix, write_sound
from .forge_options import FAMILY_OF, ForgeConfig
from .material import Source, probed, sounds

FACE_KINDS, FRAME_KINDS = ("blended", "swapped", "coarse"), ("resynthesised", "stylised")
REAL = "real"
STRETCH_SECONDS = 2.0
"""Length of film that is decoded and searched for faces at a time."""
LEAST_SHARE = 0.3
"""If a smaller share of a film's frames was forged, the forgery is thrown away."""
LEAST_LIP_SECONDS = 3.0
DONOR_FRAMES, DONORS_TRIED = 48, 6
LEAST_BITS, MOST_BITS = 150_000, 6_000_000
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Made:
    path: str
    """Relative to the output."""
    label: Literal["real", "fake"]
    group: str
    family: str = ""
    generator: str = ""


@dataclass(slots=True)
class _Forged:
    """One film as it was written: its pictures, real and forged, without sound."""

    films: dict[str, Path]
    """By kind, with `real` for the film itself."""
    sound: np.ndarray | None
    """float32 [S], 16 kHz: the real sound; None if there is none."""
    seconds: float
    face_share: float
    suffix: str


@dataclass(slots=True)
class Workshop:
    config: ForgeConfig
    pool: WorkerPool
    spool: Path
    tell: Tell
    sources: Sequence[Source]
    voices: Sequence[tuple[str, np.ndarray]] = ()
    passed_over: list[str] = field(default_factory=list)

    def pass_over(self, source: Source, kind: str, why: str) -> None:
        line = f"{Path(source.path).name}: no {kind}: {why}"
        self.passed_over.append(line)
        self.tell(f"skipped {printable(line, 300)}")

    def seed(self, source: Source, kind: str) -> tuple[int, ...]:
        """A seed from the source's file name and group, independent of its folder."""
        digest = hashlib.sha256(f"{source.group}\0{Path(source.path).name}\0{kind}".encode("utf-8", "surrogateescape"))
        return self.config.seed, int.from_bytes(digest.digest()[:4], "big")


def forge_film(shop: Workshop, source: Source, probe: MediaProbe, scratch: Path) -> list[tuple[Path, Made]]:
    """Puts the film through the chain and makes its forgeries: finished files in `scratch`, each with its label."""
    kinds = [kind for kind in shop.config.kinds if kind in (*FACE_KINDS, *FRAME_KINDS)]
    donor = _donor(shop, source) if "swapped" in kinds else ()
    if "swapped" in kinds and not donor:
        kinds.remove("swapped")
        shop.pass_over(source, "swapped", "no face of another group")
    forged = _pictures(shop, source, probe, kinds, donor, scratch)
    if forged is None:
        shop.pass_over(source, "film", "no frame could be decoded")
        return []
    sounds_of = _sounds(shop, source, forged)
    made = []
    for kind, film in forged.films.items():
        path = scratch / f"{kind}-whole{forged.suffix}"
        join_sound(film, forged.sound, path)
        made.append((path, _labelled(source, kind, kind)))
    for kind, (generator, sound) in sounds_of.items():
        path = scratch / f"{kind}-whole{forged.suffix}"
        join_sound(forged.films[REAL], sound, path)
        made.append((path, _labelled(source, kind, generator)))
    return made


def forge_sound(shop: Workshop, source: Source, probe: MediaProbe, scratch: Path) -> list[tuple[Path, Made]]:
    """The same as `forge_film`, for a sound file."""
    decoded = [sound for _, sound in sounds([source], shop.tell)]
    if not decoded:
        shop.pass_over(source, "sound", "nothing could be decoded")
        return []
    sound = decoded[0][: round(shop.config.seconds * SOUND_RATE)]
    suffix = sound_suffix(source.path)
    files = [(REAL, REAL, sound)]
    if "vocoded" in shop.config.kinds:
        if speaks(sound):
            files.append(("vocoded", *_vocoded(shop, source, sound)))
        else:
            shop.pass_over(source, "vocoded", "no speech")
    made = []
    for kind, generator, samples in files:
        path = scratch / f"{kind}{suffix}"
        write_sound(path, samples)
        made.append((path, _labelled(source, kind, generator)))
    return made


def speaks(sound: np.ndarray | None) -> bool:
    """Whether float32 [S], 16 kHz, is loud enough and voiced enough to be speech."""
    speech = analyse_speech(sound) if sound is not None and len(sound) else None
    return speech is not None and speech.level_db >= -60 and speech.voiced_share >= 0.1


def _labelled(source: Source, kind: str, generator: str) -> Made:
    if kind == REAL:
        return Made(kind, "real", source.group)
    return Made(kind, "fake", source.group, FAMILY_OF[kind], generator)


def _pictures(
    shop: Workshop, source: Source, probe: MediaProbe, kinds: Sequence[str], donor: Sequence[Any], scratch: Path
) -> _Forged | None:
    """Writes films without sound into `scratch`; None if no frame could be decoded. A kind that changed fewer than
    LEAST_SHARE of the frames is left out."""
    from ...models.training.forgeries.films import forge_face, frame_forger, smoothed

    plan = _plan(probe, shop.config)
    rate = _frame_rate(plan)
    suffix = film_suffix(source.path, rate)
    whole = {kind: frame_forger(kind, shop.seed(source, kind)) for kind in kinds if kind in FRAME_KINDS}
    films = {kind: scratch / f"{kind}{suffix}" for kind in (REAL, *kinds)}
    bits = bits_a_second(probe, plan.width, plan.height, rate)
    touched: Counter[str] = Counter()
    sounds_of_clips: list[tuple[float, np.ndarray]] = []
    first, number = math.nan, 0
    with ExitStack() as stack:
        writers: dict[str, FilmWriter] = {}
        for item in shop.pool.decode(decode_request(plan)):
            if not isinstance(item, DecodedClip) or not len(item.frames):
                continue
            if not writers:
                first = float(item.pts_seconds[0])
                for kind, path in films.items():
                    writer = FilmWriter(path, plan.width, plan.height, rate, bits)
                    writers[kind] = stack.enter_context(writer)
            spec = plan.clips[item.clip_index]
            if item.sound is not None:
                sounds_of_clips.append((spec.start_seconds, item.sound))
            clip = Clip(probe.file, spec, item.frames, item.pts_seconds, item.sound)
            tracks = track_faces(clip, shared_detector("cpu"))[0].tracks or ()
            places: dict[int, np.ndarray] = {}
            for track in apart(tracks):
                places |= dict(zip(track.frame_positions.tolist(), smoothed(track.landmarks), strict=True))
            for position, frame in enumerate(item.frames):
                # The rate is constant: a late frame fills the gap before it, and one whose place is taken is dropped.
                due = round((float(item.pts_seconds[position]) - first) * rate) + 1
                copies = min(due, round(shop.config.seconds * rate)) - number
                if copies < 1:
                    continue
                made = {REAL: frame}
                for kind in kinds:
                    found = None
                    if kind in whole:
                        found = whole[kind](frame, number, float(rate))
                    elif position in places:
                        seed = shop.seed(source, kind)
                        found = forge_face(frame, places[position], kind, seed, number, donor)
                    touched[kind] += copies * (found is not None)
                    made[kind] = frame if found is None else found
                touched[REAL] += copies * (position in places)
                for kind, picture in made.items():
                    for _ in range(copies):
                        writers[kind].write(picture)
                number += copies
    if not number:
        return None
    for kind in kinds:
        if touched[kind] < LEAST_SHARE * number:
            shop.pass_over(source, kind, f"only {touched[kind]} of {number} frames have a face that can be forged")
            del films[kind]
    sound = _joined(sounds_of_clips, first, number / float(rate))
    return _Forged(films, sound, number / float(rate), touched[REAL] / number, suffix)


def apart(tracks: Iterable[FaceTrack]) -> list[FaceTrack]:
    """The largest and longest face tracks that never overlap in time: only one face at a time is forged."""

    def weight(track: FaceTrack) -> float:
        return float(np.prod(track.boxes[:, 2:] - track.boxes[:, :2], axis=1).sum())

    chosen: list[FaceTrack] = []
    taken: set[int] = set()
    for track in sorted(tracks, key=weight, reverse=True):
        positions = set(track.frame_positions.tolist())
        if not positions & taken:
            chosen.append(track)
            taken |= positions
    return chosen


def bits_a_second(probe: MediaProbe, width: int, height: int, rate: Fraction) -> int:
    """The bit rate for pictures of this size and rate: as many bits per pixel as the source spends, but no more than
    its own rate, and within LEAST_BITS and MOST_BITS."""
    video = probe.video
    assert video is not None
    seconds = max(0.1, video.duration_seconds or probe.duration_seconds)
    spent = max(0.0, probe.file.size_bytes * 8 / seconds - (64_000 if probe.audio is not None else 0))
    reduced = width * height * float(rate) / max(1.0, video.width * video.height * (video.frame_rate or 25.0))
    return int(min(MOST_BITS, max(LEAST_BITS, spent * min(1.0, reduced))))


def _plan(probe: MediaProbe, config: ForgeConfig, seconds: float | None = None) -> DecodePlan:
    """A plan for the first seconds of a film without gaps: each clip is as long as its slot."""
    most_frames = math.ceil(1.3 * STRETCH_SECONDS * 30)
    sampling = Sampling(every_seconds=STRETCH_SECONDS, short_side=config.short_side)
    plan = plan_decoding(probe, sampling, lambda _: ClipGeometry(most_frames, 30.0), True, lambda _: ())
    seconds = config.seconds if seconds is None else seconds
    start = plan.clips[0].start_seconds if plan.clips else 0.0
    return replace(plan, clips=tuple(clip for clip in plan.clips if clip.start_seconds - start < seconds))


def _frame_rate(plan: DecodePlan) -> Fraction:
    steps = [b - a for clip in plan.clips for a, b in zip(clip.times_seconds, clip.times_seconds[1:], strict=False)]
    return Fraction(1 / float(np.median(steps)) if steps else 25.0).limit_denominator(1001)


def _joined(sounds_of_clips: Sequence[tuple[float, np.ndarray]], first: float, seconds: float) -> np.ndarray | None:
    """The film's sound from its first frame to its last, float32 [S]; None if there is none."""
    if not sounds_of_clips:
        return None
    sound = np.zeros(round(seconds * SOUND_RATE), np.float32)
    for start, samples in sounds_of_clips:
        at = round((start - first) * SOUND_RATE)
        low, high = max(0, at), min(len(sound), at + len(samples))
        if low < high:
            sound[low:high] = samples[low - at : high - at]
    return sound


def _donor(shop: Workshop, source: Source) -> tuple[Any, ...]:
    """Successive frames of a face from another group; empty if a few tries found none."""
    from ...models.training.forgeries.films import donor_face

    others = [s for s in shop.sources if s.group != source.group]
    order = np.random.default_rng([*shop.seed(source, "donor")]).permutation(len(others))
    tried = 0
    for other in (others[at] for at in order):
        probe = probed(other, shop.pool, shop.spool, lambda _: None)
        if probe is None or probe.video is None:
            continue
        tried += 1
        plan = _plan(probe, shop.config, 0.1)
        for item in shop.pool.decode(decode_request(plan)):
            if isinstance(item, DecodedClip) and len(item.frames):
                clip = Clip(probe.file, plan.clips[item.clip_index], item.frames, item.pts_seconds, None)
                tracks = apart(track_faces(clip, shared_detector("cpu"))[0].tracks or ())
                rows = [(t.frame_positions[i], t.landmarks[i]) for t in tracks[:1] for i in range(len(t.boxes))]
                faces = [donor_face(item.frames[p], points, other.group) for p, points in rows[:DONOR_FRAMES]]
                if kept := tuple(face for face in faces if face is not None):
                    return kept
        if tried >= DONORS_TRIED:
            break
    return ()


def _sounds(shop: Workshop, source: Source, forged: _Forged) -> dict[str, tuple[str, np.ndarray]]:
    """The forged sounds of a film: kind → generator and sound, float32 [S]."""
    wanted = [kind for kind in shop.config.kinds if kind in ("vocoded", "shifted", "dubbed")]
    if not wanted:
        return {}
    if forged.sound is None or not speaks(forged.sound):
        shop.pass_over(source, ", ".join(wanted), "no speech")
        return {}
    sound, made = forged.sound, dict[str, tuple[str, np.ndarray]]()
    talking = forged.face_share >= LEAST_SHARE and forged.seconds >= LEAST_LIP_SECONDS
    for kind in wanted:
        rng = np.random.default_rng([*shop.seed(source, kind)])
        if kind == "vocoded":
            made[kind] = _vocoded(shop, source, sound)
        elif not talking:
            shop.pass_over(source, kind, "no face that talks for some seconds")
        elif kind == "shifted":
            late = rng.uniform(0.5, min(2.3, forged.seconds - 0.5)) * (1 if rng.random() < 0.5 else -1)
            made[kind] = kind, np.roll(sound, round(late * SOUND_RATE))
        elif (voice := _another_voice(shop.voices, source.group, len(sound), rng)) is None:
            shop.pass_over(source, kind, "no voice of another group that is long enough")
        else:
            made[kind] = kind, _as_loud_as(voice, sound)
    return made


def _another_voice(
    voices: Sequence[tuple[str, np.ndarray]], group: str, samples: int, rng: np.random.Generator
) -> np.ndarray | None:
    long_enough = [voice for other, voice in voices if other != group and len(voice) >= 0.8 * samples]
    if not long_enough:
        return None
    voice = long_enough[rng.integers(len(long_enough))][:samples]
    return np.pad(voice, (0, samples - len(voice)))


def _as_loud_as(voice: np.ndarray, sound: np.ndarray) -> np.ndarray:
    power, wanted = (float(np.sqrt(np.mean(s.astype(np.float64) ** 2))) for s in (voice, sound))
    return np.asarray(np.clip(voice * (wanted / max(power, 1e-6)), -1, 1), np.float32)


def _vocoded(shop: Workshop, source: Source, sound: np.ndarray) -> tuple[str, np.ndarray]:
    from ...models.training.forgeries.vocoders import KINDS, vocoded

    rng = np.random.default_rng([*shop.seed(source, "vocoded")])
    kind = KINDS[rng.integers(len(KINDS))]
    return kind, vocoded(kind, sound, rng)
