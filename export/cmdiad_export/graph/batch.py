"""Export a detector as one graph that runs several samples at once, in addition to the graph for one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir
from torch import Tensor, nn

from cmdiad_export.graph.storage import PAGE
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.engines.searched_cells import LEAST
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.files import atomic_write
from cmdiad_train.detectors.family import TrainedDetector


class Batch(nn.Module):
    """A detector of several samples. Arguments and results of one sample follow those of the sample before.

    Args:
        detector: Detector of one sample.
        size: Number of samples.
    """

    def __init__(self, detector: TrainedDetector, size: int) -> None:
        super().__init__()
        self.detector, self.size = detector, size

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return score and map of the first sample, then those of the second and so on; see `TrainedDetector`."""
        count = len(inputs) // self.size
        samples = [inputs[start : start + count] for start in range(0, len(inputs), count)]
        return tuple(result for results in self.detector.forward_each(samples) for result in results)


def require_batch_fits(detector: TrainedDetector, inputs: Collection[str], size: int) -> None:
    """Raise EngineError unless there is a graph of a detector for a number of samples.

    Args:
        detector: Detector of one sample.
        inputs: Names of its network inputs.
        size: Number of samples.
    """
    if "weights" in inputs:
        raise EngineError(
            "--batch",
            found="a detector of groups of points, which are computed one sample at a time",
            expected="a detector of images, such as --geometry normals",
            action="leave --batch out",
        )
    # The examples of lists of searched cells have different lengths, see `Ports.of`, and at least LEAST cells.
    most = min((grid**2 - LEAST for grid in detector.searched_grids.values()), default=size)
    if size > most:
        raise EngineError(
            "--batch",
            found=f"{size} samples, and features on a grid of {min(detector.searched_grids.values())} cells per side",
            expected=f"at most {most} samples",
            action="choose a smaller --batch, or leave --batch out",
        )


def save_with_weights_of(model: ir.Model, path: Path, first: Path) -> None:
    """Write a graph that shares the weights file of another graph; all other arrays are stored inside.

    Args:
        model: Graph to write; equal arrays are replaced by references.
        path: File to write, in the folder of the other graph.
        first: The other graph, with or without a weights file.

    Raises:
        OutputError: The file cannot be written.
    """
    if weights_path(first).exists():
        stored = [value.const_value for value in ir.load(first).graph.initializers.values()]
        shared = {_content(tensor): tensor for tensor in stored if isinstance(tensor, ir.ExternalTensor)}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            same = None if tensor is None or tensor.nbytes < PAGE else shared.get(_content(tensor))
            if same is not None:
                value.const_value = _renamed(same, str(value.name))
    with atomic_write(path) as temporary:
        ir.save(model, temporary, format="protobuf")


def _content(tensor: ir.TensorProtocol) -> tuple[str, tuple[object, ...], str]:
    """Return element type, shape and SHA-256 of an array."""
    return tensor.dtype.name, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest()


def _renamed(tensor: ir.ExternalTensor, name: str) -> ir.ExternalTensor:
    """Return the same array of the same file under another name."""
    place = tensor.location, tensor.offset, tensor.length, tensor.dtype
    return ir.ExternalTensor(*place, shape=tensor.shape, name=name, base_dir=tensor.base_dir)
