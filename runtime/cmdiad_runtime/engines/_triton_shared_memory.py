"""`SharedTensors`: pass the tensors of a sample, and the outputs, to a Triton server through shared memory.

The memory is one region of this machine that client and server map. Before each inference the part for the outputs
is filled with bytes that are NaN, so that an answer without content never repeats the outputs of an earlier sample.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines._server_client import Deadline, Expectations
from cmdiad_runtime.engines._triton_grpc import GrpcClient
from cmdiad_runtime.engines.served_model import ServedModel, ServedTensor
from cmdiad_runtime.errors import EngineError

_ALIGNMENT = 64
_NAN_BYTE = 0xFF


class SharedTensors:
    """Transport of tensors through one region of shared memory.

    The region is replaced by a larger one if a sample needs more bytes than all samples before.

    Args:
        model: Model whose tensors are sent.
        expectations: Maker of the errors.

    Raises:
        EngineError: An output has no fixed shape, so its size is not known before the inference.
    """

    def __init__(self, model: ServedModel, expectations: Expectations) -> None:
        self._model, self._expectations = model, expectations
        for name, port in model.outputs.items():
            if None in port.shape:
                raise EngineError(
                    model.name,
                    found=f"the output {name} {port} without a fixed shape",
                    expected="fixed shapes for shared memory",
                    action="set CMDIAD_SERVER_SHARED_MEMORY to 0",
                )
        self._region: Any = None
        self._name = ""
        self._size = 0
        self._removed: list[str] = []

    def infer(self, client: GrpcClient, inputs: Arrays, deadline: Deadline) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs for these inputs; see `ServerClient`."""
        import tritonclient.grpc as library
        from tritonclient.utils import shared_memory

        places, size = self._places(inputs)
        if size > self._size:
            self._replace(client, size, deadline)
        sent, requested = [], []
        for name, port in self._model.inputs.items():
            shared_memory.set_shared_memory_region(self._region, [inputs[name]], offset=places[name])
            tensor = library.InferInput(name, list(inputs[name].shape), port.datatype)
            tensor.set_shared_memory(self._name, inputs[name].nbytes, offset=places[name])
            sent.append(tensor)
        for name, port in self._model.outputs.items():
            empty = np.full(_bytes(port), _NAN_BYTE, np.uint8)
            shared_memory.set_shared_memory_region(self._region, [empty], offset=places[f"{name}/output"])
            output = library.InferRequestedOutput(name)
            output.set_shared_memory(self._name, _bytes(port), offset=places[f"{name}/output"])
            requested.append(output)
        response = client.infer_tensors(sent, requested, deadline).get_response()
        stated = {output.name: (output.datatype, tuple(output.shape)) for output in response.outputs}
        outputs = {}
        for name, port in self._model.outputs.items():
            if stated[name] != (port.datatype, port.dims):
                raise self._expectations.wrong_output(name, f"{stated[name][0]} {list(stated[name][1])}")
            place = places[f"{name}/output"]
            outputs[name] = np.array(
                shared_memory.get_contents_as_numpy(self._region, port.dtype, list(port.dims), offset=place)
            )
        return outputs

    def _places(self, inputs: Arrays) -> tuple[dict[str, int], int]:
        """Return the offset of each tensor, and the size of the region."""
        sizes = {name: inputs[name].nbytes for name in self._model.inputs}
        sizes |= {f"{name}/output": _bytes(port) for name, port in self._model.outputs.items()}
        places, end = {}, 0
        for name, size in sizes.items():
            places[name] = end
            end += -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        return places, end

    def _replace(self, client: GrpcClient, size: int, deadline: Deadline) -> None:
        from tritonclient.utils import shared_memory

        self.close()
        self.unregister(client, deadline)
        self._name, self._size = f"cmdiad-{os.getpid()}-{secrets.token_hex(8)}", size
        self._region = shared_memory.create_shared_memory_region(self._name, self._name, size, create_only=True)
        key = f"/{self._name}"
        client.call("register_system_shared_memory", deadline, name=self._name, key=key, byte_size=size)

    def unregister(self, client: GrpcClient, deadline: Deadline) -> None:
        """Ask the server to forget the regions that were removed; a server that was started again has none."""
        for name in self._removed:
            with suppress(EngineError):
                client.call("unregister_system_shared_memory", deadline, name=name)
        self._removed.clear()

    def close(self) -> None:
        """Remove the region. Idempotent."""
        from tritonclient.utils import shared_memory

        region, self._region, self._size = self._region, None, 0
        if region is not None:
            self._removed.append(self._name)
            shared_memory.destroy_shared_memory_region(region)


def _bytes(port: ServedTensor) -> int:
    return prod(port.dims) * np.dtype(port.dtype).itemsize
