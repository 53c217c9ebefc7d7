"""Pictures of samples, as graphs compute them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cmdiad_train.detectors.dsr3d.picture import picture_of
from cmdiad_train.recipe import Recipe
from cmdiad_train.recipe.dsr3d import Dsr3dRecipe


class OnUint8(TorchDispatchMode):
    """Keeps the names of operators whose first argument is uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(args[0], torch.Tensor) and args[0].dtype == torch.uint8:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_cast_of_an_image_comes_first() -> None:
    """TensorRT supports no other operator on uint8, so it could not build an engine."""
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with OnUint8() as seen:
        picture = picture_of(Recipe(Dsr3dRecipe(), modality="rgb", size=64), {"rgb": image})
    assert seen.names == ["_to_copy"]
    assert torch.equal(picture, image.permute(0, 3, 1, 2) / 255)
