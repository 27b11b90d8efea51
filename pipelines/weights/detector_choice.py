"""Which detectors a run uses and which files they get. All of this is settled before anything is planned.

After that, no hub, cache or user is asked again: the choice consists of specs with the checksums of files that are on
this machine.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from ...models import registry
from ...models.base import DetectorSpec
from ...models.embedded.files import embedded_file
from ...models.extras import lacking
from ...models.weights.files import LocalFile, Weights, WeightsError, WeightsFile
from ...transforms.failures import UsageError, printable
from ...transforms.storage.downloads import NotFound, WrongFile, fetch, local_file
from ...transforms.storage.uris import is_remote, local_path, split_remote
from .cache import HUB_NAME, at_hand, below, local_root, mirror_hub, noted, weights_folder
from .pull import check_licence


@dataclass(frozen=True, slots=True)
class Chosen:
    specs: tuple[DetectorSpec, ...]
    """In alphabetical order, with the checksums of the files that they get."""
    weights: Mapping[str, Weights] = field(default_factory=dict)
    """Weights by the detector's name; detectors without weights are left out."""
    licences_accepted: Mapping[str, str] = field(default_factory=dict)
    """Licences that forbid commercial use, by the detector's name."""
    warnings: tuple[str, ...] = ()


def choose(
    names: Sequence[str] | None,
    given: Sequence[str] = (),
    cache: str | None = None,
    accepted: Collection[str] = (),
    unpinned: Collection[str] = (),
) -> Chosen:
    """The detectors of `names` with their files; for None every detector that is ready.

    A detector is ready if the packages that its network needs are installed, its licence needs no consent or has it,
    and it needs no weights or has all its files in the package, in the cache or among `given` (`NAME=PATH` or
    `NAME.ROLE=PATH`).

    Raises:
        UsageError: a name is unknown, a file is missing or not the one on record, or a licence was not accepted.
        WorldError: a store that holds a named file does not answer.
    """
    cache = weights_folder(cache)
    named = parse_weights(given)
    try:
        published = {spec.name: spec for spec in registry.specs(None if names is None else _plain(names))}
    except registry.UnknownDetector as error:
        raise UsageError(str(error)) from None
    for name, role in named:
        _refuse_unused(name, role, published)
    for flag, meant in (("--allow-unpinned", unpinned), ("--accept-licence", accepted)):
        _refuse_unknown(flag, meant)
    chosen, warnings = _Collected(), list[str]()
    for spec in published.values():
        paths = {role: _of_hub(path, cache) for (name, role), path in named.items() if name == spec.name}
        wanted = names is not None or bool(paths)
        if not wanted and not (spec.commercial_use or spec.name in accepted):
            continue
        if (lack := lacking(f"{spec.name} needs", spec.extra)) is not None:
            if wanted:
                raise UsageError(lack)
            continue
        weights = _files(spec, paths, cache, spec.name in unpinned, warnings, needed=wanted)
        if weights is not None:
            chosen.add(spec, weights, accepted)
    for typed in dict.fromkeys(names or ()):
        if (adapter := registry.adapter_of(typed)) is not None:
            chosen.add(*own_model(typed, cache, adapter), accepted)
    specs = tuple(chosen.specs[name] for name in sorted(chosen.specs))
    licences = {spec.name: spec.licence for spec in specs if not spec.commercial_use}
    return Chosen(specs, chosen.weights, licences, tuple(warnings))


def split_names(text: str) -> list[str]:
    """The names in a comma-separated list.

    Raises:
        UsageError: there are none, or a comma belongs to a path: such a path cannot be named.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("expected detector names after --detectors, got none; see `deephotlink detectors`")
    for at, name in enumerate(names):
        if registry.adapter_of(name) is None:
            continue
        for end in range(at + 2, len(names) + 1):
            whole = ",".join(names[at:end])
            if os.path.exists(os.path.expanduser(whole.partition(":")[2])):
                raise UsageError(
                    f"{whole} has a comma in its path, and commas separate detectors: rename it, or use a link"
                )
    return names


def own_model(typed: str, cache: str, adapter: ModuleType | None = None) -> tuple[DetectorSpec, Weights]:
    """A model of the user's own (`hf:`, `onnx:`, `torch:`): a spec made from its files, and the files.

    Raises:
        UsageError: the model is missing or cannot be used.
    """
    adapter = adapter or registry.adapter_of(typed)
    assert adapter is not None
    kind, _, reference = typed.partition(":")
    if not reference.strip():
        raise UsageError(f"expected a {'folder or OWNER/REPO' if kind == 'hf' else 'file'} after {typed}, got nothing")
    if (lack := lacking(f"{printable(shown_name(typed))} needs", kind)) is not None:
        raise UsageError(lack)
    try:
        root = mirror_hub(cache, reference) if kind == "hf" else local_root(cache)
        if kind == "hf":
            _refuse_other_revision(reference, cache)
        paths: Mapping[str, str | Path] = adapter.files_of(reference, root)
        weights = Weights({role: _opened(os.fspath(path), cache) for role, path in paths.items()})
        name = shown_name(typed)
        spec: DetectorSpec = adapter.describe(name, weights)
    except (WeightsError, OSError) as error:
        raise UsageError(f"cannot use {printable(shown_name(typed))}: {error}") from None
    return replace(spec, name=name), weights


def _refuse_other_revision(reference: str, cache: str) -> None:
    """Refuses `hf:OWNER/REPO@REVISION` if the cache has another revision of it."""
    repo, _, revision = reference.partition("@")
    if not revision or os.path.isdir(os.path.expanduser(reference)) or HUB_NAME.fullmatch(reference) is None:
        return
    came = noted(cache, f"hf/{repo}")
    commit = str(came.get("revision", ""))
    if came and revision != str(came.get("source", "")).partition("@")[2] and not commit.startswith(revision):
        raise UsageError(
            f"expected revision {revision} of {repo} in the cache, it has {printable(commit)}: "
            f'run "deephotlink weights pull hf:{reference}"'
        )


def shown_name(typed: str) -> str:
    """A name as it is in the tables: what was typed, without secrets and without control characters.

    >>> shown_name("hf:models/mine/"), shown_name("onnx:https://me:pw@host/a.onnx?sig=1")
    ('hf:models/mine', 'onnx:https://host/a.onnx')
    """
    kind, _, reference = typed.partition(":")
    if is_remote(reference):
        reference = split_remote(reference)[0]
    return printable(f"{kind}:{reference.rstrip('/') or '/'}", limit=4096)


@dataclass(slots=True)
class _Collected:
    specs: dict[str, DetectorSpec] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

    def add(self, spec: DetectorSpec, weights: Weights, accepted: Collection[str]) -> None:
        check_licence(spec, accepted)
        if spec.name in self.specs:
            raise UsageError(f"two detectors would have the name {spec.name} in the tables: choose one of them")
        self.specs[spec.name] = replace(spec, weights_sha256=weights.sha256)
        if weights.files:
            self.weights[spec.name] = weights


def _plain(names: Sequence[str]) -> list[str]:
    return [name for name in names if registry.adapter_of(name) is None]


def parse_weights(given: Sequence[str]) -> dict[tuple[str, str | None], str]:
    """Paths by (name, role), from `NAME=PATH` and `NAME.ROLE=PATH`. None may be given twice."""
    installed = registry.installed()
    found: dict[tuple[str, str | None], str] = {}
    for argument in given:
        name, equals, path = argument.partition("=")
        if not (name and equals and path):
            raise UsageError(f"expected --weights NAME=PATH, got {argument!r}")
        role: str | None = None
        if name not in installed and "." in name:
            name, _, role = name.rpartition(".")
        if (name, role) in found:
            raise UsageError(f"--weights names {name}{f'.{role}' if role else ''} twice")
        found[name, role] = path
    return found


def _refuse_unknown(flag: str, names: Collection[str]) -> None:
    """Refuses an unknown detector name: it is a typing error, so the detector that was meant would not get the flag."""
    try:
        registry.specs(_plain(list(names)))
    except registry.UnknownDetector as error:
        raise UsageError(f"{flag}: {error}") from None


def _refuse_unused(name: str, role: str | None, chosen: Mapping[str, DetectorSpec]) -> None:
    if registry.adapter_of(name) is not None:
        raise UsageError(f"{name} names its own files: --weights is for published detectors")
    try:
        (spec,) = registry.specs([name])
    except registry.UnknownDetector as error:
        raise UsageError(f"--weights {name}=…: {error}") from None
    if name not in chosen:
        raise UsageError(f"--weights names {name}, which is not among --detectors: {', '.join(chosen) or 'none'}")
    if not spec.weights:
        raise UsageError(f"{name} has no weights: remove --weights {name}=…")
    roles = [file.role for file in spec.weights]
    if role is not None and role not in roles:
        raise UsageError(f"{name} has no file {role!r}, it has {', '.join(roles)}: --weights {name}.{roles[0]}=PATH")


def _files(
    spec: DetectorSpec,
    paths: Mapping[str | None, str],
    cache: str,
    unpinned: bool,
    warnings: list[str],
    needed: bool,
) -> Weights | None:
    """The detector's files: as the user named them, else from the package or the cache. None if one is missing and the
    detector is not `needed`."""
    held: dict[str, LocalFile] = {}
    missing: list[WeightsFile] = []
    for file in spec.weights:
        path = paths.get(file.role) or _within(paths.get(None), file, alone=len(spec.weights) == 1)
        if path is not None:
            held[file.role] = _named(spec, file, path, cache, unpinned, warnings)
        elif spec.origin == "embedded" and (own := embedded_file(file)) is not None:
            held[file.role] = _packaged(spec, file, own)
        elif (cached := at_hand(cache, spec.name, file)) is not None:
            held[file.role] = cached
        else:
            missing.append(file)
    if not missing:
        return Weights(held)
    if not needed:
        return None
    trust = "" if all(file.sha256 for file in missing) else f" --allow-unpinned {spec.name}"
    agree = "" if spec.commercial_use else f" --accept-licence {spec.name}"
    how = f"{spec.name}=PATH" if len(spec.weights) == 1 else f"{spec.name}=FOLDER or {spec.name}.{missing[0].role}=PATH"
    raise UsageError(
        f"{spec.name} needs {', '.join(file.file_name for file in missing)}: "
        f'run "deephotlink weights pull {spec.name}{trust}{agree}" or give --weights {how}'
    )


def _packaged(spec: DetectorSpec, file: WeightsFile, path: Path) -> LocalFile:
    """A weights file that came with the package, checked against its sidecar."""
    mend = f"install deephotlink again, or give --weights {spec.name}=PATH --allow-unpinned {spec.name}"
    try:
        found = local_file(path)
    except NotFound as error:
        raise UsageError(f"expected the weights of {spec.name} in the package, {error}: {mend}") from None
    if found.sha256 != file.sha256:
        raise UsageError(f"expected sha256 {file.sha256} in {path}, got {found.sha256}: the file was changed; {mend}")
    return found


def _of_hub(path: str, cache: str) -> str:
    """For `hf:OWNER/REPO`, the folder that `weights pull hf:OWNER/REPO` made, such as an encoder for `d3`; any other
    path as it is."""
    if not path.startswith("hf:"):
        return path
    reference = path.removeprefix("hf:")
    if HUB_NAME.fullmatch(reference) is None:
        raise UsageError(f"expected hf:OWNER/REPO after --weights NAME=, got {path!r}")
    folder = mirror_hub(cache, reference) / "hf" / reference.partition("@")[0]
    if not folder.is_dir():
        raise UsageError(f'{path} is not in the cache of weights: run "deephotlink weights pull {path}"')
    _refuse_other_revision(reference, cache)
    return str(folder)


ROLES = "name each by its role, --weights NAME.ROLE=PATH (`deephotlink detectors NAME` says which there are)"


def _within(path: str | None, file: WeightsFile, alone: bool) -> str | None:
    """The file in the folder that was named, or the named path itself if the detector has only one file."""
    if path is None:
        return None
    folder = not is_remote(path) and os.path.isdir(local_path(path))
    if not alone and not is_remote(path) and os.path.isfile(local_path(path)):
        raise UsageError(f"expected a folder with {file.file_name} and its other files, got the file {path!r}: {ROLES}")
    return below(path, file.file_name) if folder or not alone else path


def _named(
    spec: DetectorSpec, file: WeightsFile, path: str, cache: str, unpinned: bool, warnings: list[str]
) -> LocalFile:
    try:
        found = _opened(path, cache, "" if unpinned else file.sha256)
    except NotFound as error:
        raise UsageError(f"--weights {spec.name}: expected {file.file_name}, {error}") from None
    except WrongFile as error:
        raise UsageError(f"{error}, for {spec.name}: give --allow-unpinned {spec.name} if you mean that file") from None
    if file.sha256 and found.sha256 != file.sha256:
        said = (
            f"expected sha256 {file.sha256} of {file.file_name} for {spec.name}, got {found.sha256} in {_shown(path)}"
        )
        if not unpinned:
            raise UsageError(f"{said}: give --allow-unpinned {spec.name} if you mean that file")
        warnings.append(f"{said}: its results are not those of the published detector")
    return found


def _opened(path: str, cache: str, sha256: str = "") -> LocalFile:
    """A file on this machine. A remote file is downloaded once and found by its checksum after that."""
    if not is_remote(path):
        return local_file(os.fsdecode(local_path(path)))
    return fetch(path, local_root(cache), sha256=sha256)


def _shown(path: str) -> str:
    return printable(split_remote(path)[0] if is_remote(path) else path)
