"""Which files a retry looks at again, and the names of the failure classes."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import deephotlink
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.failures import ERROR_CLASSES
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import Failure, MediaFile, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.runs import plan_of
from deephotlink.transforms.tables.unsettled import Unsettled, unsettled
from tests.committing import make_file, make_result, make_run

ROOT = Path(deephotlink.__file__).parent


def scored(file: MediaFile, raised: bool = False) -> MediaResult:
    """A score, with a detector that raised on an item or without."""
    result = make_result(make_file(0))
    rows = [replace(row, media_id=file.media_id) for row in result.evidence]
    if raised:
        rows.append(replace(rows[1], logit=None, abstained="detector_error", detail="ValueError: no"))
    return replace(result, outcome=replace(result.outcome, file=file), evidence=tuple(rows))


def failing(file: MediaFile, error_class: str) -> MediaResult:
    return MediaResult(MediaOutcome(file, "failed", failure=Failure("probe", error_class, "why")), None)


def run_of(store: OutputStore, key: str, made: dict[int, str], **fields) -> str:
    """A finished run over media 0-5, each ended as told: a class, `raised`, or scored."""
    run = make_run(store, 1, 6, resume_key=key, **fields)
    results = []
    for number, (file, _) in enumerate(sorted(plan_of(store, run), key=lambda row: row[0].uri)):
        said = made.get(number, "")
        results.append(failing(file, said) if said not in ("", "raised") else scored(file, said == "raised"))
    commit_unit(store, run, 0, results)
    publish(store, run, complete=True)
    return run.run_id


def test_what_no_run_has_settled_by_its_newest_class_and_counted(tmp_path):
    store = OutputStore(str(tmp_path))
    first = run_of(store, "a", {0: "missing", 1: "raised", 2: "deadline", 3: "too_large"})
    ids = [make_file(number).media_id for number in range(6)]
    assert unsettled(store, "print") == {
        ids[0]: Unsettled("missing", first, 1),
        ids[1]: Unsettled("detector_error", first, 1),
        ids[2]: Unsettled("deadline", first, 1),
        ids[3]: Unsettled("too_large", first, 1),
    }
    assert unsettled(store, "other") == {}
    second = run_of(store, "b", {0: "raised", 1: "raised", 4: "deadline"})
    found = unsettled(store, "print")
    # 2 and 3 were scored since; 4 was, before it failed: a score that stands needs no other
    assert found == {ids[0]: Unsettled("detector_error", second, 2), ids[1]: Unsettled("detector_error", second, 2)}
    run_of(store, "c", {}, kind="rescore")  # asks no detector, so it settles nothing
    assert unsettled(store, "print") == found
    run_of(store, "d", {1: "decoder_error"})
    assert {media_id: one.attempts for media_id, one in unsettled(store, "print").items()} == {ids[1]: 3}


def test_every_class_that_the_code_gives_a_failure_is_known_to_the_command_line():
    given: set[str] = set()
    for path in [*(ROOT / "transforms").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                at = {"MediaError": 0, "ItemFailed": 0, "WorkerLost": 0, "Failure": 1, "_failing": 1, "_clip_failed": 1}
                if name in at and len(call.args) > at[name]:
                    word = call.args[at[name]]
                    given |= {word.value} if isinstance(word, ast.Constant) else set()
    internal = {"no_decord", "not_for_decord", "past_the_end", "not_media"}  # answered by another reader, or skipped
    assert len(given) > 15 and given - internal <= set(ERROR_CLASSES), given - internal - set(ERROR_CLASSES)
