"""The training loop for all networks of our own: seeded, resumable, validated on clips that were never trained on.

A recipe defines a batch, the loss and the validation; the loop does the rest. Batch i of a run with seed s comes from
`default_rng([s, i])` alone, whichever process makes it and whichever session asks for it. On one CPU thread, a run that
was killed and resumed ends with the same bits as a run that was never interrupted.
"""

from __future__ import annotations

import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CHECKPOINT, LOG, BEST = "checkpoint.safetensors", "log.jsonl", "best.safetensors"
STATE = "checkpoint.json"
SECONDS_BETWEEN_CHECKPOINTS = 120.0


class TrainingError(ValueError):
    """The training cannot go on as asked. The message says what was expected, what came and what to do."""


class Recipe(ABC):
    """What to learn: the network, its batches and its figures. A recipe uses no storage and no clock."""

    name: str
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    slower: Mapping[str, float] = MappingProxyType({})
    """Share of the learning rate, by the prefix of a parameter's name. For layers that were trained before and must
    keep what they learned."""
    warmup_steps: int = 200
    largest_gradient: float = 1.0

    @abstractmethod
    def network(self) -> nn.Module:
        """The network, untrained or with the weights that it starts from. Torch is seeded before the call."""

    @abstractmethod
    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """One batch on the CPU. It depends on `rng` and on nothing else that changes."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss () of a batch that is on the network's device."""

    @abstractmethod
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out material. `score` must be among them; higher is better."""


@dataclass(frozen=True, slots=True)
class Plan:
    steps: int
    """Steps of the whole run. The learning rate falls to a hundredth towards the last one."""
    seed: int = 0
    validate_every: int = 500
    workers: int = 0
    """Processes that make batches. 0: the training process makes them itself, between steps."""
    minutes: float | None = None
    """Time limit of this session; the next session resumes the run. None: no limit."""
    device: str = "cpu"
    ema: float = 0.999
    """Share of the averaged weights that stays at each step. The averaged weights are the ones validated and kept."""


@dataclass(frozen=True, slots=True)
class Trained:
    weights: dict[str, Tensor]
    """Averaged weights of the best validation: float32, on the CPU."""
    figures: dict[str, float]
    """Figures of that validation. If the session ended before the first validation: figures at its end."""
    steps: int
    """Steps taken so far."""
    finished: bool
    history: list[dict[str, float]] = field(default_factory=list)
    """Every validation: its figures, its `step` and the mean `loss` since the previous one."""


class _Batches(Dataset[dict[str, Tensor]]):
    def __init__(self, recipe: Recipe, seed: int, first: int, steps: int):
        self.recipe, self.seed, self.first, self.steps = recipe, seed, first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        if at >= len(self):
            raise IndexError(at)
        return self.recipe.batch(np.random.default_rng([self.seed, self.first + at]))


def train(recipe: Recipe, folder: Path, plan: Plan, tell: Callable[[str], None] = print) -> Trained:
    """Trains from the checkpoint in `folder`, or from the start, until the last step or the end of the session.

    A run that is killed or interrupted loses what came after the last checkpoint: two minutes at most. A step that was
    interrupted is never kept.

    Raises:
        TrainingError: the folder holds a run of another recipe, seed or length; a loss or a score is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    device = torch.device(plan.device)
    network = recipe.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = {key: value.detach().clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(_groups(network, recipe), lr=recipe.learning_rate)
    told = {"recipe": recipe.name, "seed": plan.seed, "steps": plan.steps, "parameters": _count(network)}
    run = _Run(folder, told, network, averaged, optimizer)
    run.restore()
    if run.step:
        tell(f"{recipe.name}: continues from step {run.step} of {plan.steps}")
    began = saved = time.monotonic()
    losses: list[float] = []
    batches = iter(_loader(recipe, plan, run.step))
    while run.step < plan.steps:
        loss = _step(recipe, network, optimizer, next(batches), device, _rate(recipe, plan, run.step))
        if not math.isfinite(loss):
            raise TrainingError(f"{recipe.name}: the loss of step {run.step} is {loss}: lower the learning rate")
        losses.append(loss)
        run.step += 1
        _average(averaged, network, min(plan.ema, run.step / (run.step + 10)))
        now = time.monotonic()
        over = plan.minutes is not None and now - began > 60 * plan.minutes
        if run.step % plan.validate_every == 0 or run.step == plan.steps:
            figures = _validated(recipe, network, averaged)
            run.add(figures, float(np.mean(losses)), now - began)
            tell(f"{recipe.name} step {run.step}/{plan.steps}: loss {np.mean(losses):.4f}, {_told(figures)}")
            losses, saved = [], now
            run.save()
        elif over or now - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = now
            run.save()
        if over:
            break
    if not run.history:
        # The session was too short for a first validation. These figures do not belong to the run: an uninterrupted run
        # would not have them. For the same reason the weights are not kept as the best.
        figures = _validated(recipe, network, averaged)
        one = run.told_of(figures, float(np.mean(losses or [0.0])), time.monotonic() - began)
        return Trained(_plain(averaged), one, run.step, run.step >= plan.steps)
    best = max(run.history, key=lambda one: one["score"])
    return Trained(load_file(folder / BEST), best, run.step, run.step >= plan.steps, run.history)


@dataclass(slots=True)
class _Run:
    """One run as it is stored in its folder."""

    folder: Path
    told: dict[str, Any]
    network: nn.Module
    averaged: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def restore(self) -> None:
        if not (self.folder / STATE).exists():
            return
        state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        if state["told"] != self.told:
            raise TrainingError(
                f"expected a run of {self.told} in {self.folder}, found one of {state['told']}: "
                "name another folder, or the same recipe, seed and steps"
            )
        tensors = load_file(self.folder / state["tensors"])
        self.network.load_state_dict(_of(tensors, "network."))
        for key, value in _of(tensors, "averaged.").items():
            self.averaged[key].copy_(value)
        moments = self.optimizer.state_dict()
        moments["state"] = {
            int(number): {name: tensors[f"moments.{number}.{name}"] for name in names}
            for number, names in state["moments"].items()
        }
        self.optimizer.load_state_dict(moments)
        torch.set_rng_state(tensors["random"])
        self.step, self.history = state["step"], state["history"]

    def save(self) -> None:
        """Writes the tensors under a new name first, then the small file that says which tensors are current."""
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"averaged.{key}": value for key, value in self.averaged.items()}
        tensors |= {f"moments.{n}.{name}": value for n, by_name in moments.items() for name, value in by_name.items()}
        tensors["random"] = torch.get_rng_state()
        name = f"{self.step:08d}-{CHECKPOINT}"
        _put(self.folder / name, lambda path: save_file(_plain(tensors), path))
        state = {
            "told": self.told,
            "step": self.step,
            "tensors": name,
            "moments": {str(number): list(by_name) for number, by_name in moments.items()},
            "history": self.history,
        }
        text = json.dumps(state, indent=1)
        _put(self.folder / STATE, lambda path: path.write_text(text, encoding="utf-8"))
        for old in self.folder.glob(f"*-{CHECKPOINT}"):
            if old.name != name:
                old.unlink()

    def told_of(self, figures: Mapping[str, float], loss: float, seconds: float) -> dict[str, float]:
        """One entry of the history. Raises TrainingError if the score is not finite: it could not be compared."""
        if not math.isfinite(figures["score"]):
            raise TrainingError(
                f"expected a number as the score of step {self.step}, got {_told(figures)}: some kind has nothing to "
                "test on; add files of more groups"
            )
        return {"step": self.step, "loss": loss, "seconds": round(seconds, 1), **figures}

    def add(self, figures: Mapping[str, float], loss: float, seconds: float) -> None:
        one = self.told_of(figures, loss, seconds)
        if not any(was["score"] >= one["score"] for was in self.history):
            _put(self.folder / BEST, lambda path: save_file(_plain(self.averaged), path))
        self.history.append(one)
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(one) + "\n")


def export(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes weights as fp16 safetensors; integers keep their type.

    Raises:
        TrainingError: a weight is not finite at half precision.
    """
    halved = {}
    for key, value in weights.items():
        halved[key] = value.half() if value.is_floating_point() else value
        if not torch.isfinite(halved[key]).all():
            raise TrainingError(f"expected weights below 65,504 (float16) in {key}: {float(value.abs().max())}")
    _put(path, lambda part: save_file(_plain(halved), part, dict(metadata)))


def _loader(recipe: Recipe, plan: Plan, first: int) -> Iterator[dict[str, Tensor]]:
    batches = _Batches(recipe, plan.seed, first, plan.steps)
    if not plan.workers:
        return (batches[at] for at in range(len(batches)))
    # Forked, so that gigabytes of material are shared and not copied.
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            num_workers=plan.workers,
            prefetch_factor=4,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # the default one is also dropout's
            worker_init_fn=_one_thread,
        )
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _step(
    recipe: Recipe,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    device: torch.device,
    rate: float,
) -> float:
    network.train()
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
        loss = recipe.loss(network, moved)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), recipe.largest_gradient)
    optimizer.step()
    return float(loss.detach())


def _rate(recipe: Recipe, plan: Plan, step: int) -> float:
    """Learning rate of a step: a linear warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / max(1, min(recipe.warmup_steps, plan.steps // 10)))
    return recipe.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


def _validated(recipe: Recipe, network: nn.Module, averaged: Mapping[str, Tensor]) -> dict[str, float]:
    """Figures of the averaged weights. The network keeps its own weights and torch its random state."""
    own = {key: value.detach().clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    network.load_state_dict(averaged)
    network.eval()
    with torch.inference_mode():
        figures = recipe.validate(network)
    network.load_state_dict(own)
    torch.set_rng_state(random)
    return {key: float(value) for key, value in figures.items()}


@torch.no_grad()
def _average(averaged: Mapping[str, Tensor], network: nn.Module, keep: float) -> None:
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            averaged[key].lerp_(value, 1 - keep)
        else:
            averaged[key].copy_(value)


def _groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups. Weights decay, biases and scales do not; parameters named in `slower` learn with its share."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            share = next((share for start, share in recipe.slower.items() if name.startswith(start)), 1.0)
            groups.setdefault((share, recipe.weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return [{"params": found, "share": share, "weight_decay": decay} for (share, decay), found in groups.items()]


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, no two sharing memory."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}


def _told(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in figures.items())


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Writes the file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)
