"""The command `cmdiad-extractor`: import, pretrain and distil the weights that extractors run on."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.progress import Progress

if TYPE_CHECKING:
    from cmdiad_train.pretraining.loop import Job
    from cmdiad_train.recipe import RgbExtractor

VIEWS = ("rgb", "normals", "depth")
WHOSE = "that of the images it was trained on, which is yours to know"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several click options as one decorator, in this order."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_out = click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Safetensors file to write."
)
_samples = _options(
    click.argument("data", nargs=-1, type=click.Path(path_type=Path)),
    click.option("--category", "categories", multiple=True, help="Of DATA; may be repeated.  [default: all]"),
    click.option(
        "--generate", type=click.IntRange(min=0), default=0, help="Also, or only, take this many synthetic samples."
    ),
)
_machine = _options(
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Same seed, same bytes (CPU, same threads)."),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="auto: CUDA where there is one."
    ),
    click.option("--cache-gb", type=float, default=50.0, help="Disk space that prepared samples may take."),
    click.option("--licence", help="Licence of the new weights, for their record.  [default: told by the sources]"),
)
_size = click.option("--size", type=click.IntRange(min=32), default=224, help="Side of the images in pixels.")


def _schedule(epochs: int, batch: int, rate: float) -> Callable[[_Command], _Command]:
    return _options(
        click.option("--epochs", type=click.IntRange(min=1), default=epochs),
        click.option("--batch", type=click.IntRange(min=2), default=batch, help="Samples per step."),
        click.option("--learning-rate", type=float, default=rate),
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Make weights for extractors: one safetensors file each, which says what it is and under which licence.

    Give it to cmdiad-train with --rgb-weights, --surface-weights or --xyz-weights.

    \b
    Exit codes: 0 done, 2 wrong command line, 3 a sample cannot be read, 6 output not writable, 7 data or weights
    unusable, 130 interrupted; give the same command again and it goes on.
    """


@cli.command("import")
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--timm", "timm_name", metavar="NAME", help="Instead of SOURCE: the weights that timm downloads.")
@_out
@click.option(
    "--kind",
    type=click.Choice(["dino", "dinov2", "dinov3", "point_mae", "point_bert", "timm"]),
    help="Which official release SOURCE is of; timm: key names of timm.  [default: told by its name and layout]",
)
@click.option("--backbone", metavar="NAME", help="timm model that SOURCE is of.  [default: told by its name]")
@click.option(
    "--size",
    type=click.IntRange(min=32),
    help="Side of the images in pixels.  [default: 224 for a ViT, 320 for a CNN]",
)
@click.option("--stages", help="CNN stages to use, as 1,2; '' for a ViT.  [default: 1,2 for a CNN]")
@click.option("--grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: --size / 8]")
@click.option("--licence", help="Of the weights.  [default: that of the official release, or timm's record]")
def import_(
    source: Path | None,
    timm_name: str | None,
    out: Path,
    kind: str | None,
    backbone: str | None,
    size: int | None,
    stages: str | None,
    grid: int | None,
    licence: str | None,
) -> None:
    """Import SOURCE, a checkpoint of DINO, DINOv2, DINOv3, Point-MAE or Point-BERT, or any timm model.

    Do it where there is internet, and carry the file to where there is none.
    """
    from cmdiad_train.extractors.import_official import Wanted, import_file, import_timm

    if (source is None) == (timm_name is None):
        raise click.UsageError("give either SOURCE or --timm NAME")
    wanted = Wanted(size, None if stages is None else _stages(stages), grid, licence)
    command = _command(click.get_current_context())
    if source is None:
        origin = import_timm(str(timm_name), out, wanted, command=command)
    else:
        origin = import_file(source, out, wanted, command=command, kind=kind, backbone=backbone)
    click.echo(f"{origin.source}, licence: {origin.licence}")
    _say_use(out)


@cli.group()
def pretrain() -> None:
    """Train an extractor on good samples without labels: your own, or generated ones."""


@pretrain.command()
@_samples
@_out
@click.option("--groups", type=click.IntRange(min=16), default=1024, help="Point groups per cloud.")
@click.option("--group-size", type=click.IntRange(min=4), default=32, help="Points per group.")
@click.option("--width", type=click.IntRange(min=8), default=96, help="Of the transformer.")
@click.option("--depth", type=click.IntRange(min=1), default=2, help="Its blocks.")
@click.option("--heads", type=click.IntRange(min=1), default=3, help="Its attention heads.")
@click.option("--normalisation", type=click.Choice(["frozen", "batch"]), default="frozen", help="As used afterwards.")
@click.option("--weights", default="seeded", metavar="FILE", help="Start from these weights of the same sizes.")
@click.option(
    "--shift", type=click.FloatRange(min=0), default=0.0, help="Metres by which clouds are moved, for other sensors."
)
@_size
@_schedule(epochs=12, batch=8, rate=1e-3)
@_machine
def points(data: tuple[Path, ...], out: Path, size: int, shift: float, **options: Any) -> None:
    """Masked autoencoding of point clouds: Point-MAE's objective on the good samples of DATA."""
    from cmdiad_train.pretraining.points import pretrain_points
    from cmdiad_train.recipe import Recipe, XyzExtractor

    names = ("groups", "group_size", "width", "depth", "heads", "normalisation", "weights")
    depth = options["depth"]
    spec = XyzExtractor(taps=tuple(sorted({(depth - 1) // 3, depth - 1})), **{name: options[name] for name in names})
    Recipe(modality="xyz", xyz=spec)  # checks that sizes fit together
    job = _job(data, out, options, [spec.weights])
    with closing(Progress()) as progress:
        pretrain_points(job, spec, size, progress, shift=shift)
    _say_use(out)


def _image_pretraining(view: str) -> None:
    """Add `pretrain rgb`, `pretrain normals` or `pretrain depth`."""

    @pretrain.command(view, help=f"Self-supervision on the {view} images of the good samples of DATA.")
    @_samples
    @click.option(
        "--draw",
        type=click.IntRange(min=0),
        default=0,
        help="Take this many images drawn from nothing instead: textured, shaded shapes.",
    )
    @_out
    @click.option("--backbone", default="resnet10t", help="Any timm model.")
    @click.option("--stages", help="CNN stages to use, as 0,1; '' for a ViT.  [default: 0,1]")
    @click.option("--grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: 40]")
    @click.option("--weights", default="seeded", metavar="FILE", help="Start from these: seeded, timm or a file.")
    @click.option("--size", type=click.IntRange(min=32), default=320, help="Side of the images in pixels.")
    @_schedule(epochs=12, batch=16, rate=1e-3)
    @_machine
    def command(data: tuple[Path, ...], out: Path, size: int, **options: Any) -> None:
        from dataclasses import replace

        from cmdiad_train.pretraining.images import pretrain_images
        from cmdiad_train.recipe import RgbExtractor

        stages, grid = options["stages"], options["grid"]
        spec = _image_spec(options["backbone"], stages, grid, options["weights"], (0, 1))
        if spec.stages and grid is None:
            spec = replace(spec, grid=RgbExtractor.grid)
        job = _job(data, out, options, [spec.weights])
        with closing(Progress()) as progress:
            pretrain_images(job, spec, view, size, progress)  # type: ignore[arg-type]  # one of VIEWS
        _say_use(out)


for _view in VIEWS:
    _image_pretraining(_view)


@cli.command()
@_samples
@_out
@click.option("--view", type=click.Choice(VIEWS), default="rgb", help="What both look at.")
@click.option("--teacher-weights", required=True, metavar="FILE", help="timm, or a file that import wrote.")
@click.option("--teacher-backbone", help="timm model.  [default: the file's own]")
@click.option("--teacher-stages", help="Its CNN stages.  [default: the file's own]")
@click.option("--teacher-grid", type=click.IntRange(min=2), help="Side of its grid.  [default: the file's own]")
@click.option("--student-backbone", default="convnext_atto", help="Any timm model.")
@click.option("--student-stages", help="Its CNN stages; '' for a ViT.  [default: 1,2]")
@click.option("--student-grid", type=click.IntRange(min=2), help="Side of its grid.  [default: the teacher's]")
@click.option("--student-weights", default="seeded", metavar="FILE", help="Where it starts: seeded, timm or a file.")
@click.option("--copies", type=click.IntRange(min=0), default=7, help="Changed copies of each image to learn from too.")
@_size
@_schedule(epochs=60, batch=8, rate=3e-3)
@_machine
def distill(data: tuple[Path, ...], out: Path, size: int, **options: Any) -> None:
    """A small student learns the patch features of a large teacher on DATA, and replaces it in the recipe.

    Beside FILE a report in JSON says what both cost and how far they agree on held-out images.
    """
    from cmdiad_train.pretraining.student import Lesson, distil_student

    teacher = _teacher(options)
    weights, grid = options["student_weights"], options["student_grid"]
    student = _image_spec(options["student_backbone"], options["student_stages"], grid, weights, (1, 2))
    lesson = Lesson(teacher, student, options["view"], size, options["copies"])
    job = _job(data, out, options, [teacher.weights, student.weights])
    with closing(Progress()) as progress:
        told = distil_student(job, lesson, progress)
    for who in ("teacher", "student"):
        it = told[who]
        click.echo(
            f"{who}: {it['backbone']}, {it['gmac']:.3g} GMAC, {it['parameters'] / 1e6:.3g} M parameters, "
            f"{it['milliseconds']:.3g} ms"
        )
    found = told["agreement"]
    click.echo(
        f"agreement on {told['samples']['held_out']} held-out images: cosine {found['cosine']:.3f} "
        f"(centred {found['centred_cosine']:.3f}), R² {found['r2']:.3f}, distances {found['distances']:.3f}"
    )
    _say_use(out)


def main() -> None:
    """Entry point of `cmdiad-extractor`."""
    run_command(cli, "cmdiad-extractor")


def _job(data: tuple[Path, ...], out: Path, options: dict[str, Any], weights: list[str]) -> Job:
    from cmdiad_train.fit.fit import Machine
    from cmdiad_train.pretraining.loop import Job, Schedule
    from cmdiad_train.pretraining.samples import Source

    drawn = options.get("draw", 0)  # of images alone
    if not data and not options["generate"] and not drawn:
        raise click.UsageError("give DATA, or --generate N, or both")
    if drawn and (data or options["generate"]):
        raise click.UsageError("--draw N takes the place of DATA and --generate")
    _check_out(out)
    return Job(
        source=Source(data, options["categories"], options["generate"], options["seed"], drawn),
        out=out,
        schedule=Schedule(options["epochs"], options["batch"], options["learning_rate"], seed=options["seed"]),
        command=_command(click.get_current_context()),
        licence=options["licence"] or _licence(data, weights),
        machine=Machine(options["device"], options["cache_gb"]),
    )


def _check_out(out: Path) -> None:
    from cmdiad_runtime.errors import OutputError

    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{str(out)!r} does not end in .safetensors", param_hint="--out")
    if not out.resolve().parent.is_dir():
        raise OutputError(
            out, found=f"no folder {out.resolve().parent}", expected="an existing folder", action="create it"
        )


def _licence(data: tuple[Path, ...], weights: list[str]) -> str:
    """What is known of the licence of weights that are trained here, by what goes into them."""
    from cmdiad_train.extractors.weights_file import recorded_licence

    parts = [WHOSE] if data else ["Apache-2.0 (trained on generated images alone)"]
    for each in weights:
        if each != "seeded":
            parts.append(f"{recorded_licence(each)} ({'timm' if each == 'timm' else Path(each).name})")
    return "; ".join(parts)


def _teacher(options: dict[str, Any]) -> RgbExtractor:
    from dataclasses import replace

    from cmdiad_runtime.errors import RunError
    from cmdiad_train.extractors.shipped import weights_file
    from cmdiad_train.extractors.weights_file import stored_extractor
    from cmdiad_train.recipe import RgbExtractor

    weights, backbone = options["teacher_weights"], options["teacher_backbone"]
    file = weights_file(weights)
    stored = None if file is None else stored_extractor(file)
    if not isinstance(stored, RgbExtractor):
        if backbone is None:
            raise RunError(
                weights,
                found="no record of the backbone that these weights are of",
                expected="a file that cmdiad-extractor wrote",
                action="give --teacher-backbone, and for a CNN --teacher-stages",
            )
        return _image_spec(backbone, options["teacher_stages"], options["teacher_grid"], weights, (1, 2))
    grid = options["teacher_grid"] or stored.grid
    teacher = replace(stored, backbone=backbone or stored.backbone, grid=grid, weights=weights)
    return teacher if options["teacher_stages"] is None else replace(teacher, stages=_stages(options["teacher_stages"]))


def _image_spec(
    backbone: str, stages: str | None, grid: int | None, weights: str, default: tuple[int, ...]
) -> RgbExtractor:
    """An image extractor; where no stages are given a CNN has the default ones and a ViT none."""
    from cmdiad_train.pretraining.image_extractors import has_tokens
    from cmdiad_train.recipe import RgbExtractor

    chosen = _stages(stages) if stages is not None else (() if has_tokens(backbone) else default)
    return RgbExtractor(backbone, chosen, grid, weights)


def _stages(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of stages such as 1,2", param_hint="stages") from error


def _command(context: click.Context) -> str:
    """The command as it was given, without what does not change the result: output, device and disk space."""
    names: list[str] = []
    silent = {"out", "device", "cache_gb"}
    here: click.Context | None = context
    while here is not None and here.parent is not None:
        names.insert(0, str(here.info_name))
        here = here.parent
    arguments = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name in silent or value in (None, (), parameter.default):
            continue
        values = value if isinstance(value, tuple) else (value,)
        for each in values:
            option = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
            arguments += [*option, Path(each).name if isinstance(each, Path) else str(each)]
    return shlex.join(["cmdiad-extractor", *names, *arguments])


def _say_use(out: Path) -> None:
    click.echo(f"weights: {out}")


if __name__ == "__main__":
    main()
