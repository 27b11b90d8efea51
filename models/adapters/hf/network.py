"""Builds a network of transformers from verified bytes: the config as JSON, the tensors as safetensors, nothing else.

The class is looked up by name among transformers' own; code beside a model (`auto_map`) is never read. The config's
network is built on the `meta` device first, under a limit set by the file's own tensors, so that a config cannot ask
for more than its checkpoint holds. Then `from_pretrained(None, state_dict=…)` does what it does for a folder: it
handles renamed keys of older releases, parametrised weight norms and tied weights.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...weights.checkpoints import read_object, read_safetensors
from ...weights.files import Weights, WeightsError

Task = Literal["image", "video", "audio"]
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
UNSUPPORTED = {
    "timm_wrapper": "it needs timm, which deephotlink does not use: convert the network to ONNX and use onnx:FILE",
    "dinat": "it needs natten, which deephotlink does not use",
    "imagegpt": "it reads colour clusters, not pictures",
    "perceiver": "its inputs are not named as other models name them",
    "shieldgemma2": "it needs a text prompt beside the picture",
    "siglip2": "it reads patches that its own processor cuts",
    "wav2vec2-bert": "it reads spectrograms that its own feature extractor makes",
    "whisper": "it reads spectrograms of 30 s that its own feature extractor makes",
    "audio-spectrogram-transformer": "it reads spectrograms that its own feature extractor makes",
}
"""Classifiers of transformers that do not work here, and why."""
REFUSED = ("quantization_config", "fusion_config", "kernel_config", "transformers_weights", "use_pretrained_backbone")
"""Keys of a config that make transformers fetch or import something else."""
DROPPED = (
    *("auto_map", "attn_implementation", "experts_implementation", "name_or_path", "dtype", "torch_dtype"),
    *("output_attentions", "output_hidden_states"),
)
"""Keys that set the source of code, the precision or extra outputs, but never change the logits."""
MOST_LISTED = 50_000
"""Most labels or layers: transformers builds lists and objects of that length."""
LEAST_LIMIT = 1 << 20
MOST_TABLE = 1 << 25
"""Most positions times width: some networks fill tables of that size in plain Python before they have any weights."""
MOST_POSITIONS = 1 << 16
"""Most positions. Attention takes their square: two million keep a core busy for days. A film of 32 frames has
10,000."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A classifier of transformers, as its config describes it."""

    name: str
    """Name of the class, such as `ViTForImageClassification`."""
    task: Task
    config: Any
    """`PreTrainedConfig`."""


def read_architecture(data: bytes) -> Architecture:
    """The architecture that a `config.json` describes; nothing is built.

    Raises:
        WeightsError: it is not a classifier of transformers, or one that does not work here.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_json = read_object(data, "config.json")
    model_type, architectures = str(config_json.get("model_type")), config_json.get("architectures")
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise WeightsError(
            f'expected "architectures" as a list of names in config.json: got {repr(architectures)[:200]}'
        )
    works = _classifiers()
    known = [name for name in architectures if (model_type, name) in works]
    if not known:
        listed = ", ".join(sorted({name for type_, name in works if type_ not in UNSUPPORTED}))
        own = " (code beside a model is never run)" if "auto_map" in config_json else ""
        raise WeightsError(
            f"expected a classifier of transformers in config.json: got architectures {repr(architectures)[:200]} of "
            f"model_type {model_type[:60]!r}{own}; these work: {listed}"
        )
    if model_type in UNSUPPORTED:
        raise WeightsError(f"{known[0]} does not work here: {UNSUPPORTED[model_type]}")
    config_class = CONFIG_MAPPING[model_type]
    try:
        config = config_class.from_dict(_cleaned(config_json))
    except WeightsError:
        raise
    except Exception as error:  # a hostile config chooses what its reader raises
        raise WeightsError(f"expected a {config_class.__name__} in config.json: {_error_text(error)}") from error
    return Architecture(known[0], works[model_type, known[0]], config)


def build(architecture: Architecture, weights: Weights) -> nn.Module:
    """The network with its weights, float32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the tensors are not those of the config.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # missing tensors are reported in one line below
    tensors = read_tensors(weights)
    config = architecture.config
    elements = sum(tensor.numel() for tensor in tensors.values())
    model_class = getattr(transformers, architecture.name)
    try:
        _check_numbers(config.to_dict(), max(LEAST_LIMIT, elements))
        with _bounded(elements, len(tensors)):
            network, found = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"expected the weights of {architecture.name} in {ONE_FILE}: {_error_text(error)}"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise WeightsError(
            f"expected the weights of {architecture.name} in {ONE_FILE}: {len(missing)} are missing, {missing[:4]}; "
            "the file belongs to another network or has no trained classifier"
        )
    module: nn.Module = network.eval()
    return module


def read_tensors(weights: Weights) -> dict[str, Tensor]:
    """All tensors, from one file or from shards.

    Raises:
        WeightsError: a file is not safetensors, a shard is missing, or a name occurs twice.
    """
    if ONE_FILE in weights.files:
        return read_safetensors(weights.read(ONE_FILE), ONE_FILE)
    tensors: dict[str, Tensor] = {}
    for shard in shards_of(weights.read(INDEX)):
        if shard not in weights.files:
            raise WeightsError(f"expected the shard {shard} that {INDEX} names: it is not there")
        for name, tensor in read_safetensors(weights.read(shard), shard).items():
            if tensors.setdefault(name, tensor) is not tensor:
                raise WeightsError(f"expected each tensor once: {name[:200]} occurs again in {shard}")
    return tensors


def shards_of(index: bytes) -> list[str]:
    """The files that an index of shards names, each once.

    Raises:
        WeightsError: a name is not a plain file name, so it could point outside the model's folder.
    """
    named = read_object(index, INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise WeightsError(f'expected "weight_map" as an object of file names in {INDEX}: got {repr(named)[:200]}')
    shards = sorted(set(named.values()))
    for shard in shards:
        if not PLAIN_NAME.fullmatch(shard):
            raise WeightsError(
                f"expected names of .safetensors files in the same folder in {INDEX}: got {shard[:200]!r}"
            )
    return shards


def _classifiers() -> dict[tuple[str, str], Task]:
    """The task of every classifier in this release of transformers, by (model_type, class)."""
    from transformers.models.auto import modeling_auto as auto

    tasks: dict[Task, Mapping[str, Any]] = {
        "image": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "video": auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
        "audio": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    }
    return {
        (model_type, name): task
        for task, names in tasks.items()
        for model_type, classes in names.items()
        for name in ((classes,) if isinstance(classes, str) else classes)
    }


def _cleaned(value: Any, depth: int = 0) -> Any:
    """The config without keys that may lead elsewhere, at any depth."""
    if depth > 20:
        raise WeightsError("expected a config.json nested at most 20 deep")
    if isinstance(value, list):
        return [_cleaned(entry, depth + 1) for entry in value]
    if not isinstance(value, dict):
        return value
    for key, number in value.items():
        if isinstance(number, int) and number > MOST_LISTED and re.search(r"label|layer|depth|stage|block", key):
            raise WeightsError(f"config.json asks for {key} = {number:.3g}: at most {MOST_LISTED} work here")
    asked = [key for key in REFUSED if value.get(key)]
    if asked or value.get("use_timm_backbone") or isinstance(value.get("backbone"), str):
        raise WeightsError(
            f"config.json asks for {asked or 'a backbone from elsewhere'}, which would load code or weights from "
            "elsewhere: save the model without it"
        )
    return {k: _cleaned(v, depth + 1) for k, v in value.items() if k not in DROPPED and not k.startswith("_")}


def _check_numbers(config: Any, limit: int) -> None:
    """Raises WeightsError if the config has an integer or a table of positions that is too large.

    limit: the largest integer allowed, about the number of elements in the checkpoint.
    """
    flat = [config]
    while flat:
        value = flat.pop()
        if isinstance(value, Mapping):
            flat += value.values()
            positions, width = _table_of(value)
            if positions * width > MOST_TABLE or positions > MOST_POSITIONS:
                raise WeightsError(
                    f"config.json asks for {positions:.3g} positions of {width}: more than any network has"
                )
        elif isinstance(value, list | tuple):
            flat += value
        elif isinstance(value, int) and abs(value) > limit:
            raise WeightsError(
                f"config.json asks for a size of {value:.3g}, but its weights have at most {limit} elements"
            )


def _table_of(config: Mapping[str, Any]) -> tuple[float, float]:
    """(positions, width) of the position table of a transformer over patches."""

    def first(key: str) -> float:
        value = config.get(key)
        value = max(value, default=1) if isinstance(value, list | tuple) else value
        return float(value) if isinstance(value, int | float) and value > 0 else 1.0

    side = first("image_size") / first("patch_size")
    return max(1.0, side) ** 2 * first("num_frames") / first("tubelet_size"), first("hidden_size")


@contextmanager
def _bounded(elements: int, tensors: int) -> Iterator[None]:
    """Stops a network that grows well beyond its file's contents while it is built in this thread."""
    hooks = torch.nn.modules.module
    mine, seen = threading.get_ident(), {"parameter": 0, "buffer": 0, "module": 0}
    most = {"parameter": 2 * elements + LEAST_LIMIT, "buffer": 2 * elements + 64 * LEAST_LIMIT}
    most["module"] = 100 * tensors + 1000

    def count(what: str, amount: int) -> None:
        if threading.get_ident() == mine:
            seen[what] += amount
            if seen[what] > most[what]:
                raise WeightsError(
                    f"config.json asks for a far larger network than its weights: they have {elements} elements in "
                    f"{tensors} tensors"
                )

    handles = [
        hooks.register_module_parameter_registration_hook(
            lambda m, n, p: count("parameter", p.numel() if p is not None else 0)
        ),
        hooks.register_module_buffer_registration_hook(
            lambda m, n, b: count("buffer", b.numel() if b is not None else 0)
        ),
        hooks.register_module_module_registration_hook(lambda m, n, s: count("module", 1)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
