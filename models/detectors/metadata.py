"""`metadata`: what a file declares about how it was made, before any frame is decoded.

Method: rules over container facts (tags, streams, times) and Content Credentials (C2PA 2.x; IPTC digital source types;
GB 45438-2025 labels). The evidence names each rule with what it saw. No weights, no training. Blind spots: every
platform strips metadata, and anyone can write it. A file without metadata says nothing, and absence is never counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from ..base import Detector, DetectorSpec, Judgement, MediaItem
from ..metadata.declared_origin import View
from ..metadata.rules import Finding, combine, examine
from ..weights.files import NO_WEIGHTS, Weights

NO_INDICATION = "no_indication"


DETECTOR = DetectorSpec(
    name="metadata",
    family="metadata",
    unit="media",
    needs=frozenset({"credentials"}),
    summary="Content Credentials, AI labels and tool names in the container, each finding named",
    blind_to="files whose metadata was removed or forged; says nothing if nothing is declared",
    method="C2PA 2.x, IPTC digitalsourcetype, GB 45438-2025; rules in models/metadata/rules.py",
    input="container facts and Content Credentials, no frame is decoded",
    output="sum of the rules' log-odds; no logit if nothing is declared",
    batch_size=64,
)


class MetadataDetector(Detector):
    """Judges files by what their facts and credentials declare. Abstains with `no_indication` if they declare nothing.

    `detail` is JSON: `{"rules": [{"rule", "saw", "weight", "text"}, …]}`.
    """

    def __init__(
        self, spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS, now: datetime | None = None
    ) -> None:
        super().__init__(spec, weights)
        self.now = now
        """Creation times are compared with this; None means the current time."""

    def score(self, items: Sequence[MediaItem]) -> list[Judgement]:
        now = self.now or datetime.now(UTC)
        return [judge(examine(View(item.facts, item.credentials, now))) for item in items]


def judge(findings: list[Finding]) -> Judgement:
    logit = combine(findings)
    rules = [{"rule": f.rule, "saw": f.saw, "weight": f.weight, "text": f.text} for f in findings]
    detail = json.dumps({"rules": rules}, ensure_ascii=False)
    if logit is None:
        return Judgement(abstained=NO_INDICATION, detail=detail)
    return Judgement(logit=logit, detail=detail)


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> MetadataDetector:
    return MetadataDetector(spec, weights)
