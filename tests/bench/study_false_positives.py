"""Study: how often real media are called `manipulated`, fused and by each detector alone.

python -m tests.bench.study_false_positives --media FOLDER --labels MANIFEST.csv --part held --out fp.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deephotlink.models.base import DetectorSpec
from deephotlink.models.calibration.calibration import Calibration
from tests.bench.studies import (
    VERDICTS,
    Audited,
    Share,
    arguments,
    audit,
    calibration_of,
    chosen,
    reals,
    share,
    table,
    verdict_of,
    workshop,
    write,
)


def false_positives(
    audited: Sequence[Audited], groups: Sequence[str], specs: Sequence[DetectorSpec], calibration: Calibration
) -> dict[str, dict[str, Share | int]]:
    """For `fused` and each detector: the share called manipulated, of all files and of those that it could judge.

    For a detector alone, it is what the verdict would be if no other had answered. `logit > 0` is its own opinion,
    before any calibration.
    """
    found: dict[str, dict[str, Share | int]] = {}
    for name in ("fused", *(spec.name for spec in specs)):
        if name == "fused":
            verdicts = [one.verdict for one in audited]
            positive = [False for _ in audited]
        else:
            own = [tuple(row for row in one.evidence if row.detector == name) for one in audited]
            verdicts = [verdict_of(rows, specs, calibration) if rows else "not_assessed" for rows in own]
            logits = [one.logits(specs).get(name) for one in audited]
            positive = [logit is not None and logit > 0 for logit in logits]
            judged = [logit is not None for logit in logits]
        if name == "fused":
            judged = [verdict != "not_assessed" for verdict in verdicts]
        said = [at for at, here in enumerate(judged) if here]
        counts = Counter(verdicts)
        found[name] = {
            "manipulated": share([verdict == "manipulated" for verdict in verdicts], groups),
            "manipulated_of_judged": share([verdicts[at] == "manipulated" for at in said], [groups[at] for at in said]),
            "logit_above_0_of_judged": share([positive[at] for at in said], [groups[at] for at in said]),
            **{verdict: counts[verdict] for verdict in VERDICTS if verdict != "manipulated"},
        }
    return found


def main(argv: Sequence[str] | None = None) -> str:
    args = arguments(__doc__).parse_args(argv)
    sources, pick, calibration = reals(args), chosen(args.detectors), calibration_of(args)
    with workshop(args) as folder:
        audited = audit([s.path for s in sources], folder / "audit", pick.specs, args.calibration)
    read = [s for s in sources if s.path in audited]
    found = false_positives([audited[s.path] for s in read], [s.group for s in read], pick.specs, calibration)
    head = ("who", "called manipulated, all files [95 %]", "of those it judged", "logit > 0, of those it judged")
    rows = [
        (name, f["manipulated"], f["manipulated_of_judged"], "" if name == "fused" else f["logit_above_0_of_judged"])
        for name, f in found.items()
    ]
    text = table(head, rows)
    print(f"{len(read)} of {len(sources)} real files could be read; calibration {calibration.calibration_id}\n\n{text}")
    write(args, "false positives", pick.specs, {"files": len(read), "figures": found})
    return text


if __name__ == "__main__":
    main()
