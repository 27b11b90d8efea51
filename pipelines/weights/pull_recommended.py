"""`weights pull --recommended`: says what the detectors cost and forbid, asks, and pulls what is missing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.markup import escape

from ...models.extras import lacking
from ...transforms.failures import UsageError, WorldError, printable
from ...transforms.storage.downloads import NotFound, look
from ...transforms.storage.uris import is_remote, split_remote
from ..terminal.printing import console as console_of
from ..terminal.printing import print_json
from ..terminal.tables import Column, print_table
from ..terminal.wording import counted
from .cache import below, shown
from .pull import bytes_progress, pull, told
from .recommended import Pick, published, recommended

DONE, USAGE, AGAIN = 0, 2, 75
"""Exit codes: cli.py says what they mean."""
_WHAT_A_FIGURE_IS = (
    "Figures are AUC, `measured` by us or `published` by the authors, on forgeries that other people's tools made. "
    "They differ by material: calibrate on your own files. CPU s: of one core, for ten seconds of film with a face and "
    "sound."
)


@dataclass(frozen=True, slots=True)
class Request:
    """Which recommended detectors to pull, and how."""

    cache: str
    source: str | None = None
    """A mirror; None: where they are published."""
    accepted: Collection[str] = ()
    """Detectors whose licences were accepted by name."""
    unpinned: Collection[str] = ()
    agreed: bool = False
    """Whether the user has already agreed to the download."""


def missing(picks: Sequence[Pick], cache: str) -> tuple[Pick, ...]:
    """The picks of which the cache lacks a file, or has one of another size. Reads no file.

    Raises:
        WorldError: the cache is a URL and does not answer.
    """
    return tuple(pick for pick in published(picks).values() if not _is_there(pick, cache))


def _is_there(pick: Pick, cache: str) -> bool:
    for file in pick.spec.weights:
        try:
            size = look(below(cache, f"{pick.spec.name}/{file.file_name}")).size_bytes
        except NotFound:
            return False
        if size and file.size_bytes and size != file.size_bytes:
            return False
    return True


def print_recommended(picks: Sequence[Pick], console: Console, left: Sequence[Pick] | None = None) -> None:
    """Prints what is recommended, why, and what it costs and forbids. `left`: those that are still to be pulled."""
    columns = [
        Column("against", whole=True),
        Column("detector", whole=True),
        Column("download", right=True, whole=True),
        Column("CPU s", right=True, whole=True),
        Column("licence", whole=True),
        Column("forbids"),
        Column("figure"),
    ]
    waiting = None if left is None else {pick.spec.name for pick in left}
    rows: list[tuple[object, ...]] = []
    for at, pick in enumerate(picks):
        again = pick.spec.name in {other.spec.name for other in picks[:at]}
        rows.append(
            (
                pick.kind.forgery,
                pick.spec.name,
                "the same" if again else _download(pick, waiting),
                "" if again else f"{pick.candidate.cpu_seconds:.1f}",
                pick.spec.licence,
                pick.forbids,
                pick.candidate.figure,
            )
        )
    print_table(console, columns, rows, "What is recommended")
    lines = [_WHAT_A_FIGURE_IS, ""]
    lines += [f"{pick.kind.forgery}: {pick.spec.name}: {pick.candidate.reason}." for pick in picks]
    lines += [f"{name}: {pick.candidate.terms}." for name, pick in published(picks).items() if pick.candidate.terms]
    lines += [f"{pick.kind.forgery}: {_better(pick)}" for pick in picks if pick.better]
    for line in lines:
        console.print(escape(printable(line, 2000)) if line else "", highlight=False)


def _better(pick: Pick) -> str:
    names = ", ".join(f"{spec.name} ({spec.licence})" for spec in pick.better)
    options = " ".join(f"--accept-licence {spec.name}" for spec in pick.better)
    return f"better on record, but the licence forbids commercial use: {names}; give {options} if it allows your use."


def _download(pick: Pick, waiting: Collection[str] | None) -> str:
    if not pick.hosts:
        return "none"
    if waiting is not None and pick.spec.name not in waiting:
        return "is here"
    return _size(pick)


def _size(pick: Pick) -> str:
    about = "" if all(file.size_bytes for file in pick.spec.weights) else "about "
    return f"{about}{pick.download_bytes / 1e6:,.0f} MB"


def agree(left: Sequence[Pick], request: Request) -> None:
    """Asks on a terminal whether to pull; elsewhere only `--yes` will do.

    Raises:
        UsageError: the answer is no, or there is nobody to ask.
    """
    if request.agreed:
        return
    total = sum(pick.download_bytes for pick in left) / 1e6
    source = request.source or ", ".join(dict.fromkeys(host for pick in left for host in pick.hosts))
    source = split_remote(source)[0] if is_remote(source) else source
    names = ", ".join(pick.spec.name for pick in left)
    question = f"pull {names} (about {total:,.0f} MB) from {printable(source, 200)} into {shown(request.cache)}"
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"give --yes to {question}: there is no terminal on which to ask")
    print(f"{question[0].upper()}{question[1:]}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was pulled, as you answered")


def pull_left(left: Sequence[Pick], request: Request, say: Callable[[str], None]) -> list[tuple[str, Exception]]:
    """Pulls these detectors; returns those that could not be pulled, each with its error. One that fails does not keep
    the others from being pulled."""
    failed: list[tuple[str, Exception]] = []
    with bytes_progress() as progress:
        for pick in left:
            name = pick.spec.name
            try:
                for got in pull([name], request.cache, request.source, request.accepted, request.unpinned, progress):
                    say(told(got))
            except (UsageError, WorldError) as error:
                failed.append((name, error))
    return failed


def pull_recommended(request: Request) -> int:
    """`weights pull --recommended`; returns the exit code: 0 if every recommended detector is here and is the file on
    record, 75 if a server did not answer, else 2."""
    picks = recommended(request.accepted)
    left = missing(picks, request.cache)
    print_recommended(picks, console_of(140), left)
    _tell_extras(picks)
    if left:
        agree(left, request)
    # Those that are here are hashed, and replaced if they are not the files on record.
    failed = pull_left(tuple(published(picks).values()), request, print)
    for name, error in failed:
        print(f"deephotlink: {printable(name)}: {printable(str(error), 1000)}", file=sys.stderr)
    if not failed and not left:
        print("nothing was missing: every recommended detector is here")
    return code_of(failed)


def code_of(failed: Sequence[tuple[str, Exception]]) -> int:
    if any(isinstance(error, WorldError) for _, error in failed):
        return AGAIN
    return USAGE if failed else DONE


def pull_for_audit(picks: Sequence[Pick], left: Sequence[Pick], request: Request, console: Console) -> None:
    """The same for an audit: says nothing if nothing is missing.

    Raises:
        UsageError, WorldError: something could not be pulled. All the rest was.
    """
    if not left:
        return
    print_recommended(picks, console, left)
    agree(left, request)
    failed = pull_left(left, request, partial(console.print, highlight=False, markup=False, soft_wrap=True))
    if failed:
        # The audit's own option for a mirror has another name than that of `weights pull`.
        why = "; ".join(f"{name}: {error}" for name, error in failed).replace("--from URL", "--weights-from URL")
        kind = WorldError if code_of(failed) == AGAIN else UsageError
        raise kind(f"{len(failed)} of {counted(len(left), 'recommended detector')} could not be pulled: {why}")


def _tell_extras(picks: Sequence[Pick]) -> None:
    for pick in published(picks).values():
        if (lack := lacking(f"{pick.spec.name} needs", pick.spec.extra)) is not None:
            print(f"deephotlink: warning: {lack}", file=sys.stderr)


def show_recommended(accepted: Collection[str], cache: str, as_json: bool) -> None:
    """`deephotlink detectors --recommended`."""
    picks = recommended(accepted)
    left: tuple[Pick, ...] | None = None
    with contextlib.suppress(WorldError):  # a list must not fail because a cache does not answer
        left = missing(picks, cache)
    if as_json:
        waiting = None if left is None else {pick.spec.name for pick in left}
        here = [None if waiting is None else pick.spec.name not in waiting for pick in picks]
        print_json(
            [{**pick.as_json(), "is_here": is_here} for pick, is_here in zip(picks, here, strict=True)], indent=2
        )
        return
    print_recommended(picks, console_of(140), left)
    if left:
        names = counted(len(left), "detector")
        print(f"\n{names} to pull: deephotlink weights pull --recommended")
