"""What a file declares about its own origin: Content Credentials, labels from AI services, tools that name themselves.
Each function looks for one thing and returns what it saw, or None.

Helper of `metadata`; holds no detector.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class View:
    """One file as the rules see it. No value is trusted to have the right type, because a file can hold anything."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """`ContainerFacts` as JSON."""
    credentials: Mapping[str, Any] | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def streams(self) -> list[Mapping[str, Any]]:
        return [s for s in _listed(self.facts.get("streams")) if isinstance(s, Mapping)]

    @property
    def tags(self) -> dict[str, str]:
        return _texts(self.facts.get("tags"))

    def fields(self) -> Iterator[tuple[str, str]]:
        """(key, value) of every tag of the container and its streams, keys lower-case."""
        yield from self.tags.items()
        for stream in self.streams:
            yield from _texts(stream.get("tags")).items()

    def credential_words(self, key: str) -> list[str]:
        return [word for word in _listed((self.credentials or {}).get(key)) if isinstance(word, str)]

    @property
    def state(self) -> str:
        return str((self.credentials or {}).get("state") or "")

    @property
    def active(self) -> Mapping[str, Any]:
        found = (self.credentials or {}).get("active")
        return found if isinstance(found, Mapping) else {}

    @property
    def active_types(self) -> list[str]:
        return [word for word in _listed(self.active.get("digital_source_types")) if isinstance(word, str)]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _texts(tags: Any) -> dict[str, str]:
    return {str(k).lower(): v for k, v in tags.items() if isinstance(v, str)} if isinstance(tags, Mapping) else {}


# IPTC NewsCodes, digitalsourcetype: https://cv.iptc.org/newscodes/digitalsourcetype/
WHOLLY_AI = frozenset({"trainedAlgorithmicMedia", "trainedAlgorithmicData"})
PARTLY_AI = frozenset({"compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"})
PROGRAM_MADE = frozenset({"algorithmicMedia", "virtualRecording"})
CAPTURED = frozenset({"digitalCapture", "computationalCapture", "compositeCapture"})
AI = WHOLLY_AI | PARTLY_AI
VERIFIED = ("Valid", "Trusted")


def _among(words: Sequence[str], wanted: frozenset[str]) -> str | None:
    return ", ".join(sorted(wanted.intersection(words))) or None


def _broken(view: View) -> list[str]:
    """Codes which mean that the bytes are not the signed ones.

    Identity assertions (`cawg.…`) and time stamps do not count: they also fail without a network or without trust. Nor
    do actions (`assertion.action.…`), which also fail because of a careless signer.
    """
    return [
        code
        for code in view.credential_words("failures")
        if code.startswith(("assertion.", "claim", "ingredient.")) and code.endswith((".mismatch", ".missing"))
    ]


def _holds(view: View) -> bool:
    """Whether the claim is about exactly these bytes: it was verified, or it is invalid only for a formality (an
    expired certificate, an action without its ingredient) while signature and hash both match.
    """
    done = view.credential_words("successes")
    hashed = any(code.startswith("assertion.") and code.endswith("Hash.match") for code in done)
    return view.state in VERIFIED or (
        view.state == "Invalid" and "claimSignature.validated" in done and hashed and not _broken(view)
    )


def credentials_wholly_ai(view: View) -> str | None:
    return _among(view.active_types, WHOLLY_AI) if _holds(view) else None


def credentials_partly_ai(view: View) -> str | None:
    return _among(view.active_types, PARTLY_AI) if _holds(view) else None


def credentials_parent_ai(view: View) -> str | None:
    return _among(view.credential_words("parent_source_types"), AI) if _holds(view) else None


def credentials_component_ai(view: View) -> str | None:
    return _among(view.credential_words("component_source_types"), AI) if _holds(view) else None


def credentials_unverified_ai(view: View) -> str | None:
    unverified = view.state == "Invalid" and not _holds(view)
    return _among(view.credential_words("all_digital_source_types"), AI) if unverified else None


def credentials_program_made(view: View) -> str | None:
    return _among(view.active_types, PROGRAM_MADE) if view.state in VERIFIED else None


def credentials_broken(view: View) -> str | None:
    return ", ".join(_broken(view)) or None if view.state == "Invalid" else None


def credentials_unsettled(view: View) -> str | None:
    if view.state in ("", *VERIFIED) or _broken(view):
        return None
    return ", ".join([view.state, *view.credential_words("failures")])


def _capture(view: View) -> str | None:
    # A declared AI source anywhere cancels the capture: the camera's part may be only a background.
    if view.state not in VERIFIED or _among(view.credential_words("all_digital_source_types"), AI | PROGRAM_MADE):
        return None
    captured = _among(view.active_types, CAPTURED)
    return f"{captured}, signed by {view.active.get('issuer') or 'nobody named'}" if captured else None


def credentials_trusted_capture(view: View) -> str | None:
    return _capture(view) if (view.credentials or {}).get("signer_trusted") is True else None


def credentials_claimed_capture(view: View) -> str | None:
    return None if (view.credentials or {}).get("signer_trusted") is True else _capture(view)


def credentials_present(view: View) -> str | None:
    if view.state not in VERIFIED:
        return None
    return f"{view.state}, {view.active.get('claim_generator') or '?'}, signed by {view.active.get('issuer') or '?'}"


# Names, as they write them, of programs that make or forge faces, voices or whole films. Left out because they also
# name something honest: Veo (sports cameras; "Google Veo" is in), Luma (LumaFusion is an editor), Bark, Rope, SVD.
_NAMES = r"""
sora | runway(?:ml)? | pika(?:\ ?labs)? | kling(?:\ ?ai)? | 可灵 | lumalabs | luma\ (?:ai|labs|dream\ machine) |
dream\ machine | (?:google|deepmind)\ veo | veo[\ -]?[2-9] | hailuo | minimax | vidu | pixverse | higgsfield |
haiper | genmo | dreamina | jimeng | 即梦 | seedance | cogvideox? | hunyuan\ ?video | wan[\ -]?(?:2\.\d|video|ai) |
ltx[\ -]?video | stable[\ -]?(?:video[\ -]?)?diffusion | stability[\ .]?ai | comfyui | automatic1111 | invokeai |
fooocus | animatediff | deforum | midjourney | dall[\ ·-]?e | adobe\ firefly | firefly\ video |
google\ generative\ ai | grok\ imagine | hedra | heygen | synthesia | d-id | colossyan | deepbrain | akool |
elai\.io | deepfacelab | deepfacelive | faceswap | face[\ -]?fusion | roop | deep-live-cam | simswap |
liveportrait | reface(?:\ ?app)? | avatarify | wav2lip | sadtalker | musetalk | video-?retalking | eleven\ ?labs |
suno | udio | murf\.?ai | play\.?ht | resemble\.?ai | respeecher | tortoise-?tts | coqui | xtts | so-vits-svc |
amazon\ polly | espeak(?:-ng)?
"""
# A version may follow (`sora2`), a longer word may not (`runways`, `roopesh`).
_NAME = rf"(?<![^\W_])(?P<name>{_NAMES})(?![^\W\d_])"
_GENERATOR = re.compile(_NAME, re.IGNORECASE | re.VERBOSE)
# "made by Sora" may be a person, so `by` counts only after "generated".
_PHRASE = re.compile(
    r"""\b(?: (?:generated|synthesi[sz]ed)\ (?:with|by|using|in|via|on)
            | (?:created|made|produced|rendered|animated|face-?swapped)\ (?:with|using|in|via) )
        \ (?:the\ |an?\ |openai(?:['’]s)?\ |google(?:['’]s)?\ |meta(?:['’]s)?\ )*"""
    + _NAME,
    re.IGNORECASE | re.VERBOSE,
)
_SAYS_AI = re.compile(
    r"""(?<!no\ )(?<!non[-\ ])(?<!not\ )(?<!without\ )\b
        (?: (?:ai|artificial\ intelligence)[-\ ]generated
          | (?:generated|created|made)\ (?:with|by|using)\ (?:an?\ )?(?:ai|artificial\ intelligence)\b )""",
    re.IGNORECASE | re.VERBOSE,
)
_TOOL_KEYS = frozenset(
    {
        "encoder",
        "software",
        "encoded_by",
        "encoding_tool",
        "tool",
        "too",
        "©too",
        "©swr",
        "swr",
        "muxer",
        "tsse",
        "tenc",
    }
    | {"writing_application", "writing_library", "creator_tool", "creatortool", "generator", "application"}
    | {"handler_name", "vendor_id", "make", "model"}
)
_MAX_VALUE = 2_000
"""Characters of a tag that are searched; the probe hands over fewer. The beginning of a ComfyUI graph is enough."""

_MAX_REMARK = 60


def _is_tool_key(key: str) -> bool:
    # com.apple.quicktime.software, xmp:CreatorTool
    return key in _TOOL_KEYS or re.split(r"[.:/]", key)[-1] in _TOOL_KEYS


def _quoted(key: str, value: str) -> str:
    return f"{key}: {value}"


def tool_is_generator(view: View) -> str | None:
    for key, value in view.fields():
        if _is_tool_key(key) and _GENERATOR.search(value[:_MAX_VALUE]):
            return _quoted(key, value)
    return None


def credentials_name_generator(view: View) -> str | None:
    agents = [a.get("software_agent") for a in _listed(view.active.get("actions")) if isinstance(a, Mapping)]
    for name in [view.active.get("claim_generator"), *agents]:
        if isinstance(name, str) and _GENERATOR.search(name):
            return name
    return None


def text_names_generator(view: View) -> str | None:
    for key, value in view.fields():
        if not _is_tool_key(key) and (hit := _PHRASE.search(value[:_MAX_VALUE])):
            return _quoted(key, hit[0])
    return None


def text_says_ai(view: View) -> str | None:
    for key, value in view.fields():
        # A short remark is about the file; a long text may be about anything ("how to spot AI-generated video").
        if len(value) <= _MAX_REMARK and _SAYS_AI.search(value):
            return _quoted(key, value)
    return None


def source_type_tag(view: View) -> str | None:
    """IPTC's DigitalSourceType, in a tag or in XMP inside a tag."""
    for key, value in view.fields():
        value = value[:_MAX_VALUE]
        declared = "digitalsourcetype" in re.sub(r"[^a-z]", "", key) or "digitalsourcetype" in value.lower()
        for word in AI if declared else ():
            if re.search(rf"(?<![a-z]){word}(?![a-z])", value, re.IGNORECASE):
                return _quoted(key, word)
    return None


def _aigc_label(view: View) -> tuple[str, str] | None:
    """(label, what was seen) for the implicit label that GB 45438-2025 (TC260) requires.

    It is JSON with `Label` "1" for generated, "2" for possibly, "3" for suspected. It is a tag `AIGC`, or stands inside
    another tag or in XMP.
    """
    for key, value in view.fields():
        value = html.unescape(value[:_MAX_VALUE]).replace('\\"', '"')
        lower = value.lower()
        named = re.split(r"[.:/]", key)[-1] == "aigc" or '"aigc"' in lower or "tc260" in lower
        if named and (hit := re.search(r'"label"\s*[:=]\s*"?(\w+)', value, re.IGNORECASE)):
            return hit[1], _quoted(key, value)
    return None


def aigc_label(view: View) -> str | None:
    label = _aigc_label(view)
    return label[1] if label and label[0] == "1" else None


def aigc_label_suspected(view: View) -> str | None:
    label = _aigc_label(view)
    return label[1] if label and label[0] in ("2", "3") else None


_PLATFORM_LABEL = re.compile(r"aigc_?label_?type\W{0,4}[:=]\W{0,3}(\d+)", re.IGNORECASE)


def _platform_label(view: View) -> tuple[int, str] | None:
    for key, value in view.fields():
        if hit := _PLATFORM_LABEL.search(value[:_MAX_VALUE]):
            return int(hit[1][:9]), _quoted(key, value)
    return None


def platform_label(view: View) -> str | None:
    """`aigc_info: {"aigc_label_type": 1}`, written by TikTok, Douyin, CapCut and Dreamina; 0 means no label."""
    label = _platform_label(view)
    return label[1] if label and label[0] > 0 else None


def platform_label_none(view: View) -> str | None:
    label = _platform_label(view)
    return label[1] if label and label[0] == 0 else None


def workflow_recipe(view: View) -> str | None:
    """The recipe that ComfyUI (a graph) and AUTOMATIC1111 (a line of settings) write into their output."""
    for key, value in view.fields():
        value = value[:_MAX_VALUE].replace('\\"', '"')
        # {"3": {"inputs": {"seed": …}, "class_type": "KSampler"}, …}; a tag may be cut before `class_type`.
        graph = (
            ('"class_type"' in value and '"inputs"' in value)
            or ('"last_node_id"' in value and '"nodes"' in value)
            or re.search(r'"\d+": ?\{ ?"inputs": ?\{', value) is not None
        )
        line = re.search(r"\bSteps: \d+, Sampler: [^,]{1,60},", value)
        if graph or line:
            return _quoted(key, line[0] if line else value)
    return None
