"""`cmdiad-extractor`: import, pretrain and distil the weights of feature extractors."""

from __future__ import annotations

import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.cli.options import finite
from cmdiad_runtime.support.command_line import CommandGroup, option_group, run_command
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.cli.extractor_options import (
    check_out,
    draw_option,
    machine_options,
    make_job,
    out_option,
    parse_stages,
    recorded_command,
    sample_options,
    schedule_options,
    size_option,
    stored_option,
    use_options,
)

if TYPE_CHECKING:
    from cmdiad_train.extractors.import_images import Imported
    from cmdiad_train.pretraining.samples import ImageKind

IMAGE_KINDS: tuple[ImageKind, ...] = ("rgb", "normals", "depth")

HELP = """Get or make weights for feature extractors: one safetensors file each, with a record of origin and licence.

fetch and import store weights on this machine, where cmdiad-train --extractor looks. Pass other files to cmdiad-train
with --rgb-weights, --surface-weights or --xyz-weights. An interrupted download or training continues if the same
command is repeated.
"""
EXAMPLES = (
    "# for real parts, once: better features than the small network that ships with cmdiad",
    "cmdiad-extractor fetch standard",
    "cmdiad-train parts/",
    "# the same on a machine without internet access, from a file on a USB drive",
    "cmdiad-extractor import resnet18.tv_in1k.safetensors",
    "# weights from good parts without labels",
    "cmdiad-extractor pretrain rgb parts/ --out rgb.safetensors",
    "cmdiad-train parts/ --rgb-weights rgb.safetensors",
)
EXIT_CODES = {
    3: "a sample cannot be read",
    6: "output not writable",
    7: "data or weights unusable",
}

FETCH_HELP = """Fetch the weights of NAME, a preset (standard or large) or any timm model, through timm's hub.

Without --out the weights are stored on this machine, where cmdiad-train --extractor finds them. Repeat the command to
resume an interrupted download.
"""
FETCH_EXAMPLES = (
    "cmdiad-extractor fetch standard",
    "cmdiad-extractor fetch vit_base_patch8_224.dino",
    "# for a machine without internet access: copy the file, and run cmdiad-extractor import there",
    "cmdiad-extractor fetch standard --out resnet18.tv_in1k.safetensors",
)

IMPORT_HELP = """Import SOURCE, a file of weights that was brought to this machine.

SOURCE is a file of cmdiad-extractor or timm, or a checkpoint of DINO, DINOv2, DINOv3, Point-MAE or Point-BERT. The
network is recognised by the names and shapes of the tensors; the classifier is ignored. Safetensors files are
preferred: of a pickle, only plain tensors are read, and anything else is refused.
"""
IMPORT_EXAMPLES = (
    "cmdiad-extractor import resnet18.tv_in1k.safetensors",
    "cmdiad-extractor import pointmae_pretrain.pth",
    "cmdiad-extractor import weights.pth --backbone convnext_atto --licence MIT --out convnext-atto.safetensors",
)

PRETRAIN_HELP = """Train an extractor on good samples without labels: those of data sets, or generated ones.

DATA are one or more data sets in the layouts that cmdiad-train reads.
"""
PRETRAIN_EXAMPLES = (
    "cmdiad-extractor pretrain rgb parts/ --category gear --out rgb.safetensors",
    "cmdiad-extractor pretrain points --generate 48 --out points.safetensors",
)

POINTS_HELP = """Pretrain a point extractor with Point-MAE's masked autoencoding on the good samples of DATA.

DATA are one or more data sets in the layouts that cmdiad-train reads.
"""
POINTS_EXAMPLES = (
    "cmdiad-extractor pretrain points parts/ --out points.safetensors",
    "# for sensors with different origins",
    "cmdiad-extractor pretrain points --generate 48 --shift 0.3 --out points.safetensors",
)

DISTILL_HELP = """Train a small student to predict the patch features of a large teacher on DATA.

The student then replaces the teacher in the recipe. A JSON report next to the weights states the cost of both, and
their agreement on held-out images. DATA are one or more data sets in the layouts that cmdiad-train reads.
"""
DISTILL_EXAMPLES = (
    "cmdiad-extractor distill parts/ --teacher-weights dino.safetensors --out student.safetensors",
    "cmdiad-extractor distill parts/ --teacher-weights timm --teacher-backbone resnetv2_50.a1h_in1k \\",
    "    --student-backbone resnet10t --out student.safetensors",
)


@click.group("cmdiad-extractor", cls=CommandGroup, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
def cli() -> None:
    """See HELP."""


@cli.command(help=FETCH_HELP, examples=FETCH_EXAMPLES)
@click.argument("name")
@use_options
@stored_option
def fetch(name: str, out: Path | None, **options: Any) -> None:
    """See FETCH_HELP."""
    from cmdiad_train.extractors.hub import require_answer
    from cmdiad_train.extractors.presets import preset_of

    _check_stored(out)
    preset = preset_of(name)
    if preset is not None and preset.is_shipped:
        click.echo(f"{name}: {preset.extractor.backbone} ships with cmdiad, nothing to fetch")
        return
    timm_name = name if preset is None else preset.extractor.backbone
    require_answer(timm_name)
    from cmdiad_train.extractors.import_images import ImportOptions
    from cmdiad_train.extractors.import_official import import_timm

    options["stages"] = parse_stages(options["stages"])
    command = recorded_command(click.get_current_context())
    _print_imported(import_timm(timm_name, out, ImportOptions(**options), command=command))


@cli.command("import", help=IMPORT_HELP, examples=IMPORT_EXAMPLES)
@click.argument("source", type=click.Path(path_type=Path))
@option_group(
    "Source",
    click.option(
        "--kind",
        type=click.Choice(["dino", "dinov2", "dinov3", "point_mae", "point_bert", "timm"]),
        help="Official release of SOURCE, or timm for timm's key names.  [default: derived from name and layout]",
    ),
    click.option(
        "--backbone", metavar="NAME", help="timm model of SOURCE.  [default: derived from file name and tensors]"
    ),
)
@use_options
@stored_option
def import_(source: Path, out: Path | None, **options: Any) -> None:
    """See IMPORT_HELP."""
    from cmdiad_train.extractors.import_images import ImportOptions
    from cmdiad_train.extractors.import_official import import_file

    _check_stored(out)
    options["stages"] = parse_stages(options["stages"])
    command = recorded_command(click.get_current_context())
    _print_imported(import_file(source, out, ImportOptions(**options), command=command))


@cli.group(help=PRETRAIN_HELP, examples=PRETRAIN_EXAMPLES, cls=CommandGroup)
def pretrain() -> None:
    """See PRETRAIN_HELP."""


@pretrain.command(help=POINTS_HELP, examples=POINTS_EXAMPLES)
@sample_options
@out_option
@option_group(
    "Extractor",
    click.option("--groups", type=click.IntRange(min=16), default=1024, help="Point groups per cloud."),
    click.option("--group-size", type=click.IntRange(min=4), default=32, help="Points per group."),
    click.option("--width", type=click.IntRange(min=8), default=96, help="Width of the point transformer."),
    click.option("--depth", type=click.IntRange(min=1), default=2, help="Blocks of the point transformer."),
    click.option("--heads", type=click.IntRange(min=1), default=3, help="Attention heads of the point transformer."),
    click.option(
        "--normalisation",
        type=click.Choice(["frozen", "batch"]),
        default="frozen",
        help="BatchNorm statistics at inference. frozen: of the training clouds. batch: of each cloud.",
    ),
    click.option("--weights", default="seeded", metavar="FILE", help="Starting weights of the same sizes."),
)
@option_group(
    "Training",
    click.option(
        "--shift",
        type=click.FloatRange(min=0),
        callback=finite,
        default=0.0,
        help="Largest random shift of a cloud along each axis in metres, for use with other sensors.",
    ),
)
@size_option(224, "Side in pixels to which clouds are resized.")
@schedule_options(epochs=12, batch=8, rate=1e-3)
@machine_options
def points(data: tuple[Path, ...], out: Path, size: int, shift: float, **options: Any) -> None:
    """See POINTS_HELP."""
    from cmdiad_train.pretraining.points import pretrain_points
    from cmdiad_train.recipe import BankRecipe, Recipe, XyzExtractor

    names = ("groups", "group_size", "width", "depth", "heads", "normalisation", "weights")
    depth = options["depth"]
    spec = XyzExtractor(taps=tuple(sorted({(depth - 1) // 3, depth - 1})), **{name: options[name] for name in names})
    Recipe(BankRecipe(xyz=spec), modality="xyz")  # checks the sizes against each other
    job = make_job(data, out, options, [spec.weights])
    with closing(TerminalReporter()) as reporter:
        pretrain_points(job, spec, size, reporter, shift=shift)
    _print_path(out)


def _add_image_pretraining(kind: ImageKind) -> None:
    """Add `pretrain rgb`, `pretrain normals` or `pretrain depth`."""
    text = (
        f"Pretrain an image extractor with a contrastive loss on the {kind} images of the good samples of DATA.\n\n"
        "DATA are one or more data sets in the layouts that cmdiad-train reads."
    )
    examples = (
        f"cmdiad-extractor pretrain {kind} parts/ --out {kind}.safetensors",
        f"cmdiad-extractor pretrain {kind} --draw 1600 --epochs 8 --learning-rate 2e-3 --out {kind}.safetensors",
    )

    @pretrain.command(kind, help=text, examples=examples)
    @sample_options
    @draw_option
    @out_option
    @option_group(
        "Extractor",
        click.option("--backbone", default="resnet10t", metavar="NAME", help="timm model."),
        click.option("--stages", help="CNN stages, such as 0,1; '' for a ViT.  [default: 0,1 for a CNN]"),
        click.option("--grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: 40]"),
        click.option(
            "--weights", default="seeded", metavar="FILE", help="Starting weights: seeded, timm or a safetensors file."
        ),
    )
    @size_option(320)
    @schedule_options(epochs=12, batch=16, rate=1e-3)
    @machine_options
    def command(data: tuple[Path, ...], out: Path, size: int, **options: Any) -> None:
        from cmdiad_train.extractors.choice import image_extractor
        from cmdiad_train.pretraining.images import DEFAULT_STAGES, pretrain_images, with_default_grid

        stages = parse_stages(options["stages"])
        spec = image_extractor(options["backbone"], stages, options["grid"], options["weights"], DEFAULT_STAGES)
        job = make_job(data, out, options, [spec.weights])
        with closing(TerminalReporter()) as reporter:
            pretrain_images(job, with_default_grid(spec), kind, size, reporter)
        _print_path(out)


for _kind in IMAGE_KINDS:
    _add_image_pretraining(_kind)


@cli.command(help=DISTILL_HELP, examples=DISTILL_EXAMPLES)
@sample_options
@out_option
@option_group(
    "Samples",
    click.option(
        "--image",
        "--view",
        "kind",
        type=click.Choice(IMAGE_KINDS),
        default="rgb",
        help="Kind of image that teacher and student take.",
    ),
)
@option_group(
    "Teacher",
    click.option(
        "--teacher-weights",
        required=True,
        metavar="FILE",
        help="Weights of the teacher: timm, or a file that cmdiad-extractor wrote.",
    ),
    click.option(
        "--teacher-backbone", metavar="NAME", help="timm model of the teacher.  [default: recorded in the file]"
    ),
    click.option("--teacher-stages", help="CNN stages of the teacher.  [default: recorded in the file]"),
    click.option(
        "--teacher-grid",
        type=click.IntRange(min=2),
        help="Side of the teacher's grid of CNN features.  [default: recorded in the file]",
    ),
)
@option_group(
    "Student",
    click.option("--student-backbone", default="convnext_atto", metavar="NAME", help="timm model of the student."),
    click.option("--student-stages", help="CNN stages of the student; '' for a ViT.  [default: 1,2 for a CNN]"),
    click.option(
        "--student-grid",
        type=click.IntRange(min=2),
        help="Side of the student's grid of CNN features.  [default: the teacher's]",
    ),
    click.option(
        "--student-weights",
        default="seeded",
        metavar="FILE",
        help="Starting weights of the student: seeded, timm or a safetensors file.",
    ),
)
@option_group(
    "Training",
    click.option(
        "--copies",
        type=click.IntRange(min=0),
        default=7,
        help="Augmented copies of each image, in addition to the image.",
    ),
)
@size_option(224)
@schedule_options(epochs=60, batch=8, rate=3e-3)
@machine_options
def distill(data: tuple[Path, ...], out: Path, size: int, **options: Any) -> None:
    """See DISTILL_HELP."""
    from cmdiad_train.extractors.choice import image_extractor, stored_image_extractor
    from cmdiad_train.pretraining.student import Lesson, distil_student

    teacher = stored_image_extractor(
        options["teacher_weights"],
        options["teacher_backbone"],
        parse_stages(options["teacher_stages"]),
        options["teacher_grid"],
    )
    student = image_extractor(
        options["student_backbone"],
        parse_stages(options["student_stages"]),
        options["student_grid"],
        options["student_weights"],
    )
    job = make_job(data, out, options, [teacher.weights, student.weights])
    with closing(TerminalReporter()) as reporter:
        report = distil_student(job, Lesson(teacher, student, options["kind"], size, options["copies"]), reporter)
    _print_report(report)
    _print_path(out)


def main() -> None:
    """Run the command."""
    run_command(cli, "cmdiad-extractor")


def _print_report(report: dict[str, Any]) -> None:
    for role in ("teacher", "student"):
        extractor = report[role]
        click.echo(
            f"{role}: {extractor['backbone']}, {extractor['gmac']:.3g} GMAC, "
            f"{extractor['parameters'] / 1e6:.3g} M parameters, {extractor['milliseconds']:.3g} ms"
        )
    agreement = report["agreement"]
    click.echo(
        f"agreement on {report['samples']['held_out']} held-out images: cosine {agreement['cosine']:.3f} "
        f"(centred {agreement['centred_cosine']:.3f}), R² {agreement['r2']:.3f}, "
        f"distances {agreement['distances']:.3f}"
    )


def _check_stored(out: Path | None) -> None:
    """Check before the work that the output can be written; the store checks the folder of the cache."""
    from cmdiad_train.extractors.store import store_folder

    if out is None:
        store_folder()
    else:
        check_out(out)


def _print_imported(imported: Imported) -> None:
    """Print origin, licence and content of imported weights, and the command that uses them."""
    from cmdiad_train.extractors.presets import PRESETS

    note = f", {imported.note}" if imported.note else ""
    click.echo(f"{imported.origin.source}, licence: {imported.origin.licence}{note}")
    _print_path(imported.path)
    presets = [preset.name for preset in PRESETS if preset.installed() == imported.path]
    option = "--xyz-weights" if imported.network.startswith("point_") else "--rgb-weights"
    use = f"--extractor {presets[-1]}" if presets else f"{option} {shlex.quote(str(imported.path))}"
    click.echo(f"next: cmdiad-train DATA {use}")


def _print_path(out: Path) -> None:
    click.echo(f"weights: {out}")


if __name__ == "__main__":
    main()
