"""What the probe reports about a container: the keys of its JSON, with their units."""

from __future__ import annotations

from typing import TypedDict


class VideoFacts(TypedDict):
    """The video stream that is looked at. Seconds are on the media clock."""

    index: int
    codec: str
    profile: str | None
    width: int  # pixels as displayed, rotation applied
    height: int
    rotation: int  # degrees clockwise by which the decoded picture must be turned: 0, 90, 180, 270
    pixel_format: str
    frame_rate: float  # Hz, average; 0 if unknown
    frame_count: int  # frames shown; 0 if unknown
    start_seconds: float
    duration_seconds: float
    unreadable: str | None  # why its pictures cannot be decoded; width and height may be 0 then


class AudioFacts(TypedDict):
    """The sound that is listened to. Seconds are on the media clock."""

    index: int
    codec: str
    sample_rate: int
    channels: int
    start_seconds: float
    duration_seconds: float
    sources: list[list[int]]  # the streams that are mixed, each [index, channels in use, audible]: see SoundSource


class StreamFacts(TypedDict):
    """One stream as declared. Numbers are None if the container does not give them."""

    index: int
    kind: str  # video, audio, subtitle, data, attachment
    codec: str | None  # None if this FFmpeg has no decoder
    profile: str | None
    codec_tag: str
    width: int | None  # as coded, before rotation
    height: int | None
    pixel_format: str | None
    rotation: int
    sample_aspect_ratio: str | None
    frame_rate: float | None
    frames: int | None
    duration_seconds: float | None
    start_seconds: float | None
    bit_rate: int | None
    sample_rate: int | None
    channels: int | None
    language: str | None
    attached_picture: bool
    encrypted: bool
    tags: dict[str, str]  # handler_name is among them


class ContainerFacts(TypedDict):
    """Everything the probe knows about a file."""

    format: str  # FFmpeg's name, `mov,mp4,m4a,3gp,3g2,mj2`
    media_type: str  # video, audio, gif
    still_image: bool  # one picture: a GIF of a single frame, AVIF, HEIC
    size_bytes: int
    duration_seconds: float  # measured on the content (clock/lengths.py); 0 if unknown
    declared_seconds: float  # according to the header
    clock: str  # file, ordered, indexed, placed: see protocol.ClockKind
    clock_jumps: int
    jump_seconds: list[float]  # how far the time stamps jump, for the first MAX_JOINTS jumps; negative: back
    joint_seconds: list[float]  # when they jump, on the media clock
    notes: list[str]  # what is not looked at or listened to, and jumps of the clock; one sentence each
    start_seconds: float  # container start time as written; this is 0 on the media clock
    bit_rate: int | None
    tags: dict[str, str]
    streams: list[StreamFacts]
    boxes: list[str]  # top-level ISO BMFF boxes in order; empty in other containers
    edit_lists: list[list[list[float]]]  # by track: [segment_duration_seconds, media_time_seconds (-1 = empty), rate]
    fragmented: bool
    truncated: bool  # the file ends earlier than its index or boxes say
    encoder_sei: list[str]  # user-data notes of the video encoder
    key_frame_seconds: list[float]  # ascending
    key_frame_index: str  # index: the container's; scan: every packet seen; partial: up to the scan's bounds; none
    primary_video: VideoFacts | None
    primary_audio: AudioFacts | None
    decoder: str | None  # decord, pyav; None without video
    decoder_reason: str
