"""The rules of the `metadata` detector: one table of what is looked for, its weight, and the text for a person.

A weight is a contribution to the log-odds of "manipulated". Only what a file *declares* about itself has weight: a
declaration against interest is rarely false, and honest files do not make it. What a container merely reveals has no
weight, because it is the same in forgeries and in honest transcodes. ffmpeg's libraries wrote nearly every real clip in
shared/media/train, and they write the output of most generators. Those rules are notes for a person. Weights are set by
reasoning, not fitted, because too few labelled files carry declarations.

Helper of `metadata`; holds no detector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import container as container
from . import declared_origin as declared_origin
from .declared_origin import View

MAX_SAW = 200


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to look for."""

    name: str
    weight: float
    """Log-odds of "manipulated"; 0 is a note."""
    text: str
    """What the finding means, for a person."""
    see: Callable[[View], str | None]
    """Returns what was seen, or None. Pure."""


@dataclass(frozen=True, slots=True)
class Finding:
    rule: str
    saw: str
    weight: float
    text: str


RULES: tuple[Rule, ...] = (
    # Signed by the file's maker, against their interest, and the signature covers exactly these bytes. Trust in the
    # signer adds little here: people who sign for themselves seldom call their own camera footage artificial.
    Rule(
        "credentials_declare_ai",
        4.0,
        "Valid Content Credentials declare that AI made this",
        declared_origin.credentials_wholly_ai,
    ),
    # The same for a part of the picture, or for something added to a real one.
    Rule(
        "credentials_declare_ai_parts",
        3.0,
        "Valid Content Credentials declare AI-made parts",
        declared_origin.credentials_partly_ai,
    ),
    # Sora and others sign a transcode whose parent declares that it was generated: nearly as good as a declaration of
    # its own.
    Rule(
        "credentials_derived_from_ai",
        3.5,
        "Valid Content Credentials declare that this was made from AI-made media",
        declared_origin.credentials_parent_ai,
    ),
    # One ingredient among others: a title card, a background, or the face.
    Rule(
        "credentials_ai_ingredient",
        2.0,
        "Valid Content Credentials declare an AI-made ingredient",
        declared_origin.credentials_component_ai,
    ),
    # The claim may belong to another file. But a changed AI file is likelier than a transplanted claim.
    Rule(
        "credentials_declare_ai_invalid",
        2.5,
        "Invalid Content Credentials declare an AI source: review it",
        declared_origin.credentials_unverified_ai,
    ),
    # Changed after signing: by a forger, or by a tool that wrote a tag. Weak evidence, for review.
    Rule(
        "credentials_broken",
        1.0,
        "Content Credentials do not match the file, which was changed after signing: review it",
        declared_origin.credentials_broken,
    ),
    # Rendered by a program without learning (test patterns, animation, avatars): not captured, but rarely a deepfake.
    Rule(
        "credentials_program_made",
        0.5,
        "Valid Content Credentials declare that a program drew this",
        declared_origin.credentials_program_made,
    ),
    # A generator signed it, but the source type does not say so: older signers left it out.
    Rule(
        "credentials_name_generator",
        2.5,
        "Content Credentials name a program that generates or forges media",
        declared_origin.credentials_name_generator,
    ),
    # The only rule in favour of a file: a camera with a trusted key signed it. The weight is small, as screens can be
    # filmed.
    Rule(
        "credentials_trusted_capture",
        -1.0,
        "A trusted signer's Content Credentials declare a camera recording",
        declared_origin.credentials_trusted_capture,
    ),
    # Anyone can sign for themselves. The claim costs a forger nothing, so it is worth nothing.
    Rule(
        "credentials_claimed_capture",
        0.0,
        "Content Credentials of an unknown signer declare a camera recording",
        declared_origin.credentials_claimed_capture,
    ),
    Rule(
        "credentials_unsettled",
        0.0,
        "Content Credentials that cannot be verified here",
        declared_origin.credentials_unsettled,
    ),
    Rule("credentials_present", 0.0, "Valid Content Credentials", declared_origin.credentials_present),
    # Required of Chinese AI services (GB 45438-2025); "2" and "3" are a platform's guess.
    Rule("aigc_label", 4.0, "Carries the label of AI-generated content (GB 45438)", declared_origin.aigc_label),
    Rule(
        "aigc_label_suspected",
        2.0,
        "Carries the label of possibly AI-generated content (GB 45438)",
        declared_origin.aigc_label_suspected,
    ),
    # Set by the uploader or by the platform's classifier.
    Rule("platform_ai_label", 3.0, "Carries a platform's AI label (aigc_info)", declared_origin.platform_label),
    # TikTok and CapCut write 0 into everything.
    Rule("platform_ai_label_zero", 0.0, "A platform's AI label says no", declared_origin.platform_label_none),
    # IPTC's property in a tag or in XMP: unsigned, otherwise the same declaration as in credentials.
    Rule("source_type_ai", 4.0, "Its metadata declares an AI source (IPTC)", declared_origin.source_type_tag),
    # Only the generator writes a recipe with a seed and a sampler.
    Rule(
        "generation_recipe", 3.5, "Carries the recipe that an image generator writes", declared_origin.workflow_recipe
    ),
    Rule(
        "tool_is_generator",
        3.0,
        "Written by a program that generates or forges media",
        declared_origin.tool_is_generator,
    ),
    # Free text may be a quotation.
    Rule(
        "text_names_generator",
        2.0,
        "A comment names the generator that made this",
        declared_origin.text_names_generator,
    ),
    Rule("text_says_ai", 1.0, "A comment says that AI made this", declared_origin.text_says_ai),
    # Only notes from here on. All of them are as common in honest transcodes.
    Rule("encoder_library", 0.0, "Written by ffmpeg's libraries or a free encoder", container.encoder_library),
    Rule("encoder_settings", 0.0, "The encoder left its settings in the stream", container.encoder_settings),
    Rule("camera", 0.0, "Carries a camera's tags", container.camera),
    Rule("camera_reencoded", 0.0, "A camera's tags on a re-encoded stream", container.camera_reencoded),
    Rule("handler_against_brand", 0.0, "Apple's handlers in a remuxed file", container.handler_against_brand),
    Rule("creation_time_missing", 0.0, "No creation time", container.creation_time_missing),
    Rule("creation_time_unset", 0.0, "The creation time is zero", container.creation_time_unset),
    Rule("creation_time_impossible", 0.0, "The creation time is impossible", container.creation_time_impossible),
    Rule("creation_times_disagree", 0.0, "Creation times disagree", container.creation_times_disagree),
    Rule("durations_disagree", 0.0, "Sound and video differ in length", container.durations_disagree),
    Rule("true_edits", 0.0, "Cut by an edit list", container.true_edits),
    Rule("generator_frame_rate", 0.0, "A frame rate typical of video generators", container.generator_rate),
    Rule("generator_frame_size", 0.0, "A size and length typical of video generators", container.generator_size),
)


def examine(view: View, rules: tuple[Rule, ...] = RULES) -> list[Finding]:
    """Every rule that fires, largest weight first, then in the table's order."""
    findings = [
        Finding(rule.name, _shown(saw), rule.weight, rule.text) for rule in rules if (saw := rule.see(view)) is not None
    ]
    return sorted(findings, key=lambda finding: -abs(finding.weight))


def _shown(saw: str) -> str:
    """The file's own text on one line, capped, without anything that could control a terminal or break UTF-8."""
    line = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in saw[: MAX_SAW + 1])
    return line if len(line) <= MAX_SAW else line[: MAX_SAW - 1] + "…"


def combine(findings: list[Finding]) -> float | None:
    """The logit: the strongest finding for plus the strongest against; None if no finding has weight.

    Not a sum: a generator that signs, labels and names itself made one declaration in three places.
    """
    weights = [finding.weight for finding in findings if finding.weight]
    if not weights:
        return None
    return max(0.0, *weights) + min(0.0, *weights)
