"""Which detector is recommended for each kind of forgery, what that rests on, and what it costs.

The table names only detectors on record. Sizes, addresses and licences come from the detectors' own specs. A figure
counts if it was measured on forgeries that other people's tools made: by us if we could, else by the authors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...models import registry
from ...models.base import DetectorSpec, Family


@dataclass(frozen=True, slots=True)
class Candidate:
    """A detector for one kind of forgery."""

    detector: str
    figure: str
    """What it reached, on what, and who measured it. AUC unless it says otherwise; intervals are 95 %."""
    reason: str
    cpu_seconds: float
    """CPU-seconds of one core for a clip of ten seconds with one face and sound (docs/benchmarks.md)."""
    counts: bool
    """Whether its figure is above chance on forgeries of others. If not, what it says is evidence only in a
    calibration that `audit --recommended --real` makes: without forgeries, nothing else can tell that it is noise."""
    about_bytes: int = 0
    """Size of the download, if the record has none."""
    terms: str = ""
    """What its licence does not say about its use."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of forgery, with the detectors on record for it."""

    forgery: str
    family: Family
    candidates: tuple[Candidate, ...]
    """The best first."""


_GEND_BYTES = 1_216_000_000
"""The tensors of GenD in float32; a test adds them up."""
_GEND_TERMS = "the weights are MIT, but FaceForensics++, which they were trained on, is for research and education only"
_NOT_RUN = "we have never had the published file: its network was tested with random weights"

KINDS: tuple[Kind, ...] = (
    Kind(
        "face swaps and edits",
        "facial",
        (
            Candidate(
                "gend_clip_l14",
                "published: .96 on Celeb-DF-v2, .87 on DFDC (films by other makers than it was trained on)",
                "the highest published figure across data sets of all detectors on record; face_swap runs beside it, "
                f"which has .82 in one collection and .51 in another; {_NOT_RUN}",
                10.9,
                True,
                _GEND_BYTES,
                _GEND_TERMS,
            ),
            Candidate(
                "face_swap",
                "measured: .82 [.74-.89] on 67 swaps by 8 tools, .51 [.45-.59] on DeepFaceLive",
                "comes with deephotlink; above every trivial baseline in one of two collections",
                0.4,
                True,
            ),
            Candidate(
                "facial",
                "measured: .58 [.48-.67] on 67 swaps by 8 tools, .66 [.53-.80] on 22 others",
                "comes with deephotlink; hardly better than chance on tools of others",
                0.4,
                False,
            ),
        ),
    ),
    Kind(
        "rendered heads",
        "facial",
        (
            Candidate(
                "gend_clip_l14",
                "none on record for these alone; measured: no detector above chance (face_swap .56 [.48-.64])",
                "trained on two kinds of reenactment (Face2Face, NeuralTextures) among others. Meso4_F2F, which was "
                "trained on Face2Face alone, has .45 here. The file is the one above",
                10.9,
                True,
                _GEND_BYTES,
                _GEND_TERMS,
            ),
        ),
    ),
    Kind(
        "generated film",
        "synthetic",
        (
            Candidate(
                "commfor_384",
                "published: 87 % of pictures right in its authors' own test; none on record for film",
                "trained on pictures of 4,803 generators. The embedded `synthetic` has .79 [.59-.96] on 12 generated "
                f"films, but the frame rate alone has .90 there; {_NOT_RUN}",
                2.0,
                True,
            ),
            Candidate(
                "synthetic",
                "measured: .79 [.59-.96] on 12 generated films (the frame rate alone .90)",
                "comes with deephotlink; not shown to hold up beyond generators of our own",
                0.2,
                False,
            ),
        ),
    ),
    Kind(
        "synthetic speech",
        "audio",
        (
            Candidate(
                "audio",
                "measured: .88 [.83-.93] on 46 tools, the page left out; .46 [.32-.60] on Tortoise (AASIST .42)",
                "comes with deephotlink, and is better than the published detectors on record were on the same voices",
                0.1,
                True,
            ),
        ),
    ),
    Kind(
        "lips that do not fit",
        "lip_sync",
        (
            Candidate(
                "lip_sync",
                "measured: .49 [.11-.82] on 16 lip-synced films (.95 on shifted sound)",
                "comes with deephotlink, finds a dubbed voice, but no lip-sync forgery. syncnet_v2 has no figure and "
                "no checksum on record, and forgeries trained against it look real to it",
                0.1,
                False,
            ),
        ),
    ),
    Kind(
        "declared origin",
        "metadata",
        (
            Candidate(
                "metadata",
                "measured: no logit on any of 274 real files; says what a file declares",
                "comes with deephotlink; nothing else on record reads Content Credentials",
                0.0,
                True,
            ),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Pick:
    """The detector that is recommended for one kind of forgery."""

    kind: Kind
    candidate: Candidate
    spec: DetectorSpec
    better: tuple[DetectorSpec, ...] = ()
    """Better ones whose licences forbid commercial use and were not accepted."""

    @property
    def download_bytes(self) -> int:
        """What there is to download, as published; 0 if it comes with deephotlink."""
        if self.spec.origin == "embedded":
            return 0
        sizes = [file.size_bytes for file in self.spec.weights]
        return sum(sizes) if all(sizes) else self.candidate.about_bytes

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where its files are published."""
        if self.spec.origin == "embedded":
            return ()
        return tuple(dict.fromkeys(urlsplit(file.url).hostname or "" for file in self.spec.weights))

    @property
    def forbids(self) -> str:
        return "commercial use" if not self.spec.commercial_use else "nothing"

    def as_json(self) -> dict[str, Any]:
        return {
            "forgery": self.kind.forgery,
            "family": self.kind.family,
            "detector": self.spec.name,
            "origin": self.spec.origin,
            "figure": self.candidate.figure,
            "reason": self.candidate.reason,
            "counts": self.candidate.counts,
            "licence": self.spec.licence,
            "forbids": self.forbids,
            "terms": self.candidate.terms or None,
            "download_bytes": self.download_bytes,
            "hosts": list(self.hosts),
            "cpu_seconds": self.candidate.cpu_seconds,
            "better_if_licence_accepted": [spec.name for spec in self.better],
        }


def recommended(accepted: Collection[str] = (), kinds: Sequence[Kind] | None = None) -> tuple[Pick, ...]:
    """The best detector for each kind of forgery whose licence allows any use or was accepted by name."""
    installed = registry.installed()
    picks = []
    for kind in KINDS if kinds is None else kinds:
        better: list[DetectorSpec] = []
        for candidate in kind.candidates:
            spec = installed.get(candidate.detector)
            if spec is None:  # its package or its weights are broken: `deephotlink detectors` says so
                continue
            if spec.commercial_use or spec.name in accepted:
                picks.append(Pick(kind, candidate, spec, tuple(better)))
                break
            better.append(spec)
    return tuple(picks)


def to_run(picks: Sequence[Pick]) -> tuple[str, ...]:
    """Names of the recommended detectors and of all that come with deephotlink, sorted."""
    embedded = {name for name, spec in registry.installed().items() if spec.origin == "embedded"}
    return tuple(sorted(embedded | {pick.spec.name for pick in picks}))


def evidence_only(names: Collection[str]) -> frozenset[str]:
    """Those of `names` that are not shown to find forgeries of others: they must not move a verdict."""
    shown = {candidate.detector for kind in KINDS for candidate in kind.candidates if candidate.counts}
    return frozenset(names) - shown


def published(picks: Sequence[Pick]) -> Mapping[str, Pick]:
    """The picks whose files are downloaded, each detector once."""
    found: dict[str, Pick] = {}
    for pick in picks:
        if pick.spec.origin != "embedded" and pick.spec.weights:
            found.setdefault(pick.spec.name, pick)
    return found
