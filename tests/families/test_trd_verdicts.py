"""No bundle of reverse distillation says OK about pictures and clouds that do not show the part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cmdiad import Inspector, Sample
from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.fit.fit import fit
from cmdiad_train.runs.run import load_run
from helpers import sample_files, tiny_trd_recipe
from lanes import long
from trays import FURTHER, PLACES, make_trays, tray

Array = npt.NDArray[np.generic]
CASES = [("rd", "rgb"), ("mtfi-trd", "xyz"), long("rd", "both")]


def half(array: Array, value: float) -> Array:
    """Return the array with a value in its left half."""
    changed = array.copy()
    changed[:, : array.shape[1] // 2] = value  # type: ignore[call-overload]
    return changed


def plane(xyz: Array) -> Array:
    """Return a cloud of the support alone."""
    changed = xyz.copy()
    changed[..., 2] = np.where(xyz[..., 2] > 0, np.nanmax(xyz[..., 2]), 0)
    return changed


IMAGES: dict[str, Callable[[Array], Array]] = {
    "black": np.zeros_like,
    "white": lambda rgb: np.full_like(rgb, 255),
    "support alone": lambda rgb: np.full_like(rgb, int(np.median(rgb[:8].astype(np.float64)))),
    "noise": lambda rgb: np.random.default_rng(0).integers(0, 256, rgb.shape, dtype=np.uint8),
    "half black": lambda rgb: half(rgb, 0),
}
CLOUDS: dict[str, Callable[[Array], Array]] = {
    "zeros": np.zeros_like,
    "NaN": lambda xyz: np.full_like(xyz, np.nan),
    "support alone": plane,
    "half NaN": lambda xyz: half(xyz, np.nan),
    "half zeros": lambda xyz: half(xyz, 0),
}


@pytest.mark.parametrize(("variant", "modality"), CASES)
def test_what_does_not_show_the_part_is_never_ok(
    data: Path, fitted: Callable[..., Path], bundle_of: Callable[..., Path], variant: str, modality: str
) -> None:
    bundle = bundle_of(fitted(variant, modality))
    with Image.open(sample_files(data, "test", "good", "rgb")[0]) as image:
        rgb = np.asarray(image.convert("RGB"))
    xyz: Array = read_xyz(sample_files(data, "test", "good", "xyz")[0])
    pairs = [(f"{name} image", change(rgb), xyz) for name, change in IMAGES.items() if modality != "xyz"]
    pairs += [(f"{name} cloud", rgb, change(xyz)) for name, change in CLOUDS.items() if modality != "rgb"]
    samples = [
        Sample(name, rgb=image if modality != "xyz" else None, xyz=cloud if modality != "rgb" else None)
        for name, image, cloud in pairs
    ]
    # A camera that delivers noise is found by the check of that name alone.
    for off in ((), tuple(check for check in CHECKS if check != "noise")):
        with Inspector.open(bundle, OpenOptions(ignore_checks=off, frozen_after=0)) as inspector:
            assert {sample.name: inspector.inspect(sample).verdict for sample in samples} == {
                sample.name: "NG" for sample in samples
            }


@pytest.mark.long
@pytest.mark.parametrize(("variant", "modality"), [("rd", "both"), ("mtfi-rd", "rgb")])
def test_another_number_of_parts_is_never_ok(tmp_path: Path, variant: str, modality: str) -> None:
    data, bundle = make_trays(tmp_path / "data", count=3), tmp_path / "trd.cmdiad"
    recipe = replace(tiny_trd_recipe(variant, modality), parts=3, view="auto")
    fit(data, None, recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.calibration.samples == 4  # one score for each held-out tray
    write_bundle(run, bundle, ExportOptions("fp32"), SILENT)
    with Inspector.open(bundle, OpenOptions(ignore_checks=CHECKS)) as inspector:
        for places in (PLACES[:2], [*PLACES[:3], FURTHER], []):
            drawn = tray(7002, places=places)
            inspection = inspector.inspect(Sample("tray", rgb=drawn.rgb, xyz=drawn.xyz if modality == "both" else None))
            assert (inspection.verdict, inspection.inspected) == ("NG", False)
