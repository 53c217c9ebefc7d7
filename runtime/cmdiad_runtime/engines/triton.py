"""Engine that runs a graph on a Triton server: preprocessing stays at the line, prepared inputs travel by gRPC or HTTP.

A server is another machine, so its model can change between two samples. The engine therefore names model and version
in every request, and checks in every answer that exactly this model answered. After every answer it reads the number
of inferences since the model was loaded: that number must have risen by those of this engine. If it has fallen, the
server or the model was started again. Such a model has not passed the self-test, and the engine refuses every further
sample until it is opened again.

Other lines may raise the number again while this line waits. If they could have made that many inferences since the
last check, and after a lost connection or an inference that was not counted, the engine therefore also repeats its
first inference, a golden sample of the self-test, and compares the outputs before it returns those of the sample.
"""

from __future__ import annotations

import math
import time
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines._server_client import Deadline, Expectations, ServerClient
from cmdiad_runtime.engines._triton_grpc import GrpcClient
from cmdiad_runtime.engines._triton_http import HttpClient
from cmdiad_runtime.engines._triton_shared_memory import SharedTensors
from cmdiad_runtime.engines.served_model import VERSION, ServedModel
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import EngineError, NoAnswerError

_OPENING_S = 5.0
"""Seconds within which a server must answer when the engine is opened."""
_CLOSING_S = 0.5
_LARGEST_RATE = 5000.0
"""Inferences of one model per second that no server exceeds; a graph of a detector takes a millisecond or more."""
_COUNTING_S = 0.001
"""Pause between two questions for the number of inferences: a server may count shortly after it has answered."""
_SAME_SHARE = 0.01
"""Largest difference of a repeated output, as a share of its largest value: instances may run on different devices."""


class TritonEngine:
    """A model on a Triton server; create one with `open`.

    Attributes:
        identity: Server with version and address, model with version, and the graph's hash.
        description: Same as `identity`, and "shared memory" if the tensors pass through it.
    """

    def __init__(self, model: ServedModel, options: ServerOptions) -> None:
        self._model, self._options = model, options
        self._expectations = Expectations(options, model)
        self._shared = SharedTensors(model, self._expectations) if options.shared_memory else None
        self._client: ServerClient | None = None
        self._closed = False
        self._problem: EngineError | None = None
        self._first: tuple[Arrays, Arrays] | None = None
        self._proven_s = -math.inf
        self._uncounted = 0
        deadline = Deadline(_OPENING_S)
        client = self._new_client()
        try:
            self._server = client.server(deadline)
            self._config = client.check_model(deadline)
            self._count = client.inference_count(deadline)
        except EngineError:
            client.close()
            raise
        self._client = client
        graph = f"graph {model.graph_sha256[:12]}"
        self.identity = f"{self._server} at {options.address}, model {model.name} version {VERSION}, {graph}"
        self.description = self.identity + (", shared memory" if options.shared_memory else "")

    @staticmethod
    def open(model: ServedModel, options: ServerOptions) -> TritonEngine:
        """Connect to a server and check that the loaded model is the bundle's.

        Args:
            model: Model that the server must have loaded.
            options: Address of the server, and settings of the connection.

        Raises:
            NoAnswerError: The server is away.
            EngineError: The package tritonclient is missing, the model is not loaded, or is another one.
        """
        return TritonEngine(model, options)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the graph on the server within the time limit; see `Engine.run`.

        Raises:
            NoAnswerError: The server is away, or did not answer in time. The next run connects again.
            EngineError: See `Engine.run`; or the server was started again, or answered with another model, name or
                shape. Every further run fails.
        """
        if self._closed:
            raise EngineError(self._model.name, found="a closed engine", expected="an open one", action="open it again")
        if self._problem is not None:
            raise self._problem
        self._model.check_inputs(inputs)
        deadline = Deadline(self._options.timeout_s)
        try:
            client = self._connected(deadline)
            outputs = self._infer(client, inputs, deadline)
            answered_s, count = time.monotonic(), self._count
            self._check_same_load(client, deadline)
            if self._first is not None and not self._proves_load(count):
                self._repeat_first(client, *self._first, deadline)
                self._check_same_load(client, deadline)
        except NoAnswerError:
            self._disconnect()
            raise
        except EngineError as error:
            self._problem = error
            self._disconnect()
            raise
        self._proven_s = answered_s
        if self._first is None:
            self._first = _copied(inputs), _copied(outputs)
        return outputs

    def _connected(self, deadline: Deadline) -> ServerClient:
        """Return the connection. If it was closed or lost, open another one to the same server and loaded model."""
        if self._client is not None and self._client.lost:
            self._disconnect()
        if self._client is None:
            client = self._new_client()
            try:
                server, config = client.server(deadline), client.check_model(deadline)
                if (server, config) != (self._server, self._config):
                    raise self._changed("another server or configuration than at the self-test")
                self._check_same_load(client, deadline)
            except EngineError:
                client.close()
                raise
            self._client = client
            self._proven_s = -math.inf
        return self._client

    def _proves_load(self, count: int) -> bool:
        """Return True if a load that is newer than the last proof could not have made this number of inferences by now.

        Call this after the server has reported a larger number, because other lines use the model during that request.
        """
        return count > _LARGEST_RATE * (time.monotonic() - self._proven_s)

    def _repeat_first(self, client: ServerClient, inputs: Arrays, expected: Arrays, deadline: Deadline) -> None:
        """Raise EngineError if the model has other outputs for the first inputs than at the self-test."""
        outputs = self._infer(client, inputs, deadline)
        for name, array in expected.items():
            allowed = _SAME_SHARE * np.abs(array).max(initial=0)
            if not np.all(np.abs(outputs[name] - array) <= allowed):  # False for NaN
                raise self._changed(f"other values of {name} for the first sample of the self-test than before")

    def _infer(self, client: ServerClient, inputs: Arrays, deadline: Deadline) -> dict[str, npt.NDArray[Any]]:
        if self._shared is None:
            outputs = client.infer(inputs, deadline)
        else:  # `ServerOptions` accepts shared memory with gRPC only.
            outputs = self._shared.infer(cast(GrpcClient, client), inputs, deadline)
        self._uncounted += 1
        return outputs

    def _check_same_load(self, client: ServerClient, deadline: Deadline) -> None:
        """Check that the server has counted the inferences of this engine since the last check.

        Raises:
            NoAnswerError: The connection was lost, or the inferences are not counted by the deadline.
            EngineError: The server has loaded the model again.
        """
        if client.lost:
            raise self._expectations.no_answer("the connection was lost")
        while (count := client.inference_count(deadline)) < self._count + self._uncounted:
            if count < self._count:
                raise self._changed(f"{count} inferences after {self._count}: the model was loaded again")
            if deadline.passed:
                raise self._expectations.no_answer("the server has not counted the inference")
            time.sleep(_COUNTING_S)
        self._count, self._uncounted = count, 0

    def _changed(self, problem: str) -> EngineError:
        return EngineError(
            f"{self._options.address}, model {self._model.name}",
            found=problem,
            expected="the loaded model that has passed the self-test",
            action="open the bundle again, which repeats the self-test",
        )

    def _new_client(self) -> ServerClient:
        if self._options.http:
            return HttpClient(self._options, self._model)
        return GrpcClient(self._options, self._model)

    def _disconnect(self) -> None:
        """Drop the connection and the shared memory, into which a late answer may still be written.

        An inference that was not counted is forgotten: with a new connection the first inference is repeated, and
        that one must be counted.
        """
        client, self._client = self._client, None
        self._uncounted = 0
        if self._shared is not None:
            self._shared.close()
        if client is not None:
            client.close()

    def close(self) -> None:
        """Close the connection; see `Engine.close`."""
        self._closed = True
        if self._shared is not None:
            self._shared.close()
            if self._client is not None:
                self._shared.unregister(cast(GrpcClient, self._client), Deadline(_CLOSING_S))
        self._disconnect()


def _copied(arrays: Arrays) -> Arrays:
    return {name: np.array(array) for name, array in arrays.items()}
