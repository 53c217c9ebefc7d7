"""`--mask FILE`: a region that never decides a verdict, from the command line to the overlay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmdiad import Inspector, OpenOptions, Sample
from cmdiad_bench import cli as bench
from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_export.search.held_out import HeldOut
from cmdiad_export.search.smaller_banks import with_smaller_banks
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.envelope.names import LEARNT_CHECKS
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.inspection.overlay import hatched
from cmdiad_runtime.preprocess.ignored_region import IgnoredRegion
from cmdiad_runtime.preprocess.mask_note import mask_notes, mask_text
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli import train
from cmdiad_train.detectors import registry
from cmdiad_train.detectors.bank.fitting.banks import inspected_patches
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.fit.mask import InspectionMask, read_inspection_mask
from cmdiad_train.recipe import SMALL_NORMALS, SMALL_RGB, Recipe, RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_held_out, load_run
from families.pixel_gaussian import FAMILY
from helpers import RecordingReporter, assert_refused, command, make_data, read_image, tiny_recipe, write_image
from lanes import long
from trays import SIDE, Tray, make_trays, tray

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14, SMALL_NORMALS.backbone.weights))
IMAGES = RgbExtractor("resnet10t", (0, 1), 14, SMALL_RGB.weights)
CENTRE = [(80.0, 80.0)]
SMALL = ("--size", 112, "--rgb-grid", 14, "--coreset", 0.1, "--device", "cpu")


def recipe_of(modality: str, view: str) -> Recipe:
    return tiny_recipe(modality, rgb=IMAGES, xyz=NORMALS, view=view, coreset=0.1, false_reject_rate=0.05)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One part in every picture; the first good training sample is `train/good/000`."""
    return make_trays(tmp_path_factory.mktemp("parts") / "data", train=8, validation=10, places=CENTRE)


def place_on_part(drawn: Tray, place: tuple[float, float]) -> tuple[float, float]:
    """Row and column of a place on the part: pixels from its centre, away from the dark spot and across."""
    dark = np.argwhere((drawn.rgb[..., 0] > 80) & (drawn.rgb[..., 0] < 115)).mean(axis=0)
    centre = np.array(drawn.centres[0])
    along = (centre - dark) / np.linalg.norm(centre - dark)
    row, column = centre + along * place[0] + np.array([along[1], -along[0]]) * place[1]
    return float(row), float(column)


IGNORED, INSPECTED = (12.0, 0.0), (-2.0, 0.0)
"""Places of defects on the part."""


def disc(drawn: Tray, place: tuple[float, float], radius: float) -> np.ndarray:
    row, column = place_on_part(drawn, place)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(rows - row, columns - column) < radius)


def part_mask(parts: Path) -> np.ndarray:
    """A region on the first training part, which leaves the dark spot that shows the direction of the part."""
    first = tray(0, places=CENTRE)
    np.testing.assert_array_equal(read_image(parts / "tray" / "train" / "good" / "rgb" / "000.png"), first.rgb)
    return disc(first, IGNORED, 10)


def fixed_mask() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:50, :70] = True
    return mask


CASES = ["rgb-sensor", long("rgb-part"), long("xyz-top"), "both-each"]


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    modality, view = request.param.split("-")
    pixels = fixed_mask() if view == "sensor" else part_mask(parts)
    folder = tmp_path_factory.mktemp("runs") / request.param
    fit(parts, None, recipe_of(modality, view), folder, options=FitOptions(mask=InspectionMask(Path("m.png"), pixels)))
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / f"{run.name}.cmdiad"
    write_bundle(load_run(run), folder, ExportOptions("fp32"), SILENT)
    return folder


def sample_of(seed: int, *, mark: tuple[float, float] | None = None) -> Sample:
    """A part, with a defect at a place of the part if `mark` names one."""
    drawn = tray(seed, places=CENTRE)
    rgb, xyz = drawn.rgb.copy(), drawn.xyz.copy()
    if mark is not None:
        spot = disc(drawn, mark, 5)
        rgb[spot], xyz[spot, 2] = 250, xyz[spot, 2] - 0.004
    return Sample("part", rgb=rgb, xyz=xyz)


def test_a_run_contains_the_mask(run: Path) -> None:
    record = read_record(run)
    ignored = record.preprocessing.ignored
    assert ignored is not None
    assert record.recipe.mask is not None
    assert (ignored.height, ignored.width, ignored.size) == (SIDE, SIDE, 112)
    kept_copy = InspectionMask(run, read_image(run / "mask.png") == 255)
    assert kept_copy.digest == record.recipe.mask
    if run.name.endswith("sensor"):
        assert ignored.share == pytest.approx(50 * 70 / SIDE**2)
        assert mask_text(record.preprocessing) == "13.7 % of the picture is not inspected, because of --mask"
    else:
        assert 0.1 < ignored.share < 0.5
        assert mask_text(record.preprocessing).endswith(" % of the part is not inspected, because of --mask")


def test_an_ignored_defect_never_decides_and_any_other_does(bundle: Path) -> None:
    fixed = bundle.stem.endswith("sensor")
    # The recording conditions concern the whole picture, which the strong marks here change.
    with Inspector.open(bundle, OpenOptions(ignore_checks=LEARNT_CHECKS)) as inspector:
        for seed in (7001, 7002, 7003):
            good = inspector.inspect(sample_of(seed))
            assert good.inspected, good.message
            assert good.to_dict()["ignored_share"] > 0.1
            if fixed:
                sample = sample_of(seed)
                assert sample.rgb is not None
                noise = np.random.default_rng(seed).integers(0, 256, (45, 65, 3), dtype=np.uint8)
                sample.rgb[:45, :65] = noise  # at the border of the region, resizing mixes neighbouring pixels
                ignored = inspector.inspect(sample)
                assert ignored.score == good.score  # no pixel of the region has any influence
                np.testing.assert_array_equal(ignored.heatmap(), good.heatmap())
                assert not good.heatmap()[2:48, 2:68].any()
            else:
                ignored = inspector.inspect(sample_of(seed, mark=IGNORED))
            assert ignored.inspected, ignored.message
            assert ignored.score < 1.3 * good.score  # the pose may move by a fraction of a pixel
            defect = sample_of(seed, mark=INSPECTED)
            if fixed:
                assert defect.rgb is not None
                defect.rgb[120:140, 120:140] = 255
            bad = inspector.inspect(defect)
            assert (bad.verdict, bad.reason) == ("NG", "score")
            assert bad.score > 1.5 * good.score


def test_the_overlay_shows_the_region(bundle: Path) -> None:
    with Inspector.open(bundle) as inspector:
        inspection = inspector.inspect(sample_of(7001))
    assert inspection.ignored is not None
    assert inspection.ignored.shape == (112, 112)
    with_region, without = inspection.overlay(), replace(inspection, ignored=None).overlay()
    changed = (with_region != without).any(axis=2)
    assert 0.1 < changed.sum() / max(1, round(inspection.ignored.mean() * SIDE**2)) < 0.6


def test_export_needs_no_mask_file_and_names_the_share(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert len(manifest["recipe"]["mask"]) == 64
    assert 0 < manifest["preprocessing"]["ignored"]["share"] < 1


def test_the_report_and_results_state_the_share(bundle: Path, parts: Path, tmp_path: Path) -> None:
    ended = command(bench.cli, "report", parts, bundle, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    (record,) = json.loads((tmp_path / "report" / "report.json").read_text())["classes"]
    assert record["ignored_share"] > 0.1
    assert "Not inspected (mask)" in (tmp_path / "report" / "report.html").read_text()
    picture = parts / "tray" / "test" / "good" / ("xyz" if bundle.stem.startswith("xyz") else "rgb")
    ended = command(run_cli.cli, bundle, picture, "--output", tmp_path / "out")
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert all(json.loads(line)["ignored_share"] == pytest.approx(record["ignored_share"], abs=1e-5) for line in lines)
    assert len(lines) == 2


def test_stored_samples_show_nothing_of_the_region(run: Path) -> None:
    loaded = load_run(run)
    ignored = loaded.preprocessing.ignored
    assert ignored is not None
    for sample in load_held_out(run):
        for number, (name, values) in enumerate(sample.inputs.items()):
            region = ignored.array[min(("surface", "rgb").index(name), len(ignored.regions) - 1)]
            assert not values.numpy()[0][region].any(), (sample.name, number)
        with torch.no_grad():
            _, anomaly_map = loaded.detector(*sample.inputs_of(loaded.detector.input_names).values())
        score = float(sample.over_sensor(anomaly_map.numpy()).max())
        assert (score > loaded.calibration.score_threshold) == sample.tampered, sample.name


def test_smaller_banks_keep_the_mask(run: Path) -> None:
    loaded = load_run(run)
    held_out = HeldOut.of(loaded.detector, load_held_out(run))  # type: ignore[arg-type]
    (smaller,) = with_smaller_banks(loaded, held_out, [0.05]).values()
    for scorer, original in zip(smaller.detector.scorers, loaded.detector.scorers, strict=True):  # type: ignore[arg-type]
        assert torch.equal(scorer.kept_cells, original.kept_cells)


# --- The command line --------------------------------------------------------------------------------------------


def draw(path: Path, pixels: np.ndarray) -> Path:
    return write_image(path, pixels.astype(np.uint8) * np.uint8(255))


def test_the_command_states_the_ignored_share_and_another_mask_is_another_run(parts: Path, tmp_path: Path) -> None:
    mask, out = draw(tmp_path / "mask.png", part_mask(parts)), tmp_path / "run"
    ended = command(train.cli, parts, *SMALL, "--mask", mask, "--out", out)
    assert ended.code == 0, ended.err
    assert "% of the part is not inspected, because of --mask; the region is drawn over train/good/000" in ended.err
    assert "mask: " in ended.out
    assert command(train.cli, parts, *SMALL, "--mask", mask, "--out", out).code == 0
    draw(mask, np.roll(part_mask(parts), 4, axis=0))
    refused = command(train.cli, parts, *SMALL, "--mask", mask, "--out", out)
    assert_refused(refused, 6, out, "another recipe")
    assert_refused(command(train.cli, parts, *SMALL, "--out", out), 6, out, "another recipe")


@pytest.mark.parametrize(
    ("pixels", "code", "words"),
    [
        (np.zeros((SIDE, SIDE), np.uint8), 7, "black everywhere"),
        (np.full((SIDE, SIDE), 255, np.uint8), 7, "white everywhere"),
        (np.eye(100, dtype=np.uint8) * 255, 7, "100 x 100 pixels"),
        (np.eye(SIDE, dtype=np.uint8) * 128, 3, "grey values"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), 3, "RGB"),
        (np.zeros((SIDE, SIDE, 4), np.uint8), 3, "RGBA"),
    ],
)
@pytest.mark.failure_mode("An inspection mask of the wrong size or kind")
def test_wrong_masks_are_refused_before_the_work(
    parts: Path, tmp_path: Path, pixels: np.ndarray, code: int, words: str
) -> None:
    mask = write_image(tmp_path / "mask.png", pixels)
    refused = command(train.cli, parts, *SMALL, "--mask", mask, "--out", tmp_path / "run")
    assert_refused(refused, code, mask, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("view", ["sensor", "part"])
def test_a_mask_that_leaves_hardly_anything_is_refused(parts: Path, tmp_path: Path, view: str) -> None:
    pixels = np.full((SIDE, SIDE), 255, np.uint8)
    pixels[78:81, 78:81] = 0
    mask = write_image(tmp_path / "mask.png", pixels)
    refused = command(train.cli, parts, *SMALL, "--view", view, "--mask", mask, "--out", tmp_path / "run")
    assert_refused(refused, 7, mask, "pixels of the view to inspect", "at least 64 pixels")


def test_a_large_mask_is_a_warning_and_never_rounded_to_everything() -> None:
    def text(share: float) -> str:
        region = IgnoredRegion.of([np.zeros((8, 8), np.bool_)], (8, 8), share)
        settings = Preprocessing("rgb", size=8, ignored=region)
        (note,) = mask_notes(settings)
        assert note.endswith(mask_text(settings))
        return note

    assert text(0.2) == "note: 20.0 % of the picture is not inspected, because of --mask"
    assert text(0.9999).startswith(
        "warning: more than 99.9 % of the picture is not inspected, because of --mask: a defect"
    )
    assert text(0.5).startswith("warning: 50.0 % of")
    assert text(0.0001).startswith("note: less than 0.1 % of")


def test_a_missing_or_damaged_mask_is_refused(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"mask")
    (tmp_path / "folder.png").mkdir()
    for name, words in (("no.png", "no such file"), ("text.png", "cannot be read"), ("folder.png", "a folder")):
        refused = command(train.cli, parts, *SMALL, "--mask", tmp_path / name, "--out", tmp_path / "run")
        assert_refused(refused, 3, tmp_path / name, words)


@pytest.mark.parametrize(("kind", "words"), [("off", "does not touch the part"), ("all", "covers the whole part")])
def test_a_region_off_the_part_or_over_all_of_it_is_refused(parts: Path, tmp_path: Path, kind: str, words: str) -> None:
    pixels = np.zeros((SIDE, SIDE), dtype=bool)
    pixels[:20, :20] = True
    pixels = pixels if kind == "off" else ~pixels
    mask = draw(tmp_path / "mask.png", pixels)
    refused = command(train.cli, parts, *SMALL, "--view", "part", "--mask", mask, "--out", tmp_path / "run")
    assert_refused(refused, 7, mask, words)


def test_a_region_without_a_whole_patch_is_refused(parts: Path, tmp_path: Path) -> None:
    pixels = np.zeros((SIDE, SIDE), dtype=bool)
    pixels[80:84, 80:84] = True
    mask = draw(tmp_path / "mask.png", pixels)
    refused = command(train.cli, parts, *SMALL, "--view", "sensor", "--mask", mask, "--out", tmp_path / "run")
    assert_refused(refused, 7, "--mask", "no patch lies completely")


def test_a_recipe_with_a_mask_needs_the_mask(parts: Path, tmp_path: Path) -> None:
    recipe = replace(recipe_of("rgb", "sensor"), mask="0" * 64)
    with pytest.raises(RunError, match="--mask FILE"):
        fit(parts, None, recipe, tmp_path / "run")


def test_the_digest_depends_on_pixels_and_size_alone(tmp_path: Path) -> None:
    pixels = fixed_mask()
    png, bmp = draw(tmp_path / "m.png", pixels), draw(tmp_path / "m.bmp", pixels)
    assert read_inspection_mask(png).digest == read_inspection_mask(bmp).digest
    assert read_inspection_mask(draw(png, pixels.reshape(80, 320))).digest != read_inspection_mask(bmp).digest
    with pytest.raises(InputError):
        read_inspection_mask(tmp_path)


def discs(folder: Path, *, marked: bool) -> Path:
    """Round parts, with a mark that shows their direction, or without."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(float)
    for split, count in (("train", 6), ("validation", 4)):
        (folder / split / "good").mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng(number if split == "train" else 100 + number)
            row, column = 80 + rng.uniform(-4, 4, 2)
            grey = 40 + rng.normal(0, 2, (SIDE, SIDE))
            inside = np.hypot(rows - row, columns - column) < 50
            grey[inside] = 170 + rng.normal(0, 3, inside.sum())
            turn = rng.uniform(0, 2 * np.pi) if number else 0.0
            spot = np.hypot(rows - row - 35 * np.sin(turn), columns - column - 35 * np.cos(turn)) < 6
            grey[spot & marked] = 90
            pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            write_image(folder / split / "good" / f"{number:03d}.png", pixels)
    return folder


@pytest.mark.parametrize("marked", [True, False])
def test_training_says_if_parts_have_no_direction_for_the_region(tmp_path: Path, marked: bool) -> None:
    data = discs(tmp_path / "discs", marked=marked)
    pixels = np.zeros((SIDE, SIDE), dtype=bool)
    pixels[40:70, 60:90] = True
    mask = draw(tmp_path / "mask.png", pixels)
    ended = command(train.cli, data, *SMALL, "--view", "part", "--mask", mask, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert ("looks nearly the same after a turn" in ended.err) != marked


# --- Detectors ---------------------------------------------------------------------------------------------------


def test_ignored_patches_take_no_part_in_score_and_map() -> None:
    bank = MemoryBank.from_rows(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), 0.0, 1.0)
    kept = torch.ones(16, 16, dtype=torch.bool)
    kept[:8, :8] = False
    options = {"grid": 4, "size": 16, "published_blur": False}
    masked, whole = BankScorer(bank, kept=kept, **options), BankScorer(bank, **options)  # type: ignore[arg-type]
    assert marked_cells(kept, 4).reshape(4, 4).tolist() == [[False, False, True, True]] * 2 + [[True] * 4] * 2
    rows, cells = torch.zeros(16, 4), torch.arange(16)
    rows[0] = 50.0
    score, anomaly_map = masked(rows, cells)
    rows[0] = 0.0
    expected, _ = whole(rows, cells)
    assert float(score) == pytest.approx(float(expected))
    assert not anomaly_map[:8, :8].any()
    rows[0], rows[15] = 50.0, 9.0
    found, _ = masked(rows, cells)
    rows[0] = 0.0
    assert float(found) == pytest.approx(float(whole(rows, cells)[0]))
    assert whole.kept_cells is None


def test_rows_of_the_region_do_not_enter_the_bank() -> None:
    kept = torch.ones(1, 16, 16, dtype=torch.bool)
    kept[:, :8] = False
    patches = [[(torch.randn(16, 3), torch.arange(16))]]
    (((_, cells),),) = inspected_patches(patches, [4], kept)
    assert cells.tolist() == list(range(8, 16))
    assert inspected_patches(patches, [4], None) is patches
    with pytest.raises(RunError, match="leaves no patch"):
        inspected_patches(patches, [4], torch.zeros(1, 16, 16, dtype=torch.bool))
    with pytest.raises(RunError, match="no patch lies completely"):
        inspected_patches(patches, [4], torch.ones(1, 16, 16, dtype=torch.bool))


def test_another_family_builds_the_mask_into_its_module(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    pixels = np.zeros((112, 112), dtype=bool)
    pixels[:40, :40] = True
    mask = draw(tmp_path / "mask.png", pixels)
    registry.register(FAMILY)
    try:
        options = ("--family", FAMILY.name, "--gaussian-cells", 14, "--mask", mask, "--out", tmp_path / "run")
        ended = command(train.cli, data, *options)
        assert ended.code == 0, ended.err
        detector = load_run(tmp_path / "run").detector
        image = torch.rand(1, 112, 112, 3) * 255
        score, anomaly_map = detector(image)
        image[:, :40, :40] = 0
        again, _ = detector(image)
        assert not anomaly_map[:40, :40].any()
        assert abs(float(score) - float(again)) < 20
    finally:
        registry.unregister(FAMILY.name)


def test_hatching_changes_only_the_region() -> None:
    picture = np.full((40, 60, 3), 90, dtype=np.uint8)
    region = np.zeros((40, 60), dtype=bool)
    region[10:30, 10:30] = True
    drawn = hatched(picture, region)
    changed = (drawn != picture).any(axis=2)
    assert changed[region].any()
    assert not changed[~region].any()
    assert changed[region].mean() < 0.5


def test_without_a_mask_nothing_is_recorded(parts: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    fit(parts, None, recipe_of("rgb", "part"), tmp_path / "run", reporter)
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "mask" not in content["recipe"]
    assert {"ignored", "parts"}.isdisjoint(content["preprocessing"])
    assert not (tmp_path / "run" / "mask.png").exists()
    assert not any(line.startswith("Mask") for line in reporter.lines)
