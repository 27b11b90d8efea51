"""Text for people: counts, names that can be told apart, words that can be pasted into a shell."""

from __future__ import annotations

import os
import shlex
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ...transforms.failures import printable

CUT = "..."
"""Marks where a name was cut. ASCII, because some terminals have nothing else."""
_LONGEST = 4096
_PLAIN = string.ascii_letters + string.digits + "/._-:=+@, "
"""Characters that need no escape in a format of `printf`."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number with its noun.

    >>> counted(1, "file"), counted(0, "file"), counted(2, "gallery", "galleries")
    ('1 file', '0 files', '2 galleries')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def seconds(value: float) -> str:
    """Seconds of film as text; below ten, to a tenth.

    >>> seconds(0), seconds(0.04), seconds(2.52), seconds(227.4)
    ('0', '0.1', '2.5', '227')
    """
    if 0 < value < 0.1:
        return "0.1"
    return f"{value:.1f}" if 0 < value < 10 and round(value, 1) != round(value) else f"{value:.0f}"


def told_apart(uris: Sequence[str], width: int) -> tuple[str, list[str]]:
    """The folder that holds all of these files ("" if there is none), and a name for each file, in their order.

    A name is the path below that folder; a member of a shard is `NAME in SHARD`. Names longer than `width` are cut, and
    their end is kept, but two different files never look the same.

    >>> told_apart(["/a/b/x.mp4", "/a/c/x.mp4"], 20)
    ('/a', ['b/x.mp4', 'c/x.mp4'])
    >>> told_apart(["/a/2019_interview_take1.mp4", "/a/2019_interview_take2.mp4"], 14)
    ('/a', ['201...ake1.mp4', '201...ake2.mp4'])
    """
    places = [_place(uri) for uri in uris]
    folder = _common([place for place, _, _ in places])
    skip = len(folder) + (not folder.endswith("/")) if folder else 0
    names = []
    for place, name, member in places:
        stem = place if place.endswith("/") or not place else f"{place}/"
        below = stem[skip:].lstrip("/") if folder else stem
        whole = printable(f"{below}{name}", _LONGEST)
        names.append(f"{printable(member, _LONGEST)} in {whole}" if member is not None else whole)
    return printable(folder, _LONGEST), _cut_apart(names, max(width, 2 * len(CUT)))


def named(uri: str) -> tuple[str, str]:
    """Folder and name of a file; a member of a shard is `NAME in SHARD`, in the folder of the shard.

    >>> named("/a/b/x.mp4"), named("tar://x.mp4::s3://bucket/all.tar")
    (('/a/b', 'x.mp4'), ('s3://bucket', 'x.mp4 in all.tar'))
    """
    folder, name, member = _place(uri)
    return folder, name if member is None else f"{member} in {name}"


def common_folder(uris: Iterable[str]) -> str:
    """The folder in which all of these files lie; "" where there is none.

    >>> common_folder(["/a/b/x.mp4", "/a/c/x.mp4"]), common_folder(["s3://b/x.mp4", "/a/x.mp4"])
    ('/a', '')
    """
    return _common([_place(uri)[0] for uri in uris])


def shell_word(text: str, encoding: str = "utf-8") -> str:
    """`text` as one word for a shell, in characters that a terminal with this `encoding` has.

    A name is never an option: one that begins with `-` is written as a path. Characters that the terminal cannot show
    are written with `printf` and octal escapes, because not every shell knows `$'…'`.

    >>> shell_word("my scores"), shell_word("-out")
    ("'my scores'", './-out')
    >>> print(shell_word("caf\\xe9", "ascii"))
    "$(printf 'caf\\303\\251')"
    """
    if text.startswith("-"):
        text = f"./{text}"
    if text.isprintable() and text.encode(encoding, "ignore").decode(encoding) == text:
        return shlex.quote(text)
    body = text.rstrip("\n")
    # A shell strips newlines from the end of what `printf` prints, so they are quoted separately.
    lines = shlex.quote(text[len(body) :]) if body != text else ""
    escaped = "".join(chr(b) if chr(b) in _PLAIN else f"\\{b:03o}" for b in os.fsencode(body))
    return f"\"$(printf '{escaped}')\"{lines}"


def _place(uri: str) -> tuple[str, str, str | None]:
    """The folder, the name in it and, for a member of a shard, the member's name."""
    member = None
    if uri.startswith(("tar://", "zip://")) and "::" in uri:
        head, _, uri = uri.partition("://")[2].rpartition("::")
        member = head
    folder, _, name = uri.rpartition("/")
    return (folder or "/", name, member) if uri.startswith("/") else (folder, name, member)


def _common(folders: Iterable[str]) -> str:
    paths = [folder.split("/") for folder in folders]
    if not paths:
        return ""
    same: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        same.append(parts[0])
    folder = "/".join(same)
    if folder == "" and all(path[:1] == [""] for path in paths):
        return "/"
    return "" if folder.endswith((":/", ":")) else folder


def _cut_apart(names: Sequence[str], width: int) -> list[str]:
    shown = {name: _cut(name, width) for name in names}
    for same in _clashes(shown):
        # These names agree up to `alike`, and also in what was kept of their ends.
        first, last = min(same), max(same)
        alike = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        start = max(alike - len(CUT), 0)
        for name in same:
            rest = f"{CUT if start else ''}{name[start:]}"
            shown[name] = rest if len(rest) <= width else f"{rest[: width - len(CUT)]}{CUT}"
    for same in _clashes(shown):
        shown.update({name: name for name in same})
    return [shown[name] for name in names]


def _clashes(shown: dict[str, str]) -> list[list[str]]:
    by_look: dict[str, list[str]] = defaultdict(list)
    for name, look in shown.items():
        by_look[look].append(name)
    return [same for same in by_look.values() if len(same) > 1]


def _cut(name: str, width: int) -> str:
    if len(name) <= width:
        return name
    head = (width - len(CUT)) // 3
    return f"{name[:head]}{CUT}{name[len(name) - (width - len(CUT) - head) :]}"
