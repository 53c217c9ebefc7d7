"""Features of the training samples, and the cells at which image and cloud are compared."""

from __future__ import annotations

from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.detectors.cfm.detector import INPUT_NAMES
from cmdiad_train.detectors.cfm.features import CellFeatures, Extractors
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.training_features import FeatureCache, Features, Maps
from cmdiad_train.features import FeatureStore, extractor_digest
from cmdiad_train.recipe import Recipe, cfm_part


class TrainingFeatures:
    """Features of the training samples at the cells with points that no inspection mask ignores.

    Args:
        context: The training.
        store: Store of features, shared with other trainings.
        extractors: Frozen extractors, which move to the device of the training.
    """

    def __init__(self, context: FitContext, store: FeatureStore, extractors: Extractors) -> None:
        self._context, self._extractors = context, extractors.to(context.device)
        kept = None if context.kept is None else marked_cells(context.kept[0], extractors.grid)
        self._kept = None if kept is None else kept.to(context.device)
        cache, digest = FeatureCache(context, store), features_digest(extractors, context.recipe)
        keys = [cache.key(digest, files, "both") for files in context.train]
        self._features = cache.computed("extract features", Features(keys, self._compute, context.device))

    def _compute(self, index: int) -> Maps:
        """Return features of cloud and image, `[1, C, grid, grid]` each, and the cells with points, 0 or 1."""
        inputs = as_tensors(self._context.samples.prepared(self._context.train[index]).inputs)
        surface, image = (inputs[name].to(self._context.device) for name in INPUT_NAMES)
        rows = (*self._extractors(surface, image), self._extractors.cells_with_points(surface)[:, None].float())
        grid = self._extractors.grid
        return [values.T.reshape(1, -1, grid, grid) for values in rows]

    def of(self, chosen: list[int]) -> CellFeatures:
        """Return the features of all compared cells of the samples with these indices, on the device.

        Raises:
            RunError: The inspection mask ignores every cell of the samples.
        """
        xyz, rgb, points = (_rows(maps) for maps in self._features.batch(chosen))
        compared = points[:, 0] > 0
        if self._kept is not None:
            compared &= self._kept.repeat(len(chosen))
            _require_cells(compared)
        return CellFeatures(xyz[compared], rgb[compared])


def features_digest(extractors: Extractors, recipe: Recipe) -> str:
    """Return the digest of the extractors for the keys of stored features.

    The weights do not state stages, layers and grid.
    """
    rgb = cfm_part(recipe).rgb
    fields = {"stages": rgb.stages, "layers": rgb.layers, "grid": extractors.grid}
    return extractor_digest(extractors, {"family": "cfm", **fields})


def _rows(maps: Tensor) -> Tensor:
    """Return maps `[B, C, grid, grid]` as rows `[B·grid², C]`."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


def _require_cells(compared: Tensor) -> None:
    if not bool(compared.any()):
        raise RunError(
            "--mask",
            found="a region that leaves no place of a part to inspect",
            expected="a part outside the region",
            action="Draw the region again, or leave out --mask",
        )
