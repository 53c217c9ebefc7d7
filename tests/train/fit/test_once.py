"""Nothing is computed twice: each file is read once, each sample prepared once, each modality extracted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from cmdiad_runtime.preprocess.prepare import prepare_parts
from cmdiad_train.datasets import SampleFiles, open_category
from cmdiad_train.datasets import sample_files as reading
from cmdiad_train.detectors.bank.features.patches import PatchFeatures
from cmdiad_train.fit import figures
from cmdiad_train.fit import samples as providing
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.fit.samples import ArrayShelf, SampleProvider
from cmdiad_train.fit.tamper import tamper
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.tensors import load_tensors
from helpers import make_data, tiny_recipe
from lanes import some

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
TRAIN, HELD_OUT, TEST = 5, 3, 2


@dataclass
class Counts:
    """Calls during a training."""

    read: Counter[Path] = field(default_factory=Counter)
    prepared: Counter[str] = field(default_factory=Counter)
    tampered: Counter[str] = field(default_factory=Counter)
    extracted: int = 0


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what a training does."""
    counts = Counts()
    tampered: list[Any] = []

    def prepared(sample: Any, preprocessing: Any) -> Any:
        is_tampered = any(sample is other for other in tampered)
        (counts.tampered if is_tampered else counts.prepared)[sample.name] += 1
        return prepare_parts(sample, preprocessing)

    def tampering(sample: Any, preprocessing: Any) -> Any:
        tampered.append(tamper(sample, preprocessing))
        return tampered[-1]

    def reader(original: Any) -> Any:
        def read(path: Path, **options: Any) -> Any:
            counts.read[path] += 1
            return original(path, **options)

        return read

    extract = PatchFeatures.forward

    def extracting(self: PatchFeatures, *inputs: Any, searched: Any = None, tokens: Any = None) -> Any:
        counts.extracted += 1
        return extract(self, *inputs, searched=searched, tokens=tokens)

    with (
        mock.patch.object(reading, "read_rgb", reader(reading.read_rgb)),
        mock.patch.object(reading, "read_xyz", reader(reading.read_xyz)),
        mock.patch.object(providing, "prepare_parts", prepared),
        mock.patch.object(figures, "prepare_parts", prepared),
        mock.patch.object(providing, "tamper", tampering),
        mock.patch.object(PatchFeatures, "forward", extracting),
    ):
        yield counts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = {"train": TRAIN, "validation": HELD_OUT, "test": {"good": 1, "hole": 1}}
    return make_data(tmp_path_factory.mktemp("once") / "parts", **tree)


IMAGE = ("rgb", "none", {"view": "auto", "coreset": None})
IMAGE_AND_FEATURES = ("rgb", "f2f", {"xyz": NORMALS, "view": "auto", "components": 8, "coreset": None})
BOTH = ("both", "none", {"xyz": NORMALS, "view": "auto", "coreset": None})
CLOUD_AND_IMAGES = ("xyz", "f2i", {})
MEMORY, DISK = providing.MEMORY_BYTES, 0


@pytest.mark.parametrize(
    ("modality", "hallucination", "changes", "memory"),
    some(
        [(*c, memory) for memory in (MEMORY, DISK) for c in (IMAGE, IMAGE_AND_FEATURES, BOTH, CLOUD_AND_IMAGES)],
        [(*BOTH, MEMORY), (*IMAGE_AND_FEATURES, DISK)],
    ),
)
def test_each_file_is_read_and_each_sample_prepared_once(
    parts: Path, tmp_path: Path, modality: str, hallucination: str, changes: Any, memory: int
) -> None:
    with counted() as counts, mock.patch.object(providing, "MEMORY_BYTES", memory):
        fit(parts, None, tiny_recipe(modality, hallucination, **changes), tmp_path / "run")
    modalities = {"rgb": 1, "xyz": 1, "both": 2}[modality]
    trained = modalities if hallucination == "none" else 2
    assert set(counts.read.values()) == {1}
    assert len(counts.read) == TRAIN * trained + (HELD_OUT + TEST) * modalities
    assert set(counts.prepared.values()) == {1}
    assert len(counts.prepared) == TRAIN + HELD_OUT + TEST
    assert set(counts.tampered.values()) == {1}
    assert not (tmp_path / "run" / "cache").exists()


def test_three_trainings_on_the_same_data_extract_each_modality_once(parts: Path, tmp_path: Path) -> None:
    options = FitOptions(features=tmp_path / "store")
    runs = {"rgb": ("rgb", "none"), "f2f": ("rgb", "f2f"), "both": ("both", "none")}
    recipes = {n: tiny_recipe(m, h, xyz=NORMALS, components=8) for n, (m, h) in runs.items()}
    extracted = {}
    for name, recipe in recipes.items():
        with counted() as counts:
            fit(parts, None, recipe, tmp_path / name, options=options)
        extracted[name] = counts.extracted
    # Held-out samples, their copies with an artificial defect and test samples go through the whole detector.
    inspected = 2 * HELD_OUT + TEST
    assert extracted == {
        "rgb": TRAIN + inspected,
        "f2f": TRAIN + inspected,  # the cloud's features are new
        "both": 2 * inspected,
    }
    for name, recipe in recipes.items():
        fit(parts, None, recipe, tmp_path / f"{name} alone")
        for file in ("banks", "golden", "held_out", "quantisation"):
            shared, alone = (load_tensors(tmp_path / run / f"{file}.safetensors") for run in (name, f"{name} alone"))
            assert shared.keys() == alone.keys()
            assert all((shared[key] == alone[key]).all() for key in shared), (name, file)


@dataclass(frozen=True)
class Nested:
    """A value with arrays at several depths."""

    arrays: dict[str, np.ndarray]
    pair: tuple[np.ndarray, int]
    text: str = "kept"


@pytest.mark.parametrize("memory", [1 << 20, 30, 0])
def test_values_come_back_from_memory_and_from_disk(tmp_path: Path, memory: int) -> None:
    shelf = ArrayShelf(tmp_path / "shelf", memory=memory)
    values = {
        str(i): Nested(
            {"a": np.arange(6, dtype=np.float32).reshape(2, 3) + i, "none": np.zeros((0, 2), np.uint8)},
            (np.array(i > 0), i),
        )
        for i in range(3)
    }
    for name, value in values.items():
        shelf.put((name,), value)
    assert (tmp_path / "shelf").exists() == (memory < 1 << 20)
    for name, value in values.items():
        stored = shelf.get((name,))
        assert (stored.text, stored.pair[1]) == (value.text, value.pair[1])
        for one, other in ((stored.arrays["a"], value.arrays["a"]), (stored.pair[0], value.pair[0])):
            np.testing.assert_array_equal(one, other, strict=True)
        assert stored.arrays["none"].shape == (0, 2)
        shelf.drop((name,))
        assert (name,) not in shelf
    assert list((tmp_path / "shelf").glob("*")) == []
    shelf.drop(("never",))


def test_a_sample_is_given_up_once_it_is_prepared(parts: Path, tmp_path: Path) -> None:
    category = open_category(parts, None)
    first, second = category.split("train", ("rgb",))[:2]
    recipe = tiny_recipe()
    from cmdiad_train.detectors.bank.preprocessing import make_preprocessing

    settings = make_preprocessing(recipe, "rgb")
    samples = SampleProvider(tmp_path / "cache")
    samples.prepare_with(lambda files: settings, settings, [first])

    def kept(files: SampleFiles) -> set[str]:
        return {key[0] for key in samples._shelf._kept if key[1] == files.name}

    for files in (first, second):
        samples.read(files, "rgb")
        assert kept(files) == {"read"}
        samples.prepared(files)
    assert kept(first) == {"prepared", "tampered"}
    assert kept(second) == {"prepared"}
