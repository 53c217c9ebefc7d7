"""The state of an interrupted training, in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cmdiad_runtime.errors import OutputError
from cmdiad_train import tensor_files
from cmdiad_train.training.log import Epoch

Weights = dict[str, Tensor]
"""State of a module by key."""


@dataclass(frozen=True)
class Checkpoint:
    """The file that stores a training after each epoch.

    Attributes:
        path: Safetensors file.
        identity: Text that two trainings share only if one may continue the other, for example a digest of the
            samples and options.
    """

    path: Path
    identity: str

    def save(self, module: nn.Module, optimiser: torch.optim.Optimizer, log: list[Epoch], best: Weights | None) -> None:
        """Write the whole state atomically.

        Args:
            module: Module in training.
            optimiser: Optimiser of the module.
            log: Finished epochs.
            best: Weights of the best epoch, None if they are not kept.

        Raises:
            OutputError: The disk is full, or writing failed otherwise.
        """
        state = {f"module.{key}": value for key, value in module.state_dict().items()}
        state |= {f"best.{key}": value for key, value in (best or {}).items()}
        for i, slot in optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{i}.{key}": torch.as_tensor(value) for key, value in slot.items()}
        state["log"] = torch.tensor([(e.loss, e.validation, e.learning_rate) for e in log], dtype=torch.float64)
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        metadata = {"identity": self.identity, "crc32": tensor_files.checksum(tensors)}
        tensor_files.save(self.path, tensors, metadata)

    def restore(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[list[Epoch], Weights]:
        """Load the stored state into a module and an optimiser.

        Returns:
            The finished epochs and the weights of the best one. Without a file the log is empty and the weights are
            those of the module as it is.

        Raises:
            OutputError: The file is damaged, or belongs to another training.
        """
        if not self.path.exists():
            return [], weights_of(module)
        state = self._read()
        module.load_state_dict(_with_prefix(state, "module."))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _with_prefix(state, "optimiser.").items():
            index, _, name = key.partition(".")
            slots.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
        return [Epoch(*row) for row in state["log"].tolist()], _with_prefix(state, "best.")

    def _read(self) -> dict[str, Tensor]:
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        except (OSError, SafetensorError) as error:
            raise self._unusable(str(error).splitlines()[0]) from error
        checksum = tensor_files.checksum(state)
        if metadata.get("crc32", checksum) != checksum:  # Earlier versions wrote none.
            raise self._unusable("a damaged file")
        if metadata.get("identity") != self.identity:
            raise self._unusable("the checkpoint of a training with other options or other samples")
        return state

    def _unusable(self, problem: str) -> OutputError:
        return OutputError(
            self.path,
            found=problem,
            expected="the checkpoint of this training",
            action="repeat the command with its earlier options, choose another --out, or remove this file",
        )


def weights_of(module: nn.Module) -> Weights:
    """Return a copy of the state of a module, on its device."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
