"""`deephotlink weights pull` and `verify`. No other module downloads a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from ...models import registry
from ...models.base import DetectorSpec
from ...models.embedded.files import embedded_file
from ...models.weights.files import WeightsFile
from ...transforms.failures import UsageError, WorldError, printable
from ...transforms.storage.downloads import NotFound, Progress, WrongFile, digest_of, fetch, look
from ...transforms.storage.output_store import READ_ONLY
from ...transforms.storage.uris import is_remote, redact, scheme_of, split_remote
from .cache import below, listed, local_root, note, noted, shown, upload
from .hub import pull_hub


@dataclass(frozen=True, slots=True)
class Pulled:
    """A file that is now in the cache."""

    detector: str
    file_name: str
    size_bytes: int
    sha256: str
    where: str
    before: bool = False
    """Whether it was already there."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The state of one file in the package or the cache."""

    file: str
    """Its name in the cache, or `embedded/` and its name."""
    state: str
    """`ok`, `sha256 differs`, `missing` or `not on record`."""
    sha256: str = ""
    expected: str = ""

    @property
    def wrong(self) -> bool:
        return self.state in ("sha256 differs", "missing")


def pull(
    names: Sequence[str],
    cache: str,
    source: str | None = None,
    accepted: Collection[str] = (),
    unpinned: Collection[str] = (),
    progress: Callable[[str], Progress] | None = None,
) -> Iterator[Pulled]:
    """Downloads the files of detectors into the cache, one after the other; from the mirror `source`, if one is given.

    Everything that can be refused offline is refused before the first byte is read.

    Raises:
        UsageError: a name, licence or source cannot be used, or a file is not the one on record.
        WorldError: storage, disk or network failed despite retries. No error leaves a partial file.
    """
    if is_remote(cache) and scheme_of(cache) in READ_ONLY:
        raise UsageError(f"{shown(cache)} cannot be written to: name a folder or the URL of an object store")
    specs = [None if name.startswith("hf:") else _pullable(name, accepted, unpinned) for name in dict.fromkeys(names)]
    for name, spec in zip(dict.fromkeys(names), specs, strict=True):
        if spec is None:
            if source is not None:
                raise UsageError("--from is for published weights; hf: models come from the hub")
            yield from (Pulled(name, *file) for file in pull_hub(name, cache, accepted))
            continue
        for file in spec.weights:
            with _advised(spec.name):
                yield _pull_file(spec, file, cache, source, progress)


def _pullable(name: str, accepted: Collection[str], unpinned: Collection[str]) -> DetectorSpec:
    if registry.adapter_of(name) is not None:
        raise UsageError(f"{name} is a file of your own: there is nothing to pull")
    try:
        (spec,) = registry.specs([name])
    except registry.UnknownDetector as error:
        raise UsageError(str(error)) from None
    if not spec.weights:
        raise UsageError(f"{name} has no weights of its own: there is nothing to pull, it is ready")
    if _in_package(spec):
        raise UsageError(f"the weights of {name} came with deephotlink: there is nothing to pull, it is ready")
    check_licence(spec, accepted)
    unknown = [file.file_name for file in spec.weights if not file.sha256]
    if unknown and name not in unpinned:
        raise UsageError(
            f"no sha256 is on record for {', '.join(unknown)} of {name}, so a forged file could not be told from the "
            f"real one: give --allow-unpinned {name} if you trust {', '.join(f.url for f in spec.weights)}"
        )
    return spec


def check_licence(spec: DetectorSpec, accepted: Collection[str]) -> None:
    """Raises UsageError if the licence forbids commercial use and was not accepted for this detector by name."""
    if not spec.commercial_use and spec.name not in accepted:
        raise UsageError(
            f"the licence of {spec.name} ({spec.licence}) forbids commercial use: give --accept-licence {spec.name} if "
            "it allows your use"
        )


def _pull_file(
    spec: DetectorSpec,
    file: WeightsFile,
    cache: str,
    source: str | None,
    progress: Callable[[str], Progress] | None,
) -> Pulled:
    name = f"{spec.name}/{file.file_name}"
    where = below(cache, name)
    if file.sha256:
        try:
            sha256, size = digest_of(where)
            if sha256 == file.sha256:
                return Pulled(spec.name, file.file_name, size, sha256, where, before=True)
        except NotFound:
            pass
    address = file.url if source is None else _in_mirror(source, name, single=len(spec.weights) == 1)
    got = fetch(
        address,
        local_root(cache),
        name,
        file.sha256,
        file.size_bytes,
        progress(file.file_name) if progress is not None else None,
    )
    if is_remote(cache):
        upload(got.path, where)
    if not file.sha256:
        files = {**noted(cache, spec.name).get("files", {}), file.file_name: got.sha256}
        note(cache, spec.name, files, split_remote(address)[0] if is_remote(address) else "")
    return Pulled(spec.name, file.file_name, got.size_bytes, got.sha256, where)


def _in_mirror(source: str, name: str, single: bool) -> str:
    """The address of `<detector>/<file>` in a mirror, which has the layout of a cache or is the single file itself."""
    candidates = [below(source, name), *([source] if single else ())]
    if single and split_remote(source)[0].rstrip("/").endswith("/" + name.rpartition("/")[2]):
        candidates.reverse()
    for address in candidates[:-1]:
        try:
            look(address)
            return address
        except NotFound:
            continue
    return candidates[-1]


@contextmanager
def _advised(name: str) -> Iterator[None]:
    """Adds to an error of the body what to do about it."""
    again = "nothing of it was kept"
    try:
        yield
    except WorldError as error:
        raise WorldError(f"{error}; {again}: run the same command again, or name a mirror with --from URL") from None
    except WrongFile as error:
        raise UsageError(f"{error}; {again}: name another source of the published file with --from URL") from None
    except NotFound as error:
        raise UsageError(
            f"{error}; {again}: name a mirror of the weights of {name} with --from URL, or give a file that you have "
            f"to the audit with --weights {name}=PATH"
        ) from None


@contextmanager
def bytes_progress() -> Iterator[Callable[[str], Progress]]:
    """Shows one progress bar per file on a terminal, and nothing in a log."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def begin(name: str) -> Progress:
            task = bars.add_task(name, total=None)
            return lambda came, total: bars.update(task, completed=came, total=total or None)

        yield begin


def pull_command(
    names: Sequence[str], cache: str, source: str | None, accepted: Collection[str], unpinned: Collection[str]
) -> int:
    """Runs `pull` and prints each file; returns the exit code."""
    with bytes_progress() as progress:
        for got in pull(names, cache, source, accepted, unpinned, progress):
            print(told(got))
    return 0


def told(got: Pulled) -> str:
    """One line about a file that was pulled."""
    where = f"{printable(redact(got.where), 1000)}{' (already there)' if got.before else ''}"
    name = f"{printable(got.detector)} {printable(got.file_name)}"
    return f"{name}: {got.size_bytes} bytes, sha256 {got.sha256}, {where}"


def verify_command(names: Sequence[str], cache: str) -> int:
    """Runs `verify` and prints each file; returns the exit code, which is 1 if a file is not the one on record."""
    wrong = False
    for file in verify(names, cache):
        sums = " ".join(filter(None, (file.sha256, f"expected {file.expected}" if file.wrong else "")))
        print(f"{printable(file.file, 1000)}: {file.state} {sums}".rstrip())
        wrong |= file.wrong
    return 1 if wrong else 0


def verify(names: Sequence[str] | None, cache: str) -> Iterator[Verified]:
    """Hashes the files of these detectors, in the package or in the cache; without names, all files in both.

    Raises:
        UsageError: no detector of that name is installed.
        WorldError: the cache is a URL and does not answer.
    """
    installed = registry.installed()
    for name in names or ():
        if not name.startswith("hf:") and (name not in installed or not installed[name].weights):
            _pullable(name, (), (name,))  # raises, and says why it cannot be verified
    packaged = {name: spec for name, spec in installed.items() if _in_package(spec)}
    for name in sorted(packaged.keys() & set(names or packaged)):
        yield from (_verified_own(file) for file in packaged[name].weights)
    names = [name for name in names or () if name not in packaged] if names else None
    if names is not None and not names:
        return
    folders = {_folder(name) for name in names} if names else None
    found: dict[str, set[str]] = {}
    for file in listed(cache):
        parts = file.split("/")
        depth = 3 if parts[0] == "hf" else 1
        found.setdefault("/".join(parts[:depth]), set()).add("/".join(parts[depth:]))
    for folder in sorted(found.keys() | (folders or set())):
        if folders is not None and folder not in folders:
            continue
        spec = installed.get(folder)
        expected = {f.file_name: f.sha256 for f in spec.weights} if spec is not None else {}
        came = {str(k): str(v) for k, v in noted(cache, folder).get("files", {}).items()}
        expected = {**came, **{k: v or came.get(k, "") for k, v in expected.items()}}
        for file_name in sorted(found.get(folder, set()) | expected.keys()):
            yield _verified(cache, f"{folder}/{file_name}", expected.get(file_name, ""))
        if not expected and folder not in found:
            yield Verified(folder, "missing")


def _folder(name: str) -> str:
    return f"hf/{name.removeprefix('hf:').partition('@')[0]}" if name.startswith("hf:") else name


def _in_package(spec: DetectorSpec) -> bool:
    return spec.origin == "embedded" and bool(spec.weights) and all(map(embedded_file, spec.weights))


def _verified_own(file: WeightsFile) -> Verified:
    path = embedded_file(file)
    return _hashed(str(path), f"embedded/{file.file_name}", file.sha256)


def _verified(cache: str, name: str, expected: str) -> Verified:
    return _hashed(below(cache, name), name, expected)


def _hashed(address: str, name: str, expected: str) -> Verified:
    try:
        sha256, _ = digest_of(address)
    except NotFound:
        return Verified(name, "missing", expected=expected)
    state = "not on record" if not expected else "ok" if sha256 == expected else "sha256 differs"
    return Verified(name, state, sha256, expected)
