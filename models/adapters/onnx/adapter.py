"""`onnx:FILE`: runs an ONNX model on onnxruntime, with a small JSON file beside it (settings.py).

The session is made from checked bytes: no external data, no plug-ins, no loops (file_check.py). onnxruntime gets no
library of custom operators. On CUDA it uses the CUDA provider if onnxruntime has one (`onnxruntime-gpu`); else it uses
the CPU and logs a warning. What remains: a graph may still ask for more memory or time than there is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base import Detector, DetectorSpec
from ...batches import dtype_of
from ...weights.files import Weights, WeightsError
from ..detector_spec import describe_settings, files_beside
from ..items import Rows, SettingsDetector, check_row_shape
from .file_check import check_onnx

ARCHITECTURE = "ONNX graph"
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(bfloat16)": torch.bfloat16}
_NOWHERE = "/nonexistent"
_log = logging.getLogger(__name__)


def files_of(reference: str, cache: Path) -> dict[str, str]:
    """The model (`weights`) and the JSON file beside it (`settings`): FILE.onnx.json or FILE.json.

    Raises:
        WeightsError: one of them is missing or too large. The message says what to do.
    """
    return files_beside(reference, "onnx", (".onnx",), "torch.onnx.export")


def describe(name: str, weights: Weights) -> DetectorSpec:
    """The spec that the settings describe.

    Raises:
        WeightsError: the settings are not valid.
    """
    return describe_settings(name, weights, ARCHITECTURE)[0]


def make(spec: DetectorSpec, weights: Weights) -> Detector:
    return OnnxDetector(spec, weights, describe_settings(spec.name, weights, ARCHITECTURE)[1])


class OnnxDetector(SettingsDetector):
    """A model that runs in an onnxruntime session."""

    def build_network(self) -> Rows:
        name = Path(self.weights.files["weights"].path).name
        data = self.weights.read("weights")
        check_onnx(data, name)
        session = open_session(data, name, self.device)
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise WeightsError(f"{name}: expected a model of one input, got {[i.name for i in inputs][:5]}")
        (taken,) = inputs
        wanted = dtype_of(self.settings.precision)
        if _TYPES.get(taken.type) != wanted:
            raise WeightsError(
                f"{name}: its settings say 'precision' {self.settings.precision!r}, but its input {taken.name!r:.80} "
                f"is {taken.type}"
            )
        if wanted == torch.bfloat16:
            raise WeightsError(f"{name}: bfloat16 input cannot be given to onnxruntime: export it with float32 input")
        shape = tuple(side if isinstance(side, int) and side > 0 else None for side in taken.shape)
        batch = check_row_shape(shape, self.settings, name)[0]
        return SessionRows(session, batch, wanted)


def open_session(data: bytes, name: str, device: torch.device) -> Any:
    """An onnxruntime session from checked bytes, with as many threads as torch has.

    Raises:
        WeightsError: onnxruntime cannot load the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors arrive as exceptions
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders need the cores
    # `check_onnx` refuses external data. If it missed any, onnxruntime would look for it in a folder that is not there.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": str(device.index or 0), "use_tf32": "0"}))
        else:
            _log.warning("%s runs on the CPU: this onnxruntime has no CUDA provider (install onnxruntime-gpu)", name)
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnxruntime has a class for each error code and no common base class
        message = " ".join(str(error).split())
        raise WeightsError(f"expected an ONNX model that onnxruntime can run in {name}: {message[:300]}") from error


class SessionRows(Rows):
    """Runs rows in a session. The session's first output is the answer."""

    def __init__(self, session: Any, batch: int | None, dtype: torch.dtype) -> None:
        super().__init__(batch or 1, batch, dtype)
        self.session = session
        self.input_name = session.get_inputs()[0].name
        self.output_name = session.get_outputs()[0].name

    def run(self, batch: Tensor) -> Tensor:
        try:
            (answers,) = self.session.run([self.output_name], {self.input_name: batch.cpu().numpy()})
        except Exception as error:
            message = str(error)
            if (
                "Failed to allocate memory" in message
                or "CUDA_ERROR_OUT_OF_MEMORY" in message
                or "out of memory" in message
            ):
                raise torch.OutOfMemoryError(message[:500]) from error  # the caller then halves the batch
            raise
        return torch.from_numpy(answers).to(batch.device)
