"""Study: does length accuse real films, and does it hide one forged stretch?

python -m tests.bench.study_films --media FOLDER --labels MANIFEST.csv --forged FOLDER/labels.csv --out films.json

Every clip is brought to one form (360 pixels high, 25 Hz, AAC), audited, and joined with others, in drawn order, into
films of 30 minutes. By their evidence that takes seconds, whatever the number of films: a stretch of ten seconds says
what a clip says. `--file-films` also joins and audits files, as a check: some 180 clips of decoding a film.
A joined film is harder than a true one: each stretch is of another source, and says something else.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deephotlink.models.base import DetectorSpec
from deephotlink.models.calibration.bounds import interval
from deephotlink.models.calibration.calibration import Calibration
from deephotlink.models.training.split import part
from deephotlink.transforms.records import Evidence
from tests.bench.studies import (
    Audited,
    Clock,
    Share,
    arguments,
    audit,
    calibration_of,
    chosen,
    ffmpeg,
    reals,
    share,
    table,
    verdict_of,
    workshop,
    write,
)

STRETCH_SECONDS = 10.0
FORM = (
    *("-vf", "scale=640:360:force_original_aspect_ratio=decrease,pad=640:360:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=25"),
    *("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", "-g", "50"),
    *("-c:a", "aac", "-b:a", "96k", "-ar", "44100", "-ac", "1", "-map_metadata", "-1", "-t", "10"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A clip in the form in which clips are joined."""

    path: Path
    group: str
    generator: str = ""
    """Of a forged one."""


def formed(path: str | Path, into: Path) -> bool:
    """Silence is added if there is no sound. A file with sound only is not used."""
    with_sound = ("-i", f"file:{path}", "-map", "0:v:0", "-map", "0:a:0", *FORM, into)
    silent = ("-f", "lavfi", "-i", "anullsrc=r=44100:cl=mono", "-map", "0:v:0", "-map", "1:a:0", "-shortest")
    return ffmpeg(*with_sound) or ffmpeg("-i", f"file:{path}", *silent, *FORM, into)


def parts_of(paths: Sequence[tuple[str, str, str]], folder: Path) -> list[Part]:
    """(path, group, generator) each → those that could be converted."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, (path, group, generator) in enumerate(paths):
        into = folder / f"{number:04d}.mp4"
        if formed(path, into):
            found.append(Part(into, group, generator))
    return found


def joined(pieces: Sequence[Audited]) -> list[Evidence]:
    """The evidence of a film made of these clips, each as one stretch; what containers declared is left out."""
    rows: list[Evidence] = []
    start, clip = 0.0, 0
    for piece in pieces:
        indices = sorted({row.clip_index for row in piece.evidence if row.clip_index is not None})
        places = {index: clip + at for at, index in enumerate(indices)}
        for row in piece.evidence:
            if row.start_seconds is None or row.logit is None:
                continue
            end = None if row.end_seconds is None else row.end_seconds + start
            where = None if row.clip_index is None else places[row.clip_index]
            rows.append(
                replace(
                    row, media_id="film", clip_index=where, start_seconds=row.start_seconds + start, end_seconds=end
                )
            )
        start += STRETCH_SECONDS * max(1, math.ceil(piece.duration_seconds / STRETCH_SECONDS - 0.25))
        clip += len(indices)
    return rows


def drawn(count: int, of: int, rng: np.random.Generator) -> list[int]:
    """`count` positions: all in one drawn order, then all in another, and so on."""
    rounds = [rng.permutation(of) for _ in range(-(-count // of))]
    return np.concatenate(rounds)[:count].tolist() if rounds else []


@dataclass(frozen=True, slots=True)
class Films:
    clips: Share
    films: int
    accused: int
    films_low: float
    films_high: float
    alone: Share | None = None
    """Forged stretches called manipulated by themselves."""
    caught: int = 0
    """Films with one forged stretch called manipulated."""
    caught_low: float = 0.0
    caught_high: float = 0.0
    kept: int = 0
    """Of the films whose stretch is called manipulated alone."""
    kept_of: int = 0


def by_evidence(
    clips: Sequence[tuple[Part, Audited]],
    forged: Sequence[tuple[Part, Audited]],
    specs: Sequence[DetectorSpec],
    calibration: Calibration,
    films: int,
    stretches: int,
    seed: int,
) -> Films:
    """Real films, and as many with one forged stretch in the middle, in each of which another one."""
    rng = np.random.default_rng(seed)
    verdicts = [verdict_of(joined([one]), specs, calibration) for _, one in clips]
    of_clips = share([v == "manipulated" for v in verdicts], [p.group for p, _ in clips])
    alone = [verdict_of(joined([one]), specs, calibration) == "manipulated" for _, one in forged]
    accused = caught = kept = kept_of = 0
    for film in range(films):
        pieces = [clips[at][1] for at in drawn(stretches, len(clips), rng)]
        accused += verdict_of(joined(pieces), specs, calibration) == "manipulated"
        if forged:
            at = film % len(forged)
            middle = len(pieces) // 2
            found = verdict_of(joined([*pieces[:middle], forged[at][1], *pieces[middle + 1 :]]), specs, calibration)
            caught += found == "manipulated"
            kept_of += alone[at]
            kept += alone[at] and found == "manipulated"
    low, high = interval(accused, films)
    if not forged:
        return Films(of_clips, films, accused, low, high)
    of_forged = share(alone, [p.group for p, _ in forged])
    return Films(of_clips, films, accused, low, high, of_forged, caught, *interval(caught, films), kept, kept_of)


def film_file(parts: Sequence[Part], into: Path) -> bool:
    """Joins the parts without encoding them again."""
    listing = into.with_suffix(".txt")
    listing.write_text("".join(f"file '{part.path}'\n" for part in parts), encoding="utf-8")
    return ffmpeg("-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", into)


def by_files(
    clips: Sequence[tuple[Part, Audited]],
    forged: Sequence[tuple[Part, Audited]],
    specs: Sequence[DetectorSpec],
    args: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Like `by_evidence`, but on files that are joined and audited."""
    rng = np.random.default_rng(args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    plain: list[Path] = []
    spliced: list[tuple[Path, bool]] = []
    for film in range(args.file_films):
        parts = [clips[at][0] for at in _as_long(clips, 60 * args.minutes, rng)]
        plain.append(folder / f"real-{film}.mp4")
        if not film_file(parts, plain[-1]):
            plain.pop()
        elif forged:
            part_, said = forged[film % len(forged)]
            middle = len(parts) // 2
            path = folder / f"forged-{film}.mp4"
            if film_file([*parts[:middle], part_, *parts[middle + 1 :]], path):
                spliced.append((path, said.verdict == "manipulated"))
    clock = Clock()
    found = audit([folder], folder.parent / "audit-films", specs, args.calibration)
    return {
        "films": len(plain),
        "verdicts": [found[str(path)].verdict for path in plain],
        "stretches_judged": [len({row.clip_index for row in found[str(path)].evidence}) for path in plain],
        "spliced": [{"verdict": found[str(path)].verdict, "caught_alone": alone} for path, alone in spliced],
        "seconds_a_film": clock() / max(1, len(plain) + len(spliced)),
    }


def _as_long(clips: Sequence[tuple[Part, Audited]], seconds: float, rng: np.random.Generator) -> list[int]:
    """Positions of clips that together last this long."""
    mean = float(np.mean([one.duration_seconds for _, one in clips]))
    return drawn(max(1, round(seconds / max(0.5, mean))), len(clips), rng)


def forged_files(labels: str | None, which: str) -> list[tuple[str, str, str]]:
    """(path, group, generator) of the fakes of `labels` that belong to this part."""
    if labels is None:
        return []
    folder = Path(labels).resolve().parent
    with open(labels, newline="", encoding="utf-8-sig") as rows:
        fakes = [row for row in csv.DictReader(rows) if row["label"] == "fake"]
    return [
        (str(folder / row["uri"]), row["group"], row["generator"])
        for row in fakes
        if which == "all" or part(row["group"]) == which
    ]


def main(argv: Sequence[str] | None = None) -> str:
    parser = arguments(__doc__)
    parser.add_argument("--forged", help="labels.csv of forged files, as `deephotlink forge` writes it")
    parser.add_argument("--films", type=int, default=200, help="virtual ones (default 200)")
    parser.add_argument("--file-films", type=int, default=0, help="that are joined and audited as files (default 0)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of a film")
    args = parser.parse_args(argv)
    pick, calibration = chosen(args.detectors), calibration_of(args)
    with workshop(args) as folder:
        clock = Clock()
        clips = _audited(parts_of([(s.path, s.group, "") for s in reals(args)], folder / "real"), args, pick.specs)
        fakes = forged_files(args.forged, args.part)
        forged = _audited(parts_of(fakes, folder / "fake"), args, pick.specs) if fakes else []
        if not clips:
            raise SystemExit("expected real videos to join, found none")
        stretches = max(1, round(60 * args.minutes / STRETCH_SECONDS))
        seconds = clock()
        found = by_evidence(clips, forged, pick.specs, calibration, args.films, stretches, args.seed)
        files = by_files(clips, forged, pick.specs, args, folder / "films") if args.file_films else {}
    rows: list[tuple[str, object]] = [
        ("real clips", found.clips),
        (
            f"real films of {args.minutes:g} minutes",
            f"{found.accused}/{found.films} = {found.accused / found.films:.1%} "
            f"[{found.films_low:.1%}-{found.films_high:.1%}]",
        ),
    ]
    if found.alone is not None:
        rows += [
            ("forged stretches alone", found.alone),
            (
                "films with one of them",
                f"{found.caught}/{found.films} = {found.caught / found.films:.1%} "
                f"[{found.caught_low:.1%}-{found.caught_high:.1%}]",
            ),
            ("of those caught alone, caught in the film", f"{found.kept}/{found.kept_of}"),
        ]
    text = table(("what", "called manipulated [95 %]"), rows)
    print(f"{len(clips)} clips, {len(forged)} forged ones, {seconds:.0f} s to make and audit them\n\n{text}")
    if files:
        print(f"\nas files: {files}")
    write(args, "films", pick.specs, {"clips": len(clips), "forged": len(forged), "figures": _plain(found), **files})
    return text


def _audited(
    parts: Sequence[Part], args: argparse.Namespace, specs: Sequence[DetectorSpec]
) -> list[tuple[Part, Audited]]:
    if not parts:
        return []
    folder = parts[0].path.parent
    found = audit([folder], folder.with_name(f"audit-{folder.name}"), specs, args.calibration)
    return [(one, found[str(one.path)]) for one in parts if str(one.path) in found]


def _plain(films: Films) -> dict[str, Any]:
    return {name: getattr(films, name) for name in Films.__slots__}


if __name__ == "__main__":
    main()
