"""Parity of networks, losses, gradients and optimiser steps with the published code, on arrays in the repository."""

from __future__ import annotations

import pytest
import torch

import golden
from published_students import check_adam, check_losses, features, student

BATCH = slice(0, 2)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_loss_terms_and_gradients(mode: str) -> None:
    arrays = golden.small("reverse_distillation")
    module = student("r18", "rgb").double().train(mode == "train")
    check_losses(arrays, f"r18_{mode}_rgb", module, *features("r18", "rgb", arrays, BATCH, torch.float64))


def test_three_steps_of_adam() -> None:
    arrays = golden.small("reverse_distillation")
    batch = features("r18", "rgb", arrays, BATCH, torch.float64)
    check_adam(arrays, student("r18", "rgb").double(), *batch)
