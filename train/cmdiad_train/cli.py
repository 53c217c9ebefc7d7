"""`cmdiad-train`: from paired samples of good parts to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.command_line import run_command
from cmdiad_runtime.progress import Progress

if TYPE_CHECKING:
    from cmdiad_train.recipe import Recipe

HELP = """Train a detector on DATA (MVTec 3D-AD layout) and write a run directory.

DATA/CATEGORY/train/good/{rgb,xyz} build the memory bank, validation/good sets the threshold (every fifth training
sample where it is absent), test/ is evaluated if there is one. An interrupted training goes on when the same
command is given again.

\b
Exit codes: 0 done, 2 wrong command line, 3 a sample cannot be read, 6 output not writable, 7 data or recipe
unusable, 130 interrupted.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--category", help="Which category of DATA; may be left out where there is one.")
@click.option(
    "--modality",
    type=click.Choice(["rgb", "xyz"]),
    default="rgb",
    help="Main modality, the sensor on the line.",
)
@click.option(
    "--hallucination",
    type=click.Choice(["none", "f2f"]),
    default="none",
    help="Hallucinate the other modality's features.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run directory.  [default: runs/CATEGORY-MODALITY-HALLUCINATION]",
)
@click.option(
    "--mode",
    type=click.Choice(["default", "faithful"]),
    default="default",
    help="What we think is right, or the published code's behaviour.",
)
@click.option("--rgb-backbone", help="Any timm model.  [default: resnet10t, faithful: vit_base_patch8_224.dino]")
@click.option("--rgb-stages", help="CNN stages as 1,2 (stage k has stride 4·2^k); '' for a ViT.")
@click.option("--rgb-grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: 28]")
@click.option("--rgb-weights", help="timm (its download), seeded (random) or a safetensors FILE.")
@click.option(
    "--rgb-mask",
    type=click.Choice(["none", "cloud"]),
    default="none",
    help="cloud: black out the image's background by the cloud (the paper's protocol).",
)
@click.option("--xyz-groups", type=click.IntRange(min=3), help="Point groups per cloud.")
@click.option("--xyz-group-size", type=click.IntRange(min=1), help="Points per group.")
@click.option("--xyz-width", type=click.IntRange(min=8), help="Width of the point transformer.")
@click.option(
    "--xyz-depth",
    type=click.IntRange(min=1),
    help="Blocks of the point transformer; the last and the middle one are tapped.",
)
@click.option("--xyz-heads", type=click.IntRange(min=1), help="Its attention heads.")
@click.option("--xyz-grid", type=click.IntRange(min=2), help="Side of the grid of point features.")
@click.option(
    "--xyz-normalisation",
    type=click.Choice(["frozen", "batch", "eval"]),
    help="BatchNorm statistics of the point encoder.",
)
@click.option("--xyz-weights", help="seeded (random), or a Point-MAE checkpoint FILE.")
@click.option("--foreground/--no-foreground", default=True, help="Remove support plane and stray clusters from clouds.")
@click.option("--coreset", type=float, default=0.1, help="Fraction of rows kept in a memory bank.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the distillation network.  [default: 12, faithful: 100]")
@click.option(
    "--fusion",
    type=click.Choice(["standardised", "ocsvm"]),
    help="Weights of the linear fusion.  [default: standardised, faithful: ocsvm]",
)
@click.option("--false-reject-rate", type=float, default=0.05, help="Share of good parts that may be rejected.")
@click.option("--seed", type=int, default=0)
def cli(data: Path, category: str | None, out: Path | None, **options: Any) -> None:
    """See HELP."""
    from cmdiad_train.dataset import find_category
    from cmdiad_train.fit import fit

    recipe = _recipe(options)
    if out is None:
        name = find_category(data, category)[1]
        out = Path("runs") / f"{name}-{recipe.modality}-{recipe.hallucination}"
    progress = Progress()
    record = fit(data, category, recipe, out, progress)
    progress.close()
    _summarise(record, out)


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-train")


def _recipe(options: dict[str, Any]) -> Recipe:
    """The recipe that the options describe, over the mode's own defaults."""
    from dataclasses import replace

    from cmdiad_train.recipe import (
        PUBLISHED_RGB,
        PUBLISHED_XYZ,
        Distillation,
        Recipe,
        RgbExtractor,
        XyzExtractor,
    )

    faithful = options["mode"] == "faithful"
    rgb = replace(PUBLISHED_RGB if faithful else RgbExtractor(), **_given(options, "rgb_", ("mask", "stages")))
    if options["rgb_stages"] is not None:
        rgb = replace(rgb, stages=_stages(options["rgb_stages"]))
    xyz = replace(PUBLISHED_XYZ if faithful else XyzExtractor(), **_xyz_options(options))
    distillation = Distillation(100, 32, 5e-4, 10, 2.5, "gelu") if faithful else Distillation()
    if options["epochs"] is not None:
        distillation = replace(distillation, epochs=options["epochs"])
    return Recipe(
        mode=options["mode"],
        modality=options["modality"],
        hallucination=options["hallucination"],
        rgb=rgb,
        xyz=xyz,
        distillation=distillation,
        rgb_mask=options["rgb_mask"],
        foreground=options["foreground"],
        coreset=options["coreset"],
        fusion=options["fusion"] or ("ocsvm" if faithful else "standardised"),
        false_reject_rate=options["false_reject_rate"],
        seed=options["seed"],
    )


def _given(options: dict[str, Any], prefix: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    names = {key: key.removeprefix(prefix) for key in options if key.startswith(prefix)}
    return {name: options[key] for key, name in names.items() if name not in without and options[key] is not None}


def _xyz_options(options: dict[str, Any]) -> dict[str, Any]:
    given = _given(options, "xyz_")
    if "depth" in given:
        depth = given["depth"]
        given["taps"] = tuple(sorted({(depth - 1) // 3, depth - 1}))
    return given


def _stages(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of stages such as 1,2", param_hint="--rgb-stages") from error


def _summarise(record: dict[str, Any], out: Path) -> None:
    for modality, provenance in record["provenance"].items():
        click.echo(f"{modality} extractor: {provenance['extractor']}")
    metrics = record["metrics"]
    if metrics is not None:
        click.echo(
            f"test split ({metrics['samples']} samples): image AUROC {metrics['image_auroc']:.3f}, "
            f"pixel AUROC {metrics['pixel_auroc']:.3f}, AUPRO@30% {metrics['aupro_30']:.3f}"
        )
    click.echo(f"run: {out}")
