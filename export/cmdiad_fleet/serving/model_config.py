"""Create the file `config.pbtxt` of a model for a Triton server from the messages of `tritonclient`.

The graphs of cmdiad take one part per inference, so `max_batch_size` is 0 and there is no dynamic batcher. Triton has
queue timeouts and request priorities only inside the dynamic batcher: a line limits its waiting time itself, and the
priority of a model is that of the rate limiter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy.typing as npt

from cmdiad_runtime.engines.served_model import GRAPH_PARAMETER, VERSION, ServedModel, ServedTensor
from cmdiad_runtime.support.records import require, require_integer

if TYPE_CHECKING:
    from collections.abc import Iterable

Device = Literal["auto", "gpu", "cpu"]
DEVICES: tuple[Device, ...] = get_args(Device)
"""Devices of an instance; "auto" is a GPU if the server has one."""
BUNDLE_PARAMETER = "cmdiad_bundle"
WARM_UP = "warmup"
"""Folder in which Triton looks for the tensors of a warm-up."""

_MOST_INSTANCES = 64
_LOWEST_PRIORITY = 1000


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Number, device and rank of the instances of a model, and the file that they run.

    Attributes:
        instances: Number of instances, which run at the same time.
        device: Device of the instances.
        priority: Rank of the model in the server's rate limiter, 1 for the highest: a model of priority 2 gets half
            as many turns. None for no rank.
        plan: True to serve the bundle's TensorRT engine instead of the graph.

    Raises:
        RecordError: A value is wrong, or a TensorRT engine is placed on a CPU.
    """

    instances: int = 1
    device: Device = "auto"
    priority: int | None = None
    plan: bool = False

    def __post_init__(self) -> None:
        require_integer(self, "instances", 1, _MOST_INSTANCES)
        require(self.device in DEVICES, self, "device", f"one of {', '.join(DEVICES)}")
        if self.priority is not None:
            require_integer(self, "priority", 1, _LOWEST_PRIORITY)
        require(not (self.plan and self.device == "cpu"), self, "device", "a GPU for a TensorRT engine")


def model_config(
    model: ServedModel, bundle_name: str, placement: Placement, warm_up: Mapping[str, npt.NDArray[Any]]
) -> str:
    """Return the content of `config.pbtxt`.

    Args:
        model: Name, inputs and outputs.
        bundle_name: Name of the detector, for people.
        placement: Instances of the model.
        warm_up: Inputs of one sample, which the server runs when it loads the model, from the files `warmup/NAME`.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as messages

    config = messages.ModelConfig(
        name=model.name,
        backend="tensorrt" if placement.plan else "onnxruntime",
        default_model_filename=model_filename(placement),
        max_batch_size=0,
        input=_tensors(messages.ModelInput, model.inputs),
        output=_tensors(messages.ModelOutput, model.outputs),
        version_policy=messages.ModelVersionPolicy(specific={"versions": [int(VERSION)]}),
    )
    kind = f"KIND_{'GPU' if placement.plan else placement.device.upper()}"
    group = config.instance_group.add(count=placement.instances, kind=kind)
    if placement.priority is not None:
        group.rate_limiter.priority = placement.priority
    sample = config.model_warmup.add(name="golden", batch_size=1)
    for name, array in warm_up.items():
        entry = sample.inputs[name]
        entry.data_type, entry.input_data_file = f"TYPE_{model.inputs[name].datatype}", name
        entry.dims.extend(array.shape)
    config.parameters[BUNDLE_PARAMETER].string_value = bundle_name
    config.parameters[GRAPH_PARAMETER].string_value = model.graph_sha256
    text: str = text_format.MessageToString(config)
    return text


def model_filename(placement: Placement) -> str:
    """Return the name of the file or folder that the server loads."""
    return "model.plan" if placement.plan else "model.onnx"


def _tensors(message: Any, tensors: Mapping[str, ServedTensor]) -> Iterable[Any]:
    return [
        message(name=name, data_type=f"TYPE_{tensor.datatype}", dims=tensor.dims) for name, tensor in tensors.items()
    ]
