"""Study: what re-encoding, halving and filming a screen do to the verdicts on real media.

python -m tests.bench.study_robustness --media FOLDER --labels MANIFEST.csv --part held --out robustness.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephotlink.models.base import DetectorSpec
from deephotlink.pipelines.samples.encoding import SOUND_CODECS
from tests.bench.studies import (
    Audited,
    arguments,
    audit,
    bootstrap,
    calibration_of,
    chosen,
    ffmpeg,
    reals,
    share,
    table,
    workshop,
    write,
)

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "96k")
EVEN = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
SCREEN = (
    "scale=trunc(iw*0.83/2)*2:trunc(ih*0.83/2)*2:flags=bilinear,"
    "crop=trunc(iw*0.97/2)*2:trunc(ih*0.97/2)*2,eq=gamma=1.1:saturation=0.95,"
    "pad=iw+16:ih+24:8:12:color=0x202020,fps=23.7,fps=30"
)
"""As a recorder sees a player's window: rescaled, a little cut off, framed, brighter, frames lost and doubled."""
FILM_VARIANTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "CRF 23": (("-vf", EVEN, *X264, "-crf", "23", *AAC),),
    "CRF 28": (("-vf", EVEN, *X264, "-crf", "28", *AAC),),
    "CRF 35": (("-vf", EVEN, *X264, "-crf", "35", *AAC),),
    "half size": (("-vf", "scale=trunc(iw/4)*2:trunc(ih/4)*2", *X264, "-crf", "23", *AAC),),
    "screen recording": (
        ("-vf", SCREEN, *X264, "-crf", "24", *AAC),
        ("-vf", EVEN, *X264, "-crf", "29", *AAC),
    ),
}
"""Each by one pass of ffmpeg or two."""
SOUND_VARIANTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "AAC 96 kbit/s": (AAC,),
    "AAC 32 kbit/s": (("-c:a", "aac", "-b:a", "32k"),),
    "Opus 24 kbit/s, then AAC": (("-c:a", "libopus", "-b:a", "24k"), AAC),
}


def is_sound(path: str | Path) -> bool:
    return Path(path).suffix.lower() in SOUND_CODECS


def worn(source: Path, passes: Sequence[Sequence[str]], into: Path) -> Path | None:
    """The file after these passes; None if ffmpeg failed."""
    kind = "m4a" if is_sound(source) else "mp4"
    for number, options in enumerate(passes):
        last = number == len(passes) - 1
        suffix = kind if last else "mka" if kind == "m4a" else "mkv"
        target = into.with_name(f"{into.name}{'' if last else f'-{number}'}.{suffix}")
        if not ffmpeg("-i", f"file:{source}", *options, "-map_metadata", "-1", target):
            return None
        if number:
            source.unlink()
        source = target
    return source


def compare(
    before: Sequence[Audited], after: Sequence[Audited], groups: Sequence[str], specs: Sequence[DetectorSpec], seed: int
) -> dict[str, Any]:
    """What changed, file by file, and how far each detector's logit of the whole file moved."""
    pairs = list(zip(before, after, strict=True))
    moved: dict[str, Any] = {}
    for spec in specs:
        steps = [
            (b.logits(specs)[spec.name], a.logits(specs)[spec.name], group)
            for (a, b), group in zip(pairs, groups, strict=True)
            if spec.name in a.logits(specs) and spec.name in b.logits(specs)
        ]
        if steps:
            change = [new - old for new, old, _ in steps]
            median, low, high = bootstrap(change, [g for *_, g in steps], lambda x: float(np.median(x)), seed)
            moved[spec.name] = {
                "files": len(change),
                "median": median,
                "median_low": low,
                "median_high": high,
                "percentile_2.5": float(np.percentile(change, 2.5)),
                "percentile_97.5": float(np.percentile(change, 97.5)),
                "turned_positive": sum(old <= 0 < new for new, old, _ in steps),
            }
    return {
        "authentic_to_manipulated": share(
            [a.verdict == "authentic" and b.verdict == "manipulated" for a, b in pairs], groups
        ),
        "newly_manipulated": share([a.verdict != "manipulated" == b.verdict for a, b in pairs], groups),
        "transitions": dict(Counter(f"{a.verdict} -> {b.verdict}" for a, b in pairs)),
        "logits": moved,
    }


def main(argv: Sequence[str] | None = None) -> str:
    args = arguments(__doc__).parse_args(argv)
    sources, pick = reals(args), chosen(args.detectors)
    figures: dict[str, Any] = {}
    rows = []
    with workshop(args) as folder:
        before = audit([s.path for s in sources], folder / "audit-before", pick.specs, args.calibration)
        for sound, variants in ((False, FILM_VARIANTS), (True, SOUND_VARIANTS)):
            kind = [s for s in sources if is_sound(s.path) == sound and s.path in before]
            for number, (name, passes) in enumerate(variants.items() if kind else ()):
                made = folder / f"{'sound' if sound else 'film'}-{number}"
                made.mkdir()
                files = {s.path: worn(Path(s.path), passes, made / f"{at:04d}") for at, s in enumerate(kind)}
                after = audit([made], folder / f"audit-{made.name}", pick.specs, args.calibration)
                same = [s for s in kind if files[s.path] is not None and str(files[s.path]) in after]
                groups = [s.group for s in same]
                ours, theirs = [before[s.path] for s in same], [after[str(files[s.path])] for s in same]
                figures[name] = compare(ours, theirs, groups, pick.specs, args.seed)
                f = figures[name]
                rows.append((name, f["authentic_to_manipulated"], f["newly_manipulated"], _moves(f["logits"])))
                print(f"{name}: {f['transitions']}", flush=True)
    head = ("what was done", "authentic to manipulated [95 %]", "newly manipulated", "logits: median change [95 %]")
    text = table(head, rows)
    print(f"\n{len(sources)} real files, calibration {calibration_of(args).calibration_id}\n\n{text}")
    write(args, "robustness", pick.specs, {"files": len(sources), "figures": figures})
    return text


def _moves(logits: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(
        f"{name} {f['median']:+.2f} [{f['median_low']:+.2f}, {f['median_high']:+.2f}] (n {f['files']:.0f})"
        for name, f in logits.items()
    )


if __name__ == "__main__":
    main()
