"""Names of files: how tables spell them, how files are found again, and how secrets are kept out of both.

A canonical URI is printable and loses nothing: `unescape(escape(name)) == name` for every name, so two files never
share one. It has no query, user or password. A URI that has them is kept separately as `fetch_uri`, never written.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from urllib.parse import unquote

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "local": "file"}
_URL_QUERIES = frozenset({"http", "https", "webdav", "webhdfs", "github"})
"""Schemes in which `?` starts a query and `#` a fragment. In all others both are ordinary characters of a name."""

_ESCAPED = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Legitimate names contain them, in Persian as in emoji."""
_USER = re.compile(r"(?i)([a-z][a-z0-9+.\-]*://)([^/\s'\"]*)@")
_QUERY = re.compile(r"(?i)([a-z][a-z0-9+.\-]*://[^\s?'\"]*)\?[^\s'\")]*")
_SIGNED = re.compile(r"(?i)\?(?:[^/]*&)?(?:x-amz-[\w\-]+|x-goog-[\w\-]+|signature|sig)=")
_SECRET_VARIABLE = re.compile(r"(?i)(KEY|KEY_ID|SECRET|TOKEN|PASS|PASSW(OR)?D|CREDENTIALS?|CONNECTION_STRING|SAS)$")
_SECRET = re.compile(
    r"\b([\w\-]*(?:signature|secret|token|password|credential|(?:access|api|account)_?key\w*|sig))"
    r"(['\"]?\s*[=:]\s*['\"]?)[^\s&'\",)]+",
    re.IGNORECASE,
)


def escape(name: str) -> str:
    """A file name (undecodable bytes as surrogates, as `os.fsdecode` gives them) in printable characters.

    Bytes that are not UTF-8 become `\\xNN`. Unprintable characters become `\\xNN` (ASCII), `\\uNNNN` or `\\UNNNNNNNN`.
    A backslash stays as it is, unless it would read as one of these: then it becomes `\\x5c`.

    >>> escape("a\\udcff\\n\\\\x41.mp4"), escape("\\x85")
    ('a\\\\xff\\\\x0a\\\\x5cx41.mp4', '\\\\u0085')
    """
    if name.isprintable() and "\\" not in name:
        return name
    out = []
    for char in _ESCAPED.sub(lambda found: "\\x5c" + found.group(1), name):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif unicodedata.category(char) in _HIDDEN and char not in _JOINERS:
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        else:
            out.append(char)
    return "".join(out)


def unescape(shown: str) -> str:
    """The name that `escape` was given.

    >>> unescape(escape("\\\\x41\\udcff\\u202e")) == "\\\\x41\\udcff\\u202e"
    True
    """

    def char(found: re.Match[str]) -> str:
        code = int(found.group(1)[1:], 16)
        if found.group(1)[0] == "x" and code >= 0x80:
            return chr(0xDC00 + code)
        return chr(code) if code <= 0x10FFFF else found.group(0)

    return _ESCAPED.sub(char, shown)


def meanings(named: str) -> tuple[str, ...]:
    """The names that a person or a table may mean by `named`, the likelier first: the name that `escape` spells like
    this, then `named` itself. There are two only if `named` is the canonical spelling of another name.

    >>> [len(name) for name in meanings("\\\\x0a.mp4")], len(meanings("\\\\x41.mp4"))
    ([5, 8], 1)
    """
    if "\\" not in named:
        return (named,)
    plain = unescape(named)
    return (named,) if plain == named or escape(plain) != named else (plain, named)


def escaped(name: str) -> str:
    """`name` unchanged if nothing in it needs `escape`, as in every canonical URI; otherwise escaped.

    >>> escaped(escape("a\\n\\\\x41")) == escape("a\\n\\\\x41"), escaped("a\\n")
    (True, 'a\\\\x0a')
    """
    hidden = not name.isprintable() and any(unicodedata.category(c) in _HIDDEN and c not in _JOINERS for c in name)
    return escape(name) if hidden else name


def is_remote(source: str) -> bool:
    """Whether `source` is a URI of a store; `file://` is local."""
    found = SCHEME.match(source)
    return bool(found) and scheme_of(source) != "file"


def is_member(source: str) -> bool:
    """Whether `source` is a URI from our own tables that names a member of a shard."""
    return source.startswith(("tar://", "zip://")) and "::" in source and not os.path.lexists(source)


def shards_of(member: str) -> list[str]:
    """The URIs of the shards that a member's URI may name, the likelier first: both names may contain `::`.

    >>> shards_of("tar://a::b.mp4::s3://c/d::e.tar")
    ['s3://c/d::e.tar']
    """
    parts = member.split("::")
    ends = ("::".join(parts[at:]) for at in range(len(parts) - 1, 0, -1))
    return [end for end in ends if end.startswith("/") or SCHEME.match(end)]


def scheme_of(uri: str) -> str:
    found = SCHEME.match(uri)
    scheme = found.group(1).lower() if found else "file"
    return _ALIASES.get(scheme, scheme)


def local_path(source: str) -> bytes:
    """The absolute path of a local source, as bytes. `file://` URIs may be percent-encoded or not."""
    if source.startswith("/") and "//" not in source and "/." not in source and not source.endswith("/"):
        return os.fsencode(source)  # the common case: nearly all of a million rows
    if SCHEME.match(source):
        source = re.sub(r"^[A-Za-z]+://(localhost(?=/))?", "", source)
        # A person may have typed the name as it is. A program will have encoded it.
        if "%" in source and not os.path.lexists(source):
            source = unquote(source, errors="surrogateescape")
    path = os.fsencode(os.path.expanduser(source))
    if b".." in path.split(b"/"):
        # `link/..` is not the folder that holds the link: only the file system can resolve it.
        head, tail = os.path.split(path)
        path = os.path.realpath(path) if tail in (b"..", b".", b"") else os.path.join(os.path.realpath(head), tail)
    return os.path.abspath(path)


def canonical_local(path: bytes) -> str:
    return escape(os.fsdecode(path))


def split_remote(uri: str) -> tuple[str, str]:
    """A pair: `uri` without query, fragment, user and password, and the URI to fetch it by. The first is not escaped;
    its scheme has the canonical spelling. The second is "" if nothing had to be removed.

    >>> split_remote("https://me:pw@h/a.mp4?sig=1")[0]
    'https://h/a.mp4'
    >>> split_remote("s3://b//what?v=1.mp4")
    ('s3://b//what?v=1.mp4', '')
    """
    scheme = scheme_of(uri)
    rest = SCHEME.sub("", uri, count=1)
    if scheme == "memory":  # it has no hosts; fsspec drops leading slashes
        return f"memory://{rest.lstrip('/')}", ""
    plain = re.split(r"[?#]", rest, maxsplit=1)[0] if scheme in _URL_QUERIES else rest
    host, slash, path = plain.partition("/")
    user, at, name = host.rpartition("@")
    if at and _is_user(uri, user):
        host = name
    shown = f"{scheme}://{host}{slash}{path}"
    secret = plain != rest or (bool(at) and host == name)
    return shown, uri if secret else ""


def without_signature(shown: str) -> str:
    """`shown` without the signature of a web address, which means nothing to an object store: somebody copied it along
    by mistake. Only for names that no object has.

    >>> without_signature("s3://b/a.mp4?X-Amz-Expires=60&X-Amz-Signature=1"), without_signature("s3://b/a?v=1.mp4")
    ('s3://b/a.mp4', 's3://b/a?v=1.mp4')
    """
    return shown[: found.start()] if (found := _SIGNED.search(shown)) else shown


def redact(text: str) -> str:
    """`text` without the users, passwords and queries of its URIs and without secrets: values that the text labels as
    secret, and values of this process's own secrets."""
    text = _USER.sub(lambda found: found[1] if _is_user(found[1], found[2]) else found[0], text)
    text = _QUERY.sub(lambda found: found[1] if scheme_of(found[1]) in _URL_QUERIES else found[0], text)
    text = _SECRET.sub(r"\1\2…", text)
    for value in _own_secrets():
        text = text.replace(value, "…")
    return text


def _is_user(uri: str, before_at: str) -> bool:
    """Whether the part before the `@` in the URI's host is a user; `az://container@account` has none."""
    return scheme_of(uri) != "az" or ":" in before_at


def _own_secrets() -> list[str]:
    """The secrets in this process's environment, longest first: some stores repeat what a request contained."""
    named = (value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return sorted((value for value in named if len(value) >= 8 and not value.startswith("/")), key=len, reverse=True)


def media_id_of(*parts: bytes) -> str:
    """sha256 (hex) of the parts, each preceded by its length, so that no two lists of parts give the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def name_bytes(name: str) -> bytes:
    """Bytes of a name for hashing. Lone surrogates of any kind survive."""
    return name.encode("utf-8", "surrogatepass")
