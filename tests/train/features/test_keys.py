"""Keys of the feature store: equal for equal features, different for everything that changes features."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_train.datasets import SampleFiles, open_category
from cmdiad_train.features import FileHashes, extractor_digest, feature_key, keys, modality_settings, needed_files
from helpers import make_data

SHA = "0" * 64
BASE = Preprocessing(modality="rgb", size=64, groups=16, group_size=8, grid=8)


def test_files_are_hashed_once_and_again_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    hashes = FileHashes()
    with mock.patch.object(keys, "sha256_of", wraps=keys.sha256_of) as hashed:
        first = hashes.of(file)
        assert hashes.of(file) == first
        assert hashed.call_count == 1
        file.write_bytes(b"two")
        os.utime(file, ns=(1, 1))
        assert hashes.of(file) != first
        other = tmp_path / "b"
        other.write_bytes(b"two")
        os.utime(other, ns=(1, 1))
        assert hashes.of(other) == hashes.of(file)
        other.replace(file)  # same path, size and time, another inode
        hashes.of(file)
        assert hashed.call_count == 4


def test_extractors_differ_by_weights_names_kinds_and_spec() -> None:
    torch.manual_seed(0)
    one = nn.Linear(3, 2)
    same = nn.Linear(3, 2)
    same.load_state_dict(one.state_dict())
    spec = {"stages": [0, 1]}
    digest = extractor_digest(one, spec)
    assert extractor_digest(same, spec) == digest
    with torch.no_grad():
        same.weight[0, 0] += 1e-7
    others = {
        extractor_digest(same, spec),
        extractor_digest(one, {"stages": [0, 2]}),
        extractor_digest(nn.Sequential(one), spec),
        extractor_digest(nn.Linear(3, 2).half(), spec),
    }
    assert len(others) == 4
    assert digest not in others


def test_keys_differ_by_every_part() -> None:
    settings = modality_settings(BASE)
    key = feature_key(SHA, settings, {"rgb": "1"}, "cpu")
    others = {
        feature_key("1" * 64, settings, {"rgb": "1"}, "cpu"),
        feature_key(SHA, {**settings, "size": 65}, {"rgb": "1"}, "cpu"),
        feature_key(SHA, settings, {"rgb": "2"}, "cpu"),
        feature_key(SHA, settings, {"xyz": "1"}, "cpu"),
        feature_key(SHA, settings, {"rgb": "1"}, "cuda"),
    }
    with mock.patch.object(torch, "get_num_threads", return_value=77):
        others.add(feature_key(SHA, settings, {"rgb": "1"}, "cpu"))
    with mock.patch.object(keys, "_software", return_value="a newer cmdiad"):
        others.add(feature_key(SHA, settings, {"rgb": "1"}, "cpu"))
    assert len(others) == 7
    assert key not in others
    assert feature_key(SHA, dict(reversed(settings.items())), {"rgb": "1"}, "cpu") == key
    assert len(key) == 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SampleFiles:
    data = make_data(tmp_path_factory.mktemp("keys") / "data")
    return open_category(data, "gear").split("train", ("rgb", "xyz"))[0]


CHANGES: dict[str, object] = {
    "colour": "grey",
    "rgb_mask": "cloud",
    "foreground": False,
    "groups": 17,
    "group_size": 9,
    "grid": 4,
    "xyz_feed": "normals",
    "xyz_image": True,
    "seed": 3,
}


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
@pytest.mark.parametrize("start", [{}, {"xyz_feed": "normals"}, {"rgb_mask": "cloud"}], ids=str)
def test_dropped_settings_change_no_input(files: SampleFiles, modality: str, start: dict[str, str]) -> None:
    base = replace(BASE, modality=modality, **start)  # type: ignore[arg-type]
    before = prepare(files.read(), base).inputs
    dropped = set(base.to_json()) - set(modality_settings(base))
    assert dropped
    for name in dropped & set(CHANGES):
        if modality == "xyz" and name == "colour":
            continue  # a property of image files, which are not read
        if name == "xyz_image" and base.xyz_feed != "points":
            continue  # not a valid combination
        after = prepare(files.read(), replace(base, **{name: CHANGES[name]})).inputs  # type: ignore[arg-type]
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before), name


def test_rgb_and_both_share_the_settings_of_an_image() -> None:
    rgb = modality_settings(BASE)
    assert modality_settings(replace(BASE, groups=4, xyz_feed="normals", foreground=False)) == rgb
    assert modality_settings(replace(BASE, size=65)) != rgb
    assert modality_settings(replace(BASE, rgb_mask="cloud")) != rgb
    assert modality_settings(replace(BASE, modality="both")).keys() == BASE.to_json().keys()


def test_only_files_that_the_inputs_depend_on_are_needed(files: SampleFiles) -> None:
    assert set(needed_files(files, BASE)) == {"rgb"}
    assert set(needed_files(files, replace(BASE, rgb_mask="cloud"))) == {"rgb", "xyz"}
    assert set(needed_files(files, replace(BASE, modality="xyz"))) == {"xyz"}
    assert set(needed_files(replace(files, rgb=None), replace(BASE, modality="xyz"))) == {"xyz"}


def test_features_of_depth_images_depend_on_the_intrinsics(tmp_path: Path) -> None:
    files = SampleFiles("000", "good", tmp_path / "000.png", tmp_path / "000.png", None)
    (tmp_path / "intrinsics.json").write_text("{}")
    needed = needed_files(files, replace(BASE, modality="xyz"))
    assert needed == {"xyz": tmp_path / "000.png", "intrinsics": tmp_path / "intrinsics.json"}
    assert set(needed_files(files, BASE)) == {"rgb"}


def in_view(modality: str, *, top: bool, part: bool) -> Any:
    """Settings of a view by the names that JSON has, without learned values."""
    settings = replace(BASE, modality=modality, xyz_feed="normals").to_json()  # type: ignore[arg-type]
    settings |= {"plan": {"pitch": 1.0} if top else None, "part": {"pitch": 2.0} if part else None}
    return SimpleNamespace(modality=modality, xyz_feed="normals", to_json=lambda: dict(settings))


@pytest.mark.parametrize(
    ("modality", "top", "part", "needed", "dropped"),
    [
        ("rgb", False, True, {"rgb"}, {"plan", "foreground", "seed"}),
        ("rgb", True, True, {"rgb"}, {"plan", "foreground", "seed"}),  # each modality in its own view
        ("rgb", True, False, {"rgb", "xyz"}, set()),  # colours at the points of the cloud
        ("xyz", True, False, {"xyz"}, {"part", "colour", "rgb_mask"}),
        ("xyz", True, True, {"xyz"}, {"part", "colour", "rgb_mask"}),
        ("xyz", False, True, {"rgb", "xyz"}, {"rgb_mask"}),  # the cloud is turned with the image
    ],
)
def test_views_decide_on_settings_and_files(
    files: SampleFiles, modality: str, top: bool, part: bool, needed: set[str], dropped: set[str]
) -> None:
    view = in_view(modality, top=top, part=part)
    assert set(needed_files(files, view)) == needed
    missing = set(view.to_json()) - set(modality_settings(view))
    points = {"groups", "group_size", "grid"}
    assert missing - points - {"xyz_feed", "xyz_image"} == dropped
    assert points <= missing
