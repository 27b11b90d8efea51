"""The metadata detector: each rule on a file that it is for and on one that nearly is, and how rules combine."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deephotlink.models.base import Judgement, MediaItem
from deephotlink.models.detectors.metadata import DETECTOR, MetadataDetector, make
from deephotlink.models.metadata.declared_origin import View
from deephotlink.models.metadata.rules import RULES, Finding, combine, examine
from deephotlink.pipelines.samples.signing import sign_sample
from deephotlink.pipelines.samples.synthetic_media import make_video
from deephotlink.transforms.media.containers.credentials import read_credentials
from deephotlink.transforms.media.probe_file import probe
from deephotlink.transforms.media.protocol import Limits

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AI = "trainedAlgorithmicMedia"
X264 = "x264 - core 164 r3095 baee400 - H.264/MPEG-4 AVC codec - options: cabac=1 rc=crf mbtree=1 crf=23.0 qcomp=0.60"


def stream(kind: str = "video", **fields: Any) -> dict[str, Any]:
    return {"index": 0, "kind": kind, "attached_picture": False, "tags": {}, **fields}


def facts(tags: dict[str, str] | None = None, *streams: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"format": "mov,mp4,m4a,3gp,3g2,mj2", "tags": tags or {}, "streams": list(streams), **fields}


def credentials(state: str = "Valid", **fields: Any) -> dict[str, Any]:
    own = fields.pop("own", [])
    parents, components = fields.get("parent_source_types", []), fields.get("component_source_types", [])
    return {
        "state": state,
        "signer_trusted": state == "Trusted",
        "failures": [],
        "successes": [],
        "active": {"claim_generator": "App 1", "issuer": "Somebody", "digital_source_types": own, "actions": []},
        "all_digital_source_types": [*own, *parents, *components],
        **fields,
    }


def score(facts_: dict[str, Any] | None = None, credentials_: dict[str, Any] | None = None) -> Judgement:
    return MetadataDetector(now=NOW).score([MediaItem(facts_ or {}, credentials_)])[0]


def fired(facts_: dict[str, Any] | None = None, credentials_: dict[str, Any] | None = None) -> dict[str, str]:
    return {finding.rule: finding.saw for finding in examine(View(facts_ or {}, credentials_, NOW))}


def test_the_spec_is_the_contracts() -> None:
    assert (DETECTOR.name, DETECTOR.family, DETECTOR.unit) == ("metadata", "metadata", "media")
    assert DETECTOR.needs == {"credentials"}
    assert make().spec is DETECTOR


BROKEN = ["assertion.bmffHash.mismatch", "signingCredential.untrusted"]
HELD = ["claimSignature.validated", "assertion.bmffHash.match"]


@pytest.mark.parametrize(
    ("rule", "logit", "what"),
    [
        ("credentials_declare_ai", 4.0, credentials(own=[AI])),
        ("credentials_declare_ai", 4.0, credentials("Trusted", own=[AI, "digitalCapture"])),
        ("credentials_declare_ai", 4.0, credentials("Invalid", own=[AI], successes=HELD, failures=["x.expired"])),
        ("credentials_declare_ai_parts", 3.0, credentials(own=["compositeWithTrainedAlgorithmicMedia"])),
        ("credentials_derived_from_ai", 3.5, credentials(parent_source_types=[AI])),
        ("credentials_ai_ingredient", 2.0, credentials(own=["digitalCapture"], component_source_types=[AI])),
        ("credentials_declare_ai_invalid", 2.5, credentials("Invalid", own=[AI], failures=BROKEN, successes=HELD)),
        ("credentials_broken", 1.0, credentials("Invalid", failures=BROKEN)),
        ("credentials_broken", 1.0, credentials("Invalid", failures=["claimSignature.mismatch"])),
        ("credentials_program_made", 0.5, credentials(own=["algorithmicMedia"])),
        ("credentials_trusted_capture", -1.0, credentials("Trusted", own=["digitalCapture"])),
        ("credentials_claimed_capture", None, credentials("Valid", own=["digitalCapture"])),
        ("credentials_present", None, credentials("Valid")),
        ("credentials_unsettled", None, credentials("Invalid", failures=["cawg.ica.did_unavailable"])),
        ("credentials_unsettled", None, credentials("Remote", active=None)),
        ("credentials_unsettled", None, credentials("Unreadable", active=None, failures=["Other: unknown algorithm"])),
        ("credentials_unsettled", None, credentials("Invalid", failures=["assertion.action.ingredientMismatch"])),
    ],
)
def test_credentials(rule: str, logit: float | None, what: dict[str, Any]) -> None:
    assert rule in fired({}, what)
    assert score({}, what).logit == logit


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("credentials_declare_ai", credentials(own=["digitalCapture"])),
        ("credentials_declare_ai", credentials(component_source_types=[AI])),
        ("credentials_declare_ai", credentials("Invalid", own=[AI], failures=BROKEN, successes=HELD)),
        ("credentials_declare_ai", credentials("Invalid", own=[AI])),
        ("credentials_declare_ai_invalid", credentials("Invalid", own=["digitalCapture"], failures=BROKEN)),
        ("credentials_broken", credentials("Valid", failures=["signingCredential.untrusted"])),
        ("credentials_broken", credentials("Invalid", failures=["cawg.identity.mismatch"])),
        ("credentials_trusted_capture", credentials("Trusted", own=["digitalCapture", AI])),
        ("credentials_trusted_capture", credentials("Trusted", own=["digitalCapture"], component_source_types=[AI])),
        ("credentials_trusted_capture", credentials("Invalid", own=["digitalCapture"], signer_trusted=True)),
        ("credentials_name_generator", credentials(active={"claim_generator": "Adobe Premiere 25"})),
    ],
)
def test_credentials_near_misses(rule: str, what: dict[str, Any]) -> None:
    assert rule not in fired({}, what)


def test_credentials_that_name_a_generator() -> None:
    assert score({}, credentials(active={"claim_generator": "OpenAI Sora 2"})).logit == 2.5
    actions = [{"software_agent": "Google Generative AI"}]
    assert score({}, credentials(active={"claim_generator": "Google", "actions": actions})).logit == 2.5


GRAPH = json.dumps({"prompt": json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1}}})})
RECIPE = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
XMP = '<x Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'


@pytest.mark.parametrize(
    ("rule", "logit", "tags"),
    [
        ("aigc_label", 4.0, {"aigc": '{"Label":"1","ContentProducer":"x"}'}),
        ("aigc_label", 4.0, {"comment": '{"AIGC":{"Label":"1","ContentProducer":"x"}}'}),
        ("aigc_label", 4.0, {"xmp": "<TC260:AIGC>{&quot;Label&quot;:&quot;1&quot;}</TC260:AIGC>"}),
        ("aigc_label_suspected", 2.0, {"com.apple.quicktime.aigc": '{"Label": "3"}'}),
        ("platform_ai_label", 3.0, {"aigc_info": '{"aigc_label_type":1}'}),
        ("platform_ai_label", 3.0, {"comment": '{"a":"{\\"aigc_label_type\\":2}"}'}),
        ("platform_ai_label_zero", None, {"aigc_info": '{"aigc_label_type":0,"source_info":"capcut"}'}),
        ("source_type_ai", 4.0, {"digitalsourcetype": AI}),
        ("source_type_ai", 4.0, {"xmp": XMP}),
        ("generation_recipe", 3.5, {"comment": GRAPH}),
        ("generation_recipe", 3.5, {"workflow": '{"last_node_id": 9, "nodes": []}'}),
        ("generation_recipe", 3.5, {"comment": json.dumps({"3": {"inputs": {"text": "a cat" * 99}}})[:500]}),
        ("generation_recipe", 3.5, {"parameters": RECIPE}),
        ("tool_is_generator", 3.0, {"encoder": "RunwayML Gen-3"}),
        ("tool_is_generator", 3.0, {"com.apple.quicktime.software": "Kling AI 1.6"}),
        ("tool_is_generator", 3.0, {"xmp:creatortool": "sora2"}),
        ("tool_is_generator", 3.0, {"software": "D-ID Creative Reality"}),
        ("tool_is_generator", 3.0, {"software": "roop_unleashed"}),
        ("tool_is_generator", 3.0, {"software": "可灵"}),
        ("text_names_generator", 2.0, {"comment": "made with suno; created=2025"}),
        ("text_names_generator", 2.0, {"description": "Generated by OpenAI's Sora."}),
        ("text_names_generator", 2.0, {"title": "A walk. Created using the Luma AI app"}),
        ("text_says_ai", 1.0, {"comment": "AI-generated"}),
        ("text_says_ai", 1.0, {"description": "This video was made with AI"}),
    ],
)
def test_tags(rule: str, logit: float | None, tags: dict[str, str]) -> None:
    assert rule in fired(facts(tags))
    # The same on a stream.
    assert rule in fired(facts({}, stream(tags=tags)))
    assert score(facts(tags)).logit == logit


@pytest.mark.parametrize(
    "tags",
    [
        {"title": "Pika"},
        {"title": "Sora: a portrait", "artist": "Suno Watanabe"},
        {"comment": "filmed and made by Sora Tanaka"},
        {"comment": "created with love by Suno"},
        {"encoder": "LumaFusion 5.1"},
        {"make": "Veo", "model": "Veo Cam 3s"},
        {"encoder": "HandBrake 1.8.1 2024062200"},
        {"encoder": "Lavf60.3.100"},
        {"software": "Adobe Premiere Pro 2025"},
        {"encoder": "Groops 2", "software": "faceswapping is bad"},
        {"software": "Runways Airport Camera"},
        {"title": "We tried Runway, Pika and Sora"},
        {
            "title": "How we spot deepfakes",
            "description": "How to spot AI-generated video, and why it is hard to do " * 2,
        },
        {"comment": "not AI-generated"},
        {"comment": "no AI generated content"},
        {"comment": "What trainedAlgorithmicMedia means"},
        {"digitalsourcetype": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"},
        {"label": "1", "comment": '{"Label":"1"}'},
        {"aigc": '{"Label":"0"}'},
        {"comment": "Steps: 20 to the roof"},
        {"comment": '{"nodes": [], "inputs": {}}'},
        {"description": "Packed by Bilibili XCoder v2.0.2"},
        {"comment": "vid:v0200fg10000"},
        {"language": "id-ID"},
    ],
)
def test_tags_that_honest_files_carry(tags: dict[str, str]) -> None:
    judgement = score(facts(tags))
    assert (judgement.logit, judgement.abstained) == (None, "no_indication"), judgement.detail


SQUARE = stream(width=512, height=512)
APPLE = stream(tags={"handler_name": "Core Media Video"})
IPHONE = {"com.apple.quicktime.make": "Apple", "com.apple.quicktime.model": "iPhone 15"}
MADE = {"creation_time": "2024-07-11T07:56:57.000000Z"}


@pytest.mark.parametrize(
    ("rule", "fires", "what"),
    [
        ("encoder_library", True, facts({"encoder": "Lavf59.27.100"})),
        ("encoder_library", True, facts(encoder_sei=[X264])),
        ("encoder_library", False, facts({"encoder": "HandBrake"}, encoder_sei=[])),
        ("encoder_settings", True, facts(encoder_sei=[X264])),
        ("encoder_settings", False, facts({"encoder": "Lavc59.37.100 libx264"})),
        ("camera", True, facts(IPHONE)),
        ("camera", True, facts({}, stream(tags={"handler_name": "GoPro AVC"}))),
        ("camera", True, facts({}, stream(tags={"handler_name": "VideoHandle"}))),
        ("camera", False, facts({}, stream(tags={"handler_name": "VideoHandler"}))),
        ("camera_reencoded", True, facts(IPHONE, encoder_sei=[X264])),
        ("camera_reencoded", False, facts(IPHONE)),
        ("camera_reencoded", False, facts({}, encoder_sei=[X264])),
        ("handler_against_brand", True, facts({"major_brand": "isom"}, APPLE)),
        ("handler_against_brand", False, facts({"major_brand": "qt  "}, APPLE)),
        ("creation_time_missing", True, facts({})),
        ("creation_time_missing", False, facts(MADE)),
        ("creation_time_missing", False, facts({}, format="matroska,webm")),
        ("creation_time_unset", True, facts({"creation_time": "1904-01-01T00:00:00.000000Z"})),
        ("creation_time_unset", False, facts(MADE)),
        ("creation_time_impossible", True, facts({"creation_time": "2031-01-01T00:00:00Z"})),
        ("creation_time_impossible", True, facts({"creation_time": "1985-01-01T00:00:00Z"})),
        ("creation_time_impossible", False, facts({"creation_time": "1904-01-01T00:00:00Z"})),
        ("creation_time_impossible", False, facts({"creation_time": "2026-06-02T00:00:00Z"})),
        ("creation_time_impossible", False, facts({"creation_time": "yesterday, I think"})),
        ("creation_times_disagree", True, facts(MADE, stream(tags={"creation_time": "2024-07-11T11:00:00Z"}))),
        ("creation_times_disagree", False, facts(MADE, stream(tags={"creation_time": "2024-07-11T08:20:00Z"}))),
        ("creation_times_disagree", True, facts(MADE | {"date": "2023-01-01T10:00:00+0200"})),
        ("creation_times_disagree", False, facts(MADE | {"date": "2024-07-12"})),
        ("creation_times_disagree", False, facts(MADE | {"date": "2024"})),
        ("durations_disagree", True, facts({}, stream(duration_seconds=4.7), stream("audio", duration_seconds=12.0))),
        ("durations_disagree", False, facts({}, stream(duration_seconds=60.0), stream("audio", duration_seconds=62.5))),
        ("durations_disagree", False, facts({}, stream(duration_seconds=4.7), stream("audio", duration_seconds=None))),
        ("true_edits", True, facts(edit_lists=[[[2.0, 0.08, 1.0], [3.0, 5.0, 1.0]]])),
        ("true_edits", True, facts(edit_lists=[[], [[2.0, 3.5, 1.0]]])),
        ("true_edits", True, facts(edit_lists=[[[2.0, 0.0, 0.5]]])),
        ("true_edits", False, facts(edit_lists=[[[0.5, -1.0, 1.0], [2.0, 0.08, 1.0]]])),
        ("true_edits", False, facts(edit_lists=[])),
        ("generator_frame_rate", True, facts({}, stream(frame_rate=8.0))),
        ("generator_frame_rate", False, facts({}, stream(frame_rate=8.3))),
        ("generator_frame_size", True, facts({}, SQUARE, duration_seconds=2.0)),
        ("generator_frame_size", False, facts({}, stream(width=512, height=500), duration_seconds=2.0)),
        ("generator_frame_size", False, facts({}, SQUARE, duration_seconds=200.0)),
        ("generator_frame_size", False, facts({}, SQUARE, stream("audio"), duration_seconds=2.0)),
    ],
)  # fmt: skip
def test_container_notes(rule: str, fires: bool, what: dict[str, Any]) -> None:
    assert (rule in fired(what)) is fires
    judgement = score(what)
    assert (judgement.logit, judgement.abstained) == (None, "no_indication")


def test_the_table_names_each_rule_once_and_notes_weigh_nothing() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.text and -1.0 <= rule.weight <= 4.0 for rule in RULES)
    assert {rule.name for rule in RULES if rule.see.__module__.endswith("metadata_container") and rule.weight} == set()


def test_one_declaration_in_three_places_counts_once() -> None:
    findings = [Finding("a", "", 4.0, ""), Finding("b", "", 3.0, ""), Finding("c", "", -1.0, "")]
    assert combine(findings) == 3.0
    assert combine(findings[2:]) == -1.0
    assert combine([Finding("note", "", 0.0, "")]) is None
    assert combine([]) is None


def test_the_detail_names_every_rule_with_what_it_saw() -> None:
    judgement = score(facts({"encoder": "Lavf59.27.100", "comment": "made with Suno"}))
    rules = json.loads(judgement.detail or "")["rules"]
    assert [set(rule) for rule in rules] == [{"rule", "saw", "weight", "text"}] * len(rules)
    assert (rules[0]["rule"], rules[0]["saw"], rules[0]["weight"]) == (
        "text_names_generator",
        "comment: made with Suno",
        2.0,
    )
    assert {"encoder_library", "creation_time_missing"} <= {rule["rule"] for rule in rules}


def test_what_a_file_says_cannot_steer_a_terminal_or_break_the_table() -> None:
    tags = {"software": "Sora\x1b]0;owned\x07\u202e\ud800" + "x" * 10_000}
    rules = json.loads(score(facts(tags)).detail or "")["rules"]
    saw = rules[0]["saw"]
    assert rules[0]["rule"] == "tool_is_generator"
    assert saw.isprintable() is True or "\ufffd" in saw
    assert not set("\x1b\x07\u202e\ud800") & set(saw)
    assert len(saw) <= 200
    assert saw.encode()


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"tags": None, "streams": None},
        {"tags": [1], "streams": ["x", 3, None, {}], "edit_lists": 3, "encoder_sei": {"a": 1}, "format": None},
        {"tags": {"creation_time": 5, "comment": None}, "streams": [{"tags": 7, "duration_seconds": "x"}]},
        {"streams": [{"kind": "video", "frame_rate": float("nan"), "width": True}], "duration_seconds": float("inf")},
        {"streams": [{"kind": "video", "width": 10**400, "height": float("inf")}], "duration_seconds": -(10**400)},
        {"edit_lists": [None, [None, [1], ["a", "b", "c"]], 4]},
    ],
)
def test_facts_that_lack_or_lie_are_survived(what: dict[str, Any]) -> None:
    assert score(what).abstained == "no_indication"
    lies: list[dict[str, Any]] = [
        {},
        {"state": 3, "active": 4, "failures": 5},
        {"state": "Valid", "active": {"actions": [1]}},
    ]
    for broken in lies:
        assert score(what, broken).abstained == "no_indication"


def test_items_are_answered_in_their_places() -> None:
    items = [MediaItem(facts(), None), MediaItem(facts(), credentials(own=[AI])), MediaItem(facts(), None)]
    assert [judgement.logit for judgement in make().score(items)] == [None, 4.0, None]
    assert make().score([]) == []


def test_files_from_disk(tmp_path: Path) -> None:
    """The way a file takes: probed, its credentials read, judged."""

    def judge(path: Path) -> Judgement:
        facts_ = json.loads(json.dumps(probe(str(path), Limits())))
        return make().score([MediaItem(facts_, read_credentials(str(path), path.suffix))])[0]

    plain = make_video(tmp_path / "plain.mp4", seconds=1, audio=True)
    honest = judge(plain)
    assert (honest.logit, honest.abstained) == (None, "no_indication")
    assert "encoder_library" in (honest.detail or "")
    signed = tmp_path / "signed.mp4"
    sign_sample(plain, signed, AI)
    assert judge(signed).logit == 4.0
    sign_sample(plain, signed, "digitalCapture")
    assert judge(signed).abstained == "no_indication"
    tagged = make_video(tmp_path / "tagged.mp4", seconds=1, tags={"comment": "Made with Suno"})
    assert judge(tagged).logit == 2.0
    data = bytearray(signed.read_bytes())
    data[data.rindex(b"mdat") + 40] ^= 1
    signed.write_bytes(data)
    assert judge(signed).logit == 1.0


@pytest.mark.real
def test_real_recordings_are_not_called_anything(shared: Path, manifest: list[dict[str, str]]) -> None:
    detector, seen = make(), 0
    for row in manifest:
        if row["split"] == "train" and row["label"] == "real" and row["kind"] in ("video", "audio"):
            path = shared / row["path"]
            item = MediaItem(probe(str(path), Limits()), read_credentials(str(path), path.suffix))
            judgement = detector.score([item])[0]
            assert judgement.logit is None, (row["path"], judgement.detail)
            seen += 1
    if not seen:
        pytest.skip("no real training media in ../shared")
