"""Tells what a file is by its first bytes: the allow-list in front of every parser.

It only compares fixed offsets and follows frame lengths within the bytes at hand. It never allocates by what a file
says. A damaged media file should still be called media, so that it ends as a failure that people see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .format_names import name_of
from .stills import Picture, picture

HEAD_BYTES = 16_384
"""How much of a file is wanted: MP3 cut from a broadcast may begin with several thousand bytes of a broken frame."""

MediaGuess = Literal["video", "audio", "gif"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A guess. Only the container can say whether there is a picture in it."""

    media_type: MediaGuess | None
    suffix: str = ""
    """`.mp4`, …: the suffix of its spool file; empty if it is not media."""
    reason: str | None = None
    """Why it is not media: `not_media`, `empty`, `still_image`, `nested_archive`."""
    unsupported: bool = False
    """It is media, but in a format that no demuxer here may open."""

    @property
    def name(self) -> str:
        """What it is, for a person. A file's own suffix need not match its first bytes."""
        return name_of(self.suffix)


NOT_MEDIA = Kind(None, reason="not_media")
EMPTY = Kind(None, reason="empty")
STILL_IMAGE = Kind(None, reason="still_image")
ARCHIVE = Kind(None, reason="nested_archive")


def _video(suffix: str, unsupported: bool = False) -> Kind:
    return Kind("video", suffix, unsupported=unsupported)


def _audio(suffix: str, unsupported: bool = False) -> Kind:
    return Kind("audio", suffix, unsupported=unsupported)


_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"FLV", _video(".flv")),
    (bytes.fromhex("3026b2758e66cf11"), _video(".asf")),
    (b"GIF87a", Kind("gif", ".gif")),
    (b"GIF89a", Kind("gif", ".gif")),
    (bytes.fromhex("060e2b34020501010d0102"), _video(".mxf")),
    (bytes.fromhex("1f0700"), _video(".dv")),
    (b".RMF", _video(".rm")),
    (b".ra\xfd", _audio(".ra")),
    (b"#!AMR", _audio(".amr")),
    (b"caff\0", _audio(".caf")),
    (b"fLaC", _audio(".flac")),
    (b"\x00\x00\x01\xba", _video(".mpg")),
    (b"RF64", _audio(".wav")),
    (b"BW64", _audio(".wav")),
    (b"\x0b\x77", _audio(".ac3")),
    (b"ADIF", _audio(".aac")),
    # media, but no demuxer on the whitelist reads it
    (b"\x00\x00\x01\xb3", _video(".m2v", unsupported=True)),
    (b"riff\x2e\x91\xcf\x11", _audio(".w64", unsupported=True)),
    (b"MPCK", _audio(".mpc", unsupported=True)),
    (b"MP+", _audio(".mpc", unsupported=True)),
    (b"MAC ", _audio(".ape", unsupported=True)),
    (b"OFR ", _audio(".ofr", unsupported=True)),
    (b"FRM8", _audio(".dff", unsupported=True)),
    (b"DSD ", _audio(".dsf", unsupported=True)),
    (b"TTA1", _audio(".tta", unsupported=True)),
    (b"TTA2", _audio(".tta", unsupported=True)),
    (b"wvpk", _audio(".wv", unsupported=True)),
    (b"tBaK", _audio(".tak", unsupported=True)),
    (b"LA04", _audio(".la", unsupported=True)),
    (b"ajkg", _audio(".shn", unsupported=True)),
    (b"TWIN", _audio(".vqf", unsupported=True)),
    (b"APETAGEX", _audio(".apev2", unsupported=True)),
    (b".snd\0\0\0", _audio(".au", unsupported=True)),
    (b"Creative Voice File\x1a", _audio(".voc", unsupported=True)),
    (b"NIST_1A\n", _audio(".sph", unsupported=True)),
    (b"\x7f\xfe\x80\x01", _audio(".dts", unsupported=True)),
    (b"\xfe\x7f\x01\x80", _audio(".dts", unsupported=True)),
    (b"DTSHDHDR", _audio(".dtshd", unsupported=True)),
    (b"DKIF\0\0", _video(".ivf", unsupported=True)),
    (b"YUV4MPEG2 ", _video(".y4m", unsupported=True)),
    (b"nut/multimedia container\0", _video(".nut", unsupported=True)),
    (bytes.fromhex("b7d800203749da11a64e0007e95ead8d"), _video(".wtv", unsupported=True)),
    (b"BIKi", _video(".bik", unsupported=True)),
    (b"KB2", _video(".bk2", unsupported=True)),
    (b"SMK2", _video(".smk", unsupported=True)),
    (b"NSVf", _video(".nsv", unsupported=True)),
    (b"\x12\x00\x0a", _video(".obu", unsupported=True)),
)
_NOT_MEDIA = (
    *(b"\x89PNG", b"BM", b"\0\0\1\0"),  # begins like a picture, but does not go on like one
    *(
        b"\x7fELF",
        b"MZ",
        b"%PDF",
        b"%!PS",
        b"\xca\xfe\xba\xbe",
        b"\xcf\xfa\xed\xfe",
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ\0",
    ),
    *(b"\x28\xb5\x2f\xfd", b"SQLite format 3\0", b"PAR1", b"\xd0\xcf\x11\xe0", b"MThd", b"OTTO", b"\0\1\0\0\0", b"wOF"),
    *(b"\x93NUMPY", b"\x89HDF", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"!<arch>", b"\0\x05\x16\x07", b"\x00asm"),
)
_PICTURES: dict[Picture, Kind] = {
    "still": STILL_IMAGE,
    "apng": Kind("gif", ".png"),
    "webp": Kind("gif", ".webp", unsupported=True),
    "motion photo": _video(".jpg", unsupported=True),
}
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")

_STILL_BRANDS = frozenset({b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf"})
_IMAGE_BRANDS = frozenset({b"jp2 ", b"jpx ", b"jpm ", b"crx ", b"jxl "})
_AUDIO_BRANDS = frozenset({b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax ", b"aaxc"})
_BOXES = frozenset(b"moov mdat wide free skip pnot moof styp sidx emsg prft pdin uuid".split())
_RIFF = {
    b"AVI ": _video(".avi"),
    b"AVIX": _video(".avi"),
    b"WAVE": _audio(".wav"),
    b"AMV ": _video(".amv", unsupported=True),
    b"CDXA": _video(".dat", unsupported=True),
}
_IFF = {
    b"AIFF": _audio(".aiff"),
    b"AIFC": _audio(".aiff"),
    b"8SVX": _audio(".8svx", unsupported=True),
    b"16SV": _audio(".16sv", unsupported=True),
    b"ANIM": _video(".anim", unsupported=True),
}


def sniff(head: bytes) -> Kind:
    """The kind of a file. `head`: all of it, or its first `HEAD_BYTES`; fewer bytes make the answer less sure."""
    if not head:
        return EMPTY
    if head[257:262] == b"ustar" or head.startswith(_ARCHIVES):
        # first of all: a tar begins with its first member's name, which may look like any other magic
        return ARCHIVE
    if (seen := picture(head)) is not None:
        return _PICTURES[seen]
    if head.startswith(_NOT_MEDIA):
        return NOT_MEDIA
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    for look in (_boxes, _matroska, _riff, _ogg, _id3, _elementary_stream):
        if found := look(head):
            return found
    if _is_text(head):
        return NOT_MEDIA
    return _frames(head) or _transport_stream(head) or _inner_mxf(head) or NOT_MEDIA


def _boxes(head: bytes) -> Kind | None:
    """ISO base media (MP4, MOV, 3GP, …) and QuickTime older than `ftyp`."""
    kind, size = head[4:8], int.from_bytes(head[:4], "big")
    if kind == b"jP  ":  # JPEG 2000; Motion JPEG 2000 says so in the ftyp that follows
        return _video(".mj2") if head[20:24] == b"mjp2" else STILL_IMAGE
    if kind in _BOXES:
        return _video(".mov") if size == 0 or size == 1 or size >= 8 else None
    if kind != b"ftyp":
        return None
    major = head[8:12]
    others = {head[i : i + 4] for i in range(16, min(max(size, 16), len(head), 256), 4)}
    if major in _STILL_BRANDS:
        moves = major in (b"mif1", b"mif2", b"miaf") and others & {b"avis", b"msf1", b"hevc"}
        return _video(".mp4") if moves else STILL_IMAGE
    if major in _IMAGE_BRANDS:
        return STILL_IMAGE
    if major in _AUDIO_BRANDS:
        return _audio(".m4a")
    return _video(".mov" if major == b"qt  " else ".3gp" if major[:2] == b"3g" else ".mp4")


def _matroska(head: bytes) -> Kind | None:
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    return _video(".webm" if b"webm" in head[:64] else ".mkv")


def _riff(head: bytes) -> Kind | None:
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], NOT_MEDIA)
    if head.startswith(b"RIFX"):
        return _audio(".wav", unsupported=True)
    if head.startswith(b"FORM"):
        return _IFF.get(head[8:12], NOT_MEDIA)
    return None


def _ogg(head: bytes) -> Kind | None:
    if not head.startswith(b"OggS"):
        return None
    moves = any(mark in head for mark in (b"\x80theora", b"BBCD\0", b"\x01video", b"OVP80"))
    sounds = any(mark in head for mark in (b"\x01vorbis", b"OpusHead", b"Speex ", b"\x7fFLAC"))
    return _video(".ogv") if moves or not sounds else _audio(".ogg")


def _id3(head: bytes) -> Kind | None:
    """An ID3 tag. MP3 usually follows it, but FLAC, AAC, AIFF, TTA, … may follow too."""
    if not head.startswith(b"ID3"):
        return None
    if any(byte & 0x80 for byte in head[6:10]) or len(head) < 10:
        return None if _is_text(head) else _audio(".mp3")
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    if head[3] > 9:  # no such version: text that happens to begin with ID3
        return None if _is_text(head) else _audio(".mp3")
    behind = head[10 + size + (10 if head[5] & 0x10 else 0) :].lstrip(b"\0")
    if behind and not behind.startswith(b"ID3"):
        inner = sniff(behind)
        if inner.media_type == "audio":
            return inner
    return _audio(".mp3")


def _elementary_stream(head: bytes) -> Kind | None:
    """Raw H.264, HEVC and MPEG-4 video behind Annex B start codes."""
    start = 4 if head.startswith(b"\0\0\0\1") else 3 if head.startswith(b"\0\0\1") else 0
    if not start or len(head) < start + 4:
        return None
    first, second = head[start], head[start + 1]
    if first in (0x40, 0x42, 0x44, 0x46) and second == 0x01:  # VPS, SPS, PPS, AUD of HEVC
        return _video(".hevc", unsupported=True)
    if first & 0x9F in (0x07, 0x09, 0x06, 0x08):  # SPS, AUD, SEI, PPS of H.264, forbidden bit clear
        return _video(".h264", unsupported=True)
    if first in (0xB0, 0xB5, 0x00, 0x0F, 0xB8):
        return _video(".m4v", unsupported=True)
    return _video(".mpg") if first in (0xE0, 0xC0, 0xBB, 0xBD) else None


def _frames(head: bytes) -> Kind | None:
    """MPEG audio and ADTS AAC: a run of similar frames, each where the one before ends. Junk before it is common."""
    sync = head.find(b"\xff")
    while 0 <= sync < len(head) - 7:
        for length_of, mask, kind in (
            (_mpeg_audio_length, 0x1E0C, _audio(".mp3")),
            (_adts_length, 0xF6FC, _audio(".aac")),
        ):
            at, frames, first = sync, 0, _masked(head, sync, mask)
            while at + 7 <= len(head) and _masked(head, at, mask) == first and (length := length_of(head, at)):
                at, frames = at + length, frames + 1
            if frames >= 3 or (sync == 0 and frames and at >= len(head)):
                return kind
        sync = head.find(b"\xff", sync + 1)
    return None


def _masked(head: bytes, at: int, mask: int) -> int:
    """The bits in the second and third byte of a header that do not change from frame to frame."""
    return (head[at + 1] << 8 | head[at + 2]) & mask


_RATES = (44100, 48000, 32000)
_BITRATES = {  # kbit/s by (MPEG-1?, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mpeg_audio_length(head: bytes, at: int) -> int:
    """Bytes of the MPEG audio frame at `at`; 0 if there is none (ISO/IEC 11172-3, 2.4.2.3)."""
    if head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[at + 1] >> 3 & 3, 4 - (head[at + 1] >> 1 & 3)
    bits, rate = head[at + 2] >> 4, head[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3 or head[at + 3] & 3 == 2:
        return 0
    first = version == 3
    kilobits = _BITRATES[first, layer][bits]
    hertz = _RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    padding = head[at + 2] >> 1 & 1
    if layer == 1:
        return (12_000 * kilobits // hertz + padding) * 4
    samples = 144_000 if first or layer == 2 else 72_000
    return samples * kilobits // hertz + padding


def _adts_length(head: bytes, at: int) -> int:
    """Bytes of the ADTS frame at `at`; 0 if there is none (ISO/IEC 13818-7, 6.2)."""
    if head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0 or head[at + 2] >> 2 & 15 > 12:
        return 0
    length = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return length if length > 7 else 0


def _transport_stream(head: bytes) -> Kind | None:
    """MPEG-TS: sync bytes one packet apart. Broadcast recordings may begin inside a packet."""
    if len(set(head[:1024])) < 4:
        return None
    head = head[:4096]
    for size in (188, 192, 204):
        for offset in range(size):
            marks = head[offset::size]
            wanted = 3 if offset == (4 if size == 192 else 0) else 8
            if len(marks) >= wanted and marks.count(0x47) == len(marks):
                return _video(".ts")
    return None


def _inner_mxf(head: bytes) -> Kind | None:
    """MXF may have a run-in of up to 64 KiB before its header partition."""
    return _video(".mxf") if bytes.fromhex("060e2b34020501010d010201") in head else None


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) > 8 and head[2:64].count(0) >= len(head[2:64]) // 3:
        return True
    if any(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head[:1024]):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 4  # cut off inside a character
    return True
