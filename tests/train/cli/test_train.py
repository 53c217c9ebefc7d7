"""The command `cmdiad-train`."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.errors import RunError
from cmdiad_train.cli.train import _run_name as run_name
from cmdiad_train.cli.train import cli
from cmdiad_train.evaluation.weakness import weakness
from cmdiad_train.fit import fit as fit_module
from cmdiad_train.recipe import (
    DEFAULT_RECIPE,
    PUBLISHED_DISTILLATION,
    PUBLISHED_RGB,
    PUBLISHED_XYZ,
    Distillation,
    Recipe,
    RgbExtractor,
    SurfaceExtractor,
    bank_part,
)
from cmdiad_train.runs.record import read_record
from helpers import (
    Ended,
    assert_refused,
    bank_recipe,
    command,
    python,
    sample_files,
    truncate,
    write_cloud,
    write_image,
)

POINTS = ("--xyz", "point_mae", "--xyz-groups", 64, "--xyz-group-size", 16, "--xyz-width", 24)
SMALL = (*POINTS, "--epochs", 2, "--size", 112, "--rgb-grid", 14)


def train(data: Path, *options: object, out: Path) -> Ended:
    return command(cli, data, *SMALL, *options, "--out", out)


def test_run_lands_where_it_says(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(cli, data, *SMALL, "--modality", "xyz", "--seed", 3, "--coreset", 0.2)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "xyz extractor: Point-MAE 24×2, random weights, seed 3 (not trained)"
    assert re.match(
        r"test split \(5 samples\): image AUROC .*; at the threshold . of 2 good rejected, . of 3 ", lines[1]
    )
    figures = read_record(Path("runs/gear-xyz-none")).metrics
    assert figures is not None
    assert ("warning: " + weakness(figures) in ended.err) == bool(weakness(figures))
    assert lines[2] == "run: runs/gear-xyz-none"
    record = read_record(Path("runs/gear-xyz-none"))
    assert record.status == "complete"
    recipe, part = record.recipe, bank_part(record.recipe)
    assert (recipe.modality, part.coreset, recipe.seed) == ("xyz", 0.2, 3)
    assert part.points is not None
    assert part.points.groups == 64
    again = command(cli, data, *SMALL, "--modality", "xyz", "--seed", 3, "--coreset", 0.2)
    assert (again.code, again.out) == (0, ended.out)
    assert "extract xyz" not in again.err


def test_another_session_has_another_run() -> None:
    """The command of docs/first-hour.md keeps the run without the session, so it works after the first training."""
    bank, tuesday = {"bank": DEFAULT_RECIPE}, Path("tuesday")
    assert run_name("photos", bank) == "photos-rgb-none"
    assert run_name("photos", bank, [tuesday / "good"]) == "photos-rgb-none-tuesday"
    assert run_name("photos", bank, [tuesday, Path("x/../tuesday")]) == "photos-rgb-none-tuesday"
    assert run_name("photos", bank, [tuesday, Path("friday")]) == "photos-rgb-none-2-sessions"
    assert run_name("photos", {**bank, "trd": DEFAULT_RECIPE}, [tuesday]) == "photos-rgb-auto-tuesday"


def test_missing_data(tmp_path: Path) -> None:
    assert_refused(train(tmp_path / "no", out=tmp_path / "run"), 7, tmp_path / "no", "no such folder", "check DATA")


def test_folder_without_categories(tmp_path: Path) -> None:
    assert_refused(train(tmp_path, out=tmp_path / "run"), 7, tmp_path, "no pictures or clouds", "folders OK and NOK")


def test_category_must_be_chosen_among_several(own_data: Path, tmp_path: Path) -> None:
    shutil.copytree(own_data / "gear", own_data / "wheel")
    refused = train(own_data, out=tmp_path / "run")
    assert_refused(refused, 7, own_data, "categories gear, wheel", "one category", "--category")
    assert_refused(train(own_data, "--category", "bolt", out=tmp_path / "run"), 7, own_data, "category bolt")


def test_missing_partner(own_data: Path, tmp_path: Path) -> None:
    sample_files(own_data, "train", "good", "xyz")[4].unlink()
    ended = train(own_data, "--hallucination", "f2f", out=tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "1 of 9 good samples cannot be used and are left out:" in ended.err
    assert "train/good/004: " in ended.err and "remove its partner" in ended.err


def test_defect_without_mask(own_data: Path, tmp_path: Path) -> None:
    mask = sample_files(own_data, "test", "hole", "gt")[0]
    mask.unlink()
    ended = train(own_data, out=tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "1 of 3 defective test samples have no mask: pixel figures leave them out" in ended.err
    assert "pixel AUROC" in ended.out  # over the two other defects


def damage_uniform(path: Path) -> None:
    write_image(path, np.full((112, 112, 3), 80, np.uint8))


def damage_grey(path: Path) -> None:
    write_image(path, np.tile(np.arange(112, dtype=np.uint8), (112, 1)))


def damage_sixteen_bits(path: Path) -> None:
    write_image(path, np.tile(np.arange(112, dtype=np.uint16) * 500, (112, 1)))


def damage_no_points(path: Path) -> None:
    write_cloud(path, np.full((112, 112, 3), np.nan, np.float32))


def damage_shape(path: Path) -> None:
    write_cloud(path, np.ones((112, 112), np.float32))


def damage_integers(path: Path) -> None:
    write_cloud(path, np.ones((112, 112, 3), np.uint16))


@pytest.mark.parametrize(
    ("modality", "damage", "found"),
    [
        ("rgb", truncate, "damaged or incomplete"),
        ("rgb", damage_uniform, "all background"),
        ("rgb", damage_grey, "a grey image"),
        ("rgb", damage_sixteen_bits, "16 bits per channel"),
        ("xyz", truncate, "damaged or incomplete"),
        ("xyz", damage_no_points, "no valid point"),
        ("xyz", damage_shape, "shape [112, 112]"),
        ("xyz", damage_integers, "uint16"),
    ],
)
def test_unusable_training_sample_is_named_and_left_out(
    own_data: Path, tmp_path: Path, modality: str, damage: Callable[[Path], object], found: str
) -> None:
    path = sample_files(own_data, "train", "good", modality)[1]
    damage(path)
    ended = train(own_data, "--modality", modality, out=tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "1 of 9 good samples cannot be used and are left out:" in ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("  train/good/001: ")]
    assert str(path) in line and found in line
    (left_out,) = read_record(tmp_path / "run").left_out
    assert (left_out.name, left_out.split) == ("train/good/001", "train")


def test_mismatched_pair(own_data: Path, tmp_path: Path) -> None:
    path = sample_files(own_data, "train", "good", "xyz")[1]
    write_cloud(path, np.ones((100, 112, 3), np.float32))
    ended = train(own_data, "--rgb-mask", "cloud", out=tmp_path / "run")
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("  train/good/001: ")]
    assert all(word in line for word in (str(path), "112×100", "112×112"))


def test_more_groups_than_points(data: Path, tmp_path: Path) -> None:
    path = sample_files(data, "train", "good", "xyz")[0]
    refused = train(data, "--modality", "xyz", "--xyz-groups", 16_000, out=tmp_path / "run")
    assert_refused(refused, 7, "9 of 9 good samples", "at most 20%", path, "at least 16000", "fewer or smaller groups")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--xyz", "point_mae", "--xyz-groups", 90_000), ("recipe xyz.groups", "found 90000", "16384")),
        (("--coreset", 0), ("recipe coreset", "found 0")),
        (("--coreset", 1.5), ("recipe coreset", "found 1.5")),
        (("--false-reject-rate", 1), ("recipe false_reject_rate",)),
        (("--modality", "xyz", "--xyz", "point_mae", "--xyz-groups", 90_000), ("recipe xyz.groups", "from 3 to 16384")),
        (("--xyz-heads", 7), ("recipe xyz.heads", "a divisor of the width 24")),
        (("--rgb-mask", "cloud", "--no-foreground"), ("recipe rgb_mask",)),
        (("--rgb-backbone", "resnet_of_mine"), ("backbone resnet_of_mine", "--rgb-backbone")),
        (("--rgb-stages", "9"), ("backbone resnet10t", "--rgb-stages")),
        (("--rgb-weights", "/no/such.safetensors"), ("/no/such.safetensors", "--rgb-weights")),
        (("--modality", "xyz", "--xyz-weights", "/no/such.pth"), ("/no/such.pth", "--xyz-weights")),
    ],
)
def test_impossible_recipes(data: Path, tmp_path: Path, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    assert_refused(train(data, *options, out=tmp_path / "run"), 7, *words)


@pytest.mark.parametrize(
    "options",
    [
        ("--surface-grid", 9),
        ("--rgb-stages", "one"),
        ("--modality", "lidar"),
        ("--xyz-groups", 2),
        ("--epochs", 0),
        ("--speed", 1),
        ("--envelope-rate", "nan"),
    ],
)
def test_wrong_command_line(data: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    ended = train(data, *options, out=tmp_path / "run")
    assert ended.code == 2
    assert "Usage:" in ended.err
    assert str(options[0]) in ended.err
    assert not (tmp_path / "run").exists()


def test_out_that_holds_something_else(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(train(data, out=tmp_path / "file"), 6, tmp_path / "file", "--out")
    assert_refused(train(data, out=tmp_path / "file" / "run"), 6, tmp_path / "file" / "run", "--out")
    assert_refused(train(data, out=tmp_path), 6, tmp_path, "--out")
    assert (tmp_path / "file").read_text() == "mine"


def test_interruption_ends_with_130(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "figures_on_test_split", interrupt)
    ended = train(data, out=tmp_path / "run")
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in ended.err
    monkeypatch.undo()
    assert train(data, out=tmp_path / "run").code == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cmdiad-train', '--help']\n"
        "from cmdiad_train.cli.train import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print([m for m in ('numpy', 'torch', 'timm', 'sklearn') if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"


def recipe_of(data: Path, tmp_path: Path, *options: object, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe that a command line asks for, without training it."""
    asked: list[Recipe] = []

    def remember(data: Path, category: str | None, recipe: Recipe, *_: object, **__: object) -> None:
        asked.append(recipe)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "fit", remember)
        assert command(cli, data, *options, "--out", tmp_path / "run").code == 130
    return asked[0]


def test_defaults_are_the_recipes_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_of(data, tmp_path, monkeypatch=monkeypatch) == DEFAULT_RECIPE


def test_faithful_options_are_the_published_ones(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--mode", "faithful", "--modality", "xyz", "--hallucination", "i2f")
    recipe = recipe_of(data, tmp_path, *options, monkeypatch=monkeypatch)
    part = bank_part(recipe)
    assert (part.rgb, part.xyz, part.fusion) == (PUBLISHED_RGB, PUBLISHED_XYZ, "ocsvm")
    assert (recipe.size, recipe.view, part.coreset) == (224, "sensor", 0.1)
    assert (part.components, part.image_score) == (None, "reweighted")
    assert part.distillation == replace(PUBLISHED_DISTILLATION, learning_rate=3e-4)
    rgb = recipe_of(data, tmp_path, "--mode", "faithful", "--hallucination", "i2f", monkeypatch=monkeypatch)
    assert bank_part(rgb).distillation.learning_rate == 2e-4


def test_every_option_reaches_the_recipe(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = shlex.split(
        "--modality xyz --hallucination f2i --rgb-backbone resnetv2_50 --rgb-stages 1,2 --rgb-grid 14 --rgb-weights a "
        "--xyz normals --surface-stages 0,1 --surface-grid 28 --surface-weights b --epochs 3 --batch 2 "
        "--learning-rate 0.01 --loss cosine --f2f-output gelu --distil-validation 0.5 --patience 1 --distil-on all "
        "--coreset 0.5 --view top --size 320 --components 9 "
        "--image-score max --distances relative --fusion ocsvm --false-reject-rate 0.1 --seed 7 --no-foreground"
    )
    recipe = recipe_of(data, tmp_path, *options, monkeypatch=monkeypatch)
    rgb = RgbExtractor("resnetv2_50", (1, 2), 14, "a")
    assert recipe == bank_recipe(
        modality="xyz",
        hallucination="f2i",
        rgb=rgb,
        xyz=SurfaceExtractor("normals", replace(rgb, stages=(0, 1), grid=28, weights="b")),
        distillation=Distillation(3, 2, 0.01, 2, 2.5, "gelu", "cosine", 0.5, 1, ("gear",)),
        foreground=False,
        coreset=0.5,
        view="top",
        size=320,
        components=9,
        image_score="max",
        distances="relative",
        fusion="ocsvm",
        false_reject_rate=0.1,
        seed=7,
    )
    f2f = "--hallucination f2f --hallucination-context 5 --main-bank enhanced --residual-map cycle"
    part = bank_part(recipe_of(data, tmp_path, *f2f.split(), monkeypatch=monkeypatch))
    assert (part.distillation.context, part.main_bank, part.residual_map) == (5, "enhanced", "cycle")
    located = "--hallucination f2f --hallucination-coordinates cell --hallucination-targets stages --alignment 0.1"
    network = bank_part(recipe_of(data, tmp_path, *located.split(), monkeypatch=monkeypatch)).distillation
    assert (network.coordinates, network.targets, network.alignment) == ("cell", "stages", 0.1)
    uncertain = ("--hallucination", "f2f", "--uncertainty", "bank")
    assert bank_part(recipe_of(data, tmp_path, *uncertain, monkeypatch=monkeypatch)).uncertainty == "bank"
    assert bank_part(recipe_of(data, tmp_path, "--components", 0, monkeypatch=monkeypatch)).components is None
    bert = bank_part(recipe_of(data, tmp_path, "--xyz", "point_bert", monkeypatch=monkeypatch)).points
    assert bert is not None
    assert bert.network == "point_bert"


def test_former_name_of_the_top_view(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(data, tmp_path, "--modality", "xyz", "--view", "plan", monkeypatch=monkeypatch)
    assert recipe.view == "top"
    assert Recipe.from_json({**recipe.to_json(), "view": "plan"}) == recipe
    with pytest.raises(RunError, match="recipe view"):
        replace(recipe, view="plan")


def test_cuda_where_there_is_none(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert_refused(train(data, "--device", "cuda", out=tmp_path / "run"), 7, "--device cuda", "no CUDA device")


def test_cache_budget(data: Path, tmp_path: Path) -> None:
    assert_refused(train(data, "--cache-gb", 1e-6, out=tmp_path / "run"), 7, "GB", "--cache-gb")


def test_both_with_hallucination(data: Path, tmp_path: Path) -> None:
    refused = train(data, "--modality", "both", "--hallucination", "f2f", out=tmp_path / "run")
    assert_refused(refused, 7, "recipe hallucination", "nothing is missing")
