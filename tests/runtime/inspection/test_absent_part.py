"""An empty table is NG for the absent part, not for the light or the colour that the part took with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.engines.onnx_runtime import OnnxRuntimeEngine
from cmdiad_runtime.envelope.examine import examine
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.ready import Ready, make_ready
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.strategy import part_geometry
from cmdiad_runtime.readers.reading import read_files
from cmdiad_runtime.sample import Sample
from helpers import make_data, sample_files

Exported = Callable[..., Path]
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "mvtec3d" / "cable_gland" / "train" / "good" / "rgb"
VIEWS: dict[str, ViewName] = {"rgb": "part", "both": "each"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of good parts of the demo's data."""
    folder = make_data(tmp_path_factory.mktemp("gears") / "parts", train=8)
    return sample_files(folder, "train", "good", "rgb")


def _read(image: Path, modality: str) -> Sample:
    cloud = image.parent.parent / "xyz" / f"{image.stem}.tiff"
    return read_files(image.stem, image, cloud if modality == "both" else None)


def _emptied(sample: Sample) -> Sample:
    """The sample without its part: the table around the part continues below the part."""
    assert sample.rgb is not None
    settings = Preprocessing(modality="rgb")
    part = ndimage.binary_dilation(part_geometry(sample, settings).image_regions.mask, iterations=8)
    edges = ndimage.distance_transform_edt(part, return_distances=False, return_indices=True)
    empty = Sample(sample.name, rgb=sample.rgb[edges[0], edges[1]])
    if sample.xyz is None:
        return empty
    cloud = sample.xyz.copy()
    geometry = part_geometry(sample, Preprocessing(modality="both"))
    assert geometry.support is not None
    raised = ndimage.binary_dilation(geometry.off_support, iterations=6)
    table = sample.xyz[~raised & geometry.valid]
    terms = np.linalg.lstsq(np.c_[table[:, :2], np.ones(len(table))], table[:, 2], rcond=None)[0]
    cloud[raised, 2] = cloud[raised] @ [*terms[:2], 0] + terms[2]
    return replace(empty, xyz=cloud.astype(np.float32))


def _bundle(exported: Exported, samples: list[Sample], modality: str) -> Bundle:
    """A bundle that looks at the part alone, with the limits of these samples; the network is that of another."""
    from cmdiad_runtime.support.reporter import SILENT
    from cmdiad_train.fit.conditions import conditions_of
    from cmdiad_train.fit.envelope import EnvelopeOptions, learn_envelope
    from cmdiad_train.fit.views import learn_view

    class Files:
        def __init__(self, sample: Sample) -> None:
            self.sample = sample

        def read(self, colour: str) -> Sample:
            return self.sample

    settings = Preprocessing(modality=modality, size=112, xyz_feed="normals")  # type: ignore[arg-type]
    envelope = learn_envelope([conditions_of(sample, settings) for sample in samples], EnvelopeOptions())
    learned = learn_view(VIEWS[modality], list(map(Files, samples)), settings, SILENT)
    bundle = Bundle.open(exported("rgb"))
    return replace(bundle, record=replace(bundle.record, preprocessing=learned, envelope=envelope, inspected_area=None))


def _condition_alone(sample: Sample, bundle: Bundle) -> InputError:
    """The recording condition that the empty table changes, and that would be reported without a look at the part."""
    assert bundle.record.envelope is not None
    with pytest.raises(InputError) as caught:
        examine(sample, part_geometry(sample, bundle.preprocessing), bundle.preprocessing, bundle.record.envelope)
    return caught.value


def _check_empty_table(exported: Exported, samples: list[Sample], modality: str) -> None:
    bundle = _bundle(exported, samples, modality)
    empty = _emptied(samples[0])
    condition = _condition_alone(empty, bundle)
    assert condition.reason in ("exposure", "colour")
    error = make_ready(empty, bundle)
    assert isinstance(error, InputError)
    assert error.reason == "no-part"
    assert condition.found in error.found
    assert condition.expected in error.expected
    assert error.found.startswith(("no part in the image, and ", "only background in the cloud, and "))
    assert error.action.startswith("check that a part is in view, then ")
    assert error.action.count("part is in view") == 1
    assert isinstance(make_ready(samples[0], bundle), Ready)


@pytest.mark.parametrize("modality", ["rgb", "both"])
def test_empty_table_of_the_demo(exported: Exported, parts: list[Path], modality: str) -> None:
    _check_empty_table(exported, [_read(image, modality) for image in parts], modality)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data")
def test_empty_table_of_a_real_station(exported: Exported) -> None:
    _check_empty_table(exported, [_read(image, "rgb") for image in sorted(REAL.glob("*.png"))[:8]], "rgb")


@pytest.mark.failure_mode("An empty table, where the detector looks at the part alone")
def test_verdict_of_an_empty_table(exported: Exported, parts: list[Path]) -> None:
    samples = [_read(image, "rgb") for image in parts]
    bundle = _bundle(exported, samples, "rgb")
    with Inspector(bundle, OnnxRuntimeEngine.open(bundle.graph)) as inspector:
        inspection = inspector.inspect(_emptied(samples[1]))
        assert (inspection.verdict, inspection.reason, inspection.inspected) == ("NG", "no-part", False)
        assert inspector.inspect(samples[1]).inspected


def test_less_light_on_a_part_stays_a_matter_of_light(exported: Exported, parts: list[Path]) -> None:
    samples = [_read(image, "rgb") for image in parts]
    bundle = _bundle(exported, samples, "rgb")
    assert samples[0].rgb is not None
    dark = replace(samples[0], rgb=samples[0].rgb // 2)
    error = make_ready(dark, bundle)
    assert isinstance(error, InputError)
    assert error.reason == "exposure"
    assert error.found == _condition_alone(dark, bundle).found


def test_empty_tray_has_no_parts(exported: Exported, parts: list[Path]) -> None:
    samples = [_read(image, "rgb") for image in parts]
    bundle = _bundle(exported, samples, "rgb")
    trays = replace(bundle, record=replace(bundle.record, preprocessing=replace(bundle.preprocessing, parts=4)))
    error = make_ready(_emptied(samples[0]), trays)
    assert isinstance(error, InputError)
    assert error.reason == "part-count"
    assert error.found.startswith("0 parts")
