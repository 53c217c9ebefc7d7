"""`cmdiad-train`: from paired samples of good parts to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.progress import Progress

HELP = """Train a detector on DATA (cmdiad-data check DATA tells its layout) and write a run directory.

The good training samples build the memory bank, the validation split sets the threshold (every fifth training
sample where there is none), the test split is evaluated if there is one. An interrupted training goes on when the
same command is given again.

\b
Exit codes: 0 done, 2 wrong command line, 3 a sample cannot be read, 6 output not writable, 7 data or recipe
unusable, 130 interrupted.
"""


def _rename_view(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Accept the former name of the top view, with a note on stderr."""
    if value != "plan":
        return value
    click.echo("--view plan is now called --view top.", err=True)
    return "top"


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--category", help="Which category of DATA; may be left out where there is one.")
@click.option(
    "--modality",
    type=click.Choice(["rgb", "xyz", "both"]),
    default="rgb",
    help="Main modality, the sensor on the line; both hallucinates nothing.",
)
@click.option(
    "--hallucination",
    type=click.Choice(["none", "f2f", "f2i", "i2f"]),
    default="none",
    help="How the other modality is hallucinated: features to features, features to input, input to features.",
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
@click.option("--rgb-grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: 40]")
@click.option(
    "--rgb-weights",
    help="timm (its download), seeded (random) or a safetensors FILE; one of cmdiad-extractor's sets the others.",
)
@click.option(
    "--size", type=click.IntRange(min=32), help="Side of the network's view in pixels.  [default: 320, faithful: 224]"
)
@click.option(
    "--view",
    type=click.Choice(["auto", "sensor", "top", "part", "each", "plan"]),
    metavar="[auto|sensor|top|part|each]",
    callback=_rename_view,
    help="part: turned upright and cut out of the image (rgb or both); top: from above the support, turned upright, "
    "at one scale (xyz normals or both); each: the cloud from the top, the image cut out (both); sensor: as recorded; "
    "auto: the best of these in which every good part is found.  [default: auto, faithful: sensor]",
)
@click.option(
    "--rgb-mask",
    type=click.Choice(["none", "cloud"]),
    default="none",
    help="cloud: black out the image's background by the cloud (the paper's protocol).",
)
@click.option(
    "--xyz",
    "xyz_kind",
    type=click.Choice(["point_mae", "point_bert", "normals", "depth"]),
    help="How clouds are looked at: as groups of points, or as an image of surface normals or depth.  "
    "[default: normals, faithful: point_mae, or what --xyz-weights are for]",
)
@click.option("--surface-backbone", help="timm model for normals and depth.  [default: that of --rgb-backbone]")
@click.option("--surface-stages", help="Its CNN stages.  [default: those of --rgb-stages]")
@click.option("--surface-grid", type=click.IntRange(min=2), help="Side of its grid.  [default: that of --rgb-grid]")
@click.option("--surface-weights", help="Its weights.  [default: those of --rgb-weights]")
@click.option("--xyz-groups", type=click.IntRange(min=3), help="Point groups per cloud.")
@click.option("--xyz-group-size", type=click.IntRange(min=1), help="Points per group.")
@click.option("--xyz-width", type=click.IntRange(min=8), help="Width of the point transformer.")
@click.option(
    "--xyz-depth",
    type=click.IntRange(min=1),
    help="Blocks of the point transformer; the last and the one a third of the way are tapped.",
)
@click.option("--xyz-heads", type=click.IntRange(min=1), help="Its attention heads.")
@click.option("--xyz-grid", type=click.IntRange(min=2), help="Side of the grid of point features.")
@click.option(
    "--xyz-normalisation",
    type=click.Choice(["frozen", "batch", "eval"]),
    help="BatchNorm statistics of the point encoder.",
)
@click.option("--xyz-weights", help="seeded (random), or a Point-MAE or Point-BERT checkpoint FILE.")
@click.option("--foreground/--no-foreground", default=True, help="Remove support plane and stray clusters from clouds.")
@click.option(
    "--coreset",
    type=float,
    help="Fraction of rows kept in a memory bank.  [default: all up to 25 000 rows, faithful: 0.1]",
)
@click.option(
    "--components",
    type=click.IntRange(min=0),
    help="Principal components of the normal features that are used; 0 takes all channels.  "
    "[default: 256, faithful: 0]",
)
@click.option(
    "--image-score",
    type=click.Choice(["reweighted", "max"]),
    help="The largest distance, by how usual its bank row is (as published) or as it is.  "
    "[default: max, faithful: reweighted]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of the distillation network.  [default: 12, faithful: 100]")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Samples per step of its training.  [default: 4, faithful: 32]"
)
@click.option(
    "--learning-rate", type=float, help="Its learning rate.  [default: 1e-3; faithful: 5e-4, i2f 3e-4 or 2e-4]"
)
@click.option("--loss", type=click.Choice(["l2", "cosine", "smooth_l1"]), help="Its loss per row.  [default: l2]")
@click.option("--f2f-output", type=click.Choice(["linear", "gelu"]), help="[default: linear, faithful: gelu]")
@click.option(
    "--distil-validation",
    type=float,
    help="Share of training samples that choose its best epoch.  [default: 0.1, faithful: 0]",
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    help="Epochs without a better one before it stops; 0 never.  [default: 5, faithful: 0]",
)
@click.option(
    "--distil-on",
    help="Categories whose good samples it is trained on too, as a,b or all (as published).  [default: its own]",
)
@click.option(
    "--network-from",
    type=click.Path(path_type=Path),
    help="Take extractors and network over from this finished run (train a joint network once).",
)
@click.option(
    "--fusion",
    type=click.Choice(["standardised", "ocsvm"]),
    help="Weights of the linear fusion.  [default: standardised, faithful: ocsvm]",
)
@click.option("--false-reject-rate", type=float, default=0.05, help="Share of good parts that may be rejected.")
@click.option("--seed", type=int, default=0)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where features are extracted and networks trained; auto takes CUDA where there is one.",
)
@click.option("--cache-gb", type=float, default=50.0, help="Disk space that cached features may take.")
def cli(
    data: Path,
    category: str | None,
    out: Path | None,
    network_from: Path | None,
    device: str,
    cache_gb: float,
    **options: Any,
) -> None:
    """See HELP."""
    from cmdiad_runtime.support.newest import RUNS
    from cmdiad_train.cli.recipe_options import recipe_from
    from cmdiad_train.datasets import open_category
    from cmdiad_train.fit.fit import Machine, fit

    recipe = recipe_from(options, _categories(options["distil_on"], data))
    if out is None:
        name = open_category(data, category).name
        out = RUNS / f"{name}-{recipe.modality}-{recipe.hallucination}"
    progress = Progress()
    machine = Machine(device, cache_gb)
    record = fit(data, category, recipe, out, progress, machine=machine, network_from=network_from, say=_say)
    progress.close()
    _summarise(record, out)


def _say(line: str) -> None:
    click.echo(line, err=True)


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-train")


def _categories(text: str | None, data: Path) -> tuple[str, ...]:
    if not text:
        return ()
    if text != "all":
        return tuple(sorted(part.strip() for part in text.split(",") if part.strip()))
    from cmdiad_train.datasets import list_categories

    return tuple(list_categories(data))


def _summarise(record: dict[str, Any], out: Path) -> None:
    for modality, provenance in record["provenance"].items():
        click.echo(f"{modality} extractor: {provenance['extractor']}")
    metrics = record["metrics"]
    if metrics is not None:
        names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO@30%"}
        figures = ", ".join(f"{words} {metrics[key]:.3f}" for key, words in names.items() if metrics[key] is not None)
        click.echo(f"test split ({metrics['samples']} samples): {figures}")
    click.echo(f"run: {out}")
