"""Presets of extractors: fetch, import, the choice by --extractor, and what is refused."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save, save_file
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.extractor import cli
from cmdiad_train.cli.train import cli as train
from cmdiad_train.detectors.bank.recipe_options import recipe_from, remarks
from cmdiad_train.extractors import TimmBackbone, presets, recognise
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.extractors.weights_file import read_metadata
from cmdiad_train.recipe import BankRecipe, RgbExtractor, SurfaceExtractor, bank_part
from helpers import SIZE, assert_refused, command
from hub_stand_in import StandIn, hub

TIMM_NAME = "test_resnet.r160_in1k"
ON_HUB = f"timm/{TIMM_NAME}/model.safetensors"


def complete_weights(name: str = "test_resnet") -> dict[str, Tensor]:
    """A complete checkpoint of timm, classifier included."""
    make_torchvision_importable()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return dict(timm.create_model(name).state_dict())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of weights, and presets with a tiny network in the place of the standard one."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    small, standard, large = presets.PRESETS
    tiny = replace(standard, extractor=RgbExtractor(TIMM_NAME, (0, 1), 14, "timm"), size=SIZE)
    monkeypatch.setattr(presets, "PRESETS", (small, tiny, large))
    return tmp_path / "cache/weights"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in of the hub with the weights of the tiny network."""
    with hub({ON_HUB: save(complete_weights(), {"format": "pt"})}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")


def options(*arguments: object) -> dict[str, Any]:
    return dict(train.make_context("cmdiad-train", ["DATA", *map(str, arguments)]).params)


def part(*arguments: object) -> BankRecipe:
    return bank_part(recipe_from(options(*arguments), lambda: ()))


def test_auto_takes_the_small_preset_and_names_the_command_for_a_better_one(store: Path) -> None:
    values = options()
    recipe = recipe_from(values, lambda: ())
    assert bank_part(recipe).rgb.weights == "shipped-rgb"
    [line] = remarks(values, recipe)
    assert line.startswith(
        "Extractor: small (resnet10t, shipped with cmdiad), because no weights of the preset standard"
    )
    assert line.endswith("run: cmdiad-extractor fetch standard")
    assert remarks(options("--extractor", "small"), recipe) == []


def test_a_fetched_preset_is_taken_by_the_next_training(
    store: Path, online: StandIn, data: Path, tmp_path: Path
) -> None:
    ended = command(cli, "fetch", "standard")
    assert ended.code == 0, ended.err
    file = store / f"{TIMM_NAME}.safetensors"
    first, path, following = ended.out.splitlines()
    assert f"{TIMM_NAME}, licence: apache-2.0" in first and "ignored: fc.bias, fc.weight" in first
    assert (path, following) == (f"weights: {file}", "next: cmdiad-train DATA --extractor standard")
    assert [entry.name for entry in store.iterdir()] == [file.name]
    metadata = read_metadata(file)
    assert len(metadata["source_sha256"]) == 64
    assert metadata["command"] == "cmdiad-extractor fetch standard"
    ended = command(train, data, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "Extractor: standard (test_resnet.r160_in1k, test_resnet.r160_in1k.safetensors)" in ended.err
    assert "cmdiad-extractor fetch large" in ended.err
    assert ended.out.splitlines()[0] == f"rgb extractor: {TIMM_NAME}, {TIMM_NAME}.safetensors"
    detector = json.loads((tmp_path / "run/run.json").read_text())["recipe"]["detector"]
    assert (detector["rgb"]["stages"], detector["rgb"]["grid"]) == ([0, 1], 14)
    assert detector["xyz"]["backbone"] == detector["rgb"]


def test_weights_of_timm_itself_need_no_network_once_the_hub_library_has_them(store: Path, online: StandIn) -> None:
    hf_hub_download(f"timm/{TIMM_NAME}", "model.safetensors", endpoint=online.url, cache_dir=constants.HF_HUB_CACHE)
    online.files.clear()
    spec = RgbExtractor(TIMM_NAME, (0, 1), 14, "timm")
    assert TimmBackbone(spec, size=SIZE).provenance == f"{TIMM_NAME}, timm's own download"


def test_an_interrupted_download_resumes(store: Path, online: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # the hub library writes whole chunks
    online.cut = len(online.files[ON_HUB]) // 2
    ended = command(cli, "fetch", "standard")
    assert_refused(ended, 7, "broke off", "run the same command again, which resumes")
    assert not (store / f"{TIMM_NAME}.safetensors").exists()
    online.cut, online.ranges = None, []
    ended = command(cli, "fetch", "standard")
    assert ended.code == 0, ended.err
    assert online.ranges == ["bytes=900000-"]
    assert [entry.name for entry in store.iterdir()] == [f"{TIMM_NAME}.safetensors"]


def test_content_with_another_hash_is_refused_and_removed(store: Path, online: StandIn) -> None:
    online.false_hash = True
    assert_refused(command(cli, "fetch", "standard"), 7, "SHA-256", "run the same command again")
    assert list(store.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_without_network_there_is_one_line_and_no_file(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "standard.safetensors"
    ended = command(cli, "fetch", "standard", "--out", out)
    assert_refused(ended, 7, "no connection to timm's hub", "cmdiad-extractor import FILE")
    assert not out.exists()
    assert "Retrying" not in ended.err


@pytest.mark.usefixtures("offline")
def test_a_training_without_network_leaves_no_run_that_the_next_try_refuses(
    store: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    from_timm = ("--rgb-backbone", TIMM_NAME, "--rgb-stages", "0,1", "--rgb-weights", "timm")
    ended = command(train, data, *from_timm, "--size", SIZE, "--out", run)
    assert_refused(ended, 7, "no connection to timm's hub")
    assert not run.exists()


def test_a_hub_that_never_answers_is_not_waited_for(
    store: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    from cmdiad_train.extractors import hub as module

    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    released = threading.Event()
    with pytest.raises(RunError, match=r"no answer within 0.05 s"):
        module._answer("x", released.wait)
    released.set()


def test_a_complete_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "timm.safetensors"
    save_file(complete_weights(), file)
    extractor = TimmBackbone(RgbExtractor("test_resnet", (0, 1), 14, str(file)), size=SIZE)
    assert extractor.provenance == "test_resnet, timm.safetensors (ignored: fc.bias, fc.weight)"


def test_import_recognises_the_network_and_serves_the_preset(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "test_resnet.mine.safetensors"
    save_file(complete_weights(), file)
    ended = command(cli, "import", file, "--licence", "MIT")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[1:] == [
        f"weights: {store / file.name}",
        "next: cmdiad-train DATA --extractor standard",
    ]
    assert part("--extractor", "standard").rgb == RgbExtractor("test_resnet", (0, 1), 14, str(store / file.name))


def test_import_recognises_tensors_without_a_name_and_incomplete_ones(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("mobilenetv2_100", "resnet18", "resnet10t", "vit_tiny_patch16_224")
    assert set(few) <= set(recognise.ARCHITECTURES)
    monkeypatch.setattr(recognise, "ARCHITECTURES", few)
    state = {key: value for key, value in complete_weights("resnet10t").items() if not key.startswith("layer4.")}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    ended = command(cli, "import", file, "--licence", "MIT")
    assert ended.code == 0, ended.err
    assert "tensors of resnet10t; ignored: fc.bias, fc.weight" in ended.out
    assert (store / "resnet10t.safetensors").is_file()
    save_file({key: value for key, value in state.items() if not key.startswith("layer2.")}, file)
    assert_refused(command(cli, "import", file, "--licence", "MIT"), 7, "no tensor 'layer2.")
    save_file({**state, "other.weight": torch.ones(1)}, file)
    assert_refused(command(cli, "import", file, "--licence", "MIT"), 7, "fit no architecture", "--backbone")


def test_import_takes_the_name_from_the_config_of_the_hub(store: Path, tmp_path: Path) -> None:
    save_file(complete_weights(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "pretrained_cfg": {"tag": "r160_in1k"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ended = command(cli, "import", tmp_path / "model.safetensors")
    assert ended.code == 0, ended.err
    assert "licence: apache-2.0" in ended.out
    assert (store / f"{TIMM_NAME}.safetensors").is_file()


def test_a_file_of_another_machine_is_imported_as_it_is(store: Path, online: StandIn, tmp_path: Path) -> None:
    brought = tmp_path / f"{TIMM_NAME}.safetensors"
    assert command(cli, "fetch", "standard", "--out", brought).code == 0
    online.files.clear()
    ended = command(cli, "import", brought)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "next: cmdiad-train DATA --extractor standard"
    assert (store / brought.name).read_bytes() == brought.read_bytes()


def test_a_file_that_contradicts_the_hash_in_its_name_is_refused(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "resnet18-f37072fd.pth"
    torch.save(complete_weights("resnet10t"), file)
    assert_refused(command(cli, "import", file), 7, "SHA-256", "f37072fd")


def test_options_change_single_values_of_a_preset(store: Path, tmp_path: Path) -> None:
    small = ("--extractor", "small")
    chosen = part(*small, "--rgb-grid", 20, "--rgb-stages", "1")
    assert chosen.rgb == RgbExtractor("resnet10t", (1,), 20, "shipped-rgb")
    assert chosen.xyz == SurfaceExtractor("normals", RgbExtractor("resnet10t", (1,), 20, "shipped-normals"))
    file = tmp_path / "own.safetensors"
    save_file(complete_weights(), file)
    own = part("--extractor", "standard", "--rgb-weights", file)
    assert own.rgb == RgbExtractor(TIMM_NAME, (0, 1), 14, str(file))
    assert recipe_from(options("--extractor", "standard", "--rgb-weights", file), lambda: ()).size == SIZE


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--extractor", "small", "--rgb-backbone", "resnet18"), click.UsageError, "resnet10t, not resnet18"),
        (("--extractor", "auto", "--rgb-weights", "timm"), click.UsageError, "leave out --rgb-weights"),
        (("--extractor", "small", "--mode", "faithful"), click.UsageError, "exclude each other"),
        (("--extractor", "standard"), RunError, "cmdiad-extractor fetch standard"),
    ],
)
def test_contradictions_and_missing_weights(
    store: Path, arguments: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        part(*arguments)


def test_shipped_presets_and_unknown_names(store: Path, online: StandIn) -> None:
    assert "nothing to fetch" in command(cli, "fetch", "small").out
    assert_refused(command(cli, "fetch", "resnet_of_mine"), 7, "no such weights", "correct the name")
