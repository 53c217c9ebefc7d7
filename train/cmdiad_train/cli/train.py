"""`cmdiad-train`: from samples of good parts to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.cli.each import ALL, FIGURE_NAMES, KEPT, as_figure, for_each
from cmdiad_runtime.cli.options import finite, ignore_check
from cmdiad_runtime.cli.threshold_text import in_shell
from cmdiad_runtime.modalities import IMAGE_MODALITIES, MODALITY_OPTIONS
from cmdiad_runtime.names import ANY, EARLIER_VIEWS, MOST_PARTS, SENSORS, VERDICTS, VIEW_NAMES
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.cli import idle_options
from cmdiad_train.cli.assess import ASSESSMENT, run_assessment
from cmdiad_train.cli.train_again import refuse_changes, train_again
from cmdiad_train.cli.train_any import train_patterns
from cmdiad_train.cli.train_output import ARGUMENTS, repeated, report_run_threshold, summarise
from cmdiad_train.detectors.registry import AUTO, CHOSEN_FROM, DEFAULT, family_names, family_of, family_options
from cmdiad_train.training.machine import CACHE_GB, DEVICES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cmdiad_train.recipe import Recipe
    from cmdiad_train.runs.record import RunRecord

HELP = """Train a detector on DATA and write a run directory.

`cmdiad-data check DATA` reports the layout of DATA. The good training samples fit the detector, the validation split
sets the thresholds (every fifth training sample if there is no such split), and the test split, if there is one, is
evaluated. To resume an interrupted training, run the same command again.
"""

EXAMPLES = (
    "# One camera: photos of good parts in parts/train/good and parts/validation/good",
    "cmdiad-train parts --out runs/parts",
    "# The same for real parts: once fetch better features than those that ship with cmdiad",
    "cmdiad-extractor fetch standard",
    "cmdiad-train parts --out runs/parts",
    "# A camera on the line, trained with clouds too",
    "cmdiad-train mvtec3d --category bagel --modality rgb --hallucination f2f",
    "# A camera on the line, trained with infrared images too",
    "cmdiad-train parts --modality rgb --hallucination f2f --partner infrared",
    "# One bundle for parts with image, cloud or both",
    "cmdiad-train mvtec3d --category bagel --modality any --hallucination f2f",
    "# A detector for each category; repeat the command to continue",
    "cmdiad-train mvtec3d --category all",
    "# What would a 3D sensor add? Compare before anything is bought",
    "cmdiad-train mvtec3d --category bagel --assess-modalities",
    "# Good parts of another day set the thresholds, too",
    "cmdiad-train parts --calibration tuesday/good",
    "# Parts that people judged at the station become part of a new run",
    "cmdiad-train --from-run runs/parts --candidate gear-2",
)

EXIT_CODES = {
    3: "no sample can be used",
    6: "the output cannot be written, or the memory is too small",
    7: "data or recipe cannot be used",
}

_NOT_GIVEN = (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP)
"""Sources of values that the user did not pass: defaults of options, and values that a row of `--paper` sets."""


class TrainCommand(GroupedCommand):
    """A command that also takes the options of detector families that are registered at run time."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options of the command and those of all registered families."""
        known = super().get_params(ctx)
        options = dict.fromkeys(option for name in family_names() for option in family_options(name))
        further = [option for option in options if option not in known]
        return [*known[: len(self.params)], *further, *known[len(self.params) :]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments of the command line, for commands that the output names."""
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


def _rename_view(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Accept an earlier name of a view, with a note on stderr."""
    if value not in EARLIER_VIEWS:
        return value
    click.echo(f"--view {value} is now called --view {EARLIER_VIEWS[value]}.", err=True)
    return EARLIER_VIEWS[value]


def _split_modality(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the kind of data of a modality, and store the name of an image as the option `image_modality`."""
    context.params["image_modality"] = value if value in IMAGE_MODALITIES else "rgb"
    return "rgb" if value in IMAGE_MODALITIES else value


def _check_family(context: click.Context, parameter: click.Parameter, value: str) -> str:
    names = (*family_names(), AUTO)
    if value not in names:
        raise click.BadParameter(f"{value!r} is not one of {', '.join(names)}")
    return value


@click.command(cls=TrainCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@option_group(
    "Judged parts",
    click.option(
        "--from-run",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Train again with recipe and data of this finished run, and with the parts of --candidate. DATA is needed "
        "only if the data set has moved.",
    ),
    click.option(
        "--candidate",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder of a candidate of the station. Parts that were judged good are trained on, every fifth of them "
        "sets the thresholds; those that were judged defective join the test split (docs/candidates.md).",
    ),
)
@option_group(
    "Detector",
    click.option(
        "--category",
        help="Category of DATA, or `all` to train a detector for each one, with one table at the end. Finished runs "
        "are kept, so the same command continues.  [default: the only one]",
    ),
    click.option(
        "--family",
        default=DEFAULT,
        callback=_check_family,
        metavar="NAME",
        help="Detector family (docs/families.md). bank: compares patch features with a memory bank of normal ones; "
        "trd: reverse distillation, networks that reproduce the features of good parts; ast: a student that imitates "
        "a normalising flow; patchcore: settings of bank as in the paper of PatchCore; cfm: image and cloud predict "
        "each other, needs --modality both; m3dm: memory banks of image, cloud and features fused of both; "
        "shape-guided: patches of a cloud against the surfaces of good ones, with --modality both also the image at "
        "similar patches; dsr3d: a picture drawn from codes is compared with one that shows normal objects alone; "
        "auto: trains bank and trd and keeps the one that tells slightly changed good samples from unchanged ones "
        "better.",
    ),
    click.option(
        "--modality",
        type=click.Choice([*MODALITY_OPTIONS, ANY]),
        default="rgb",
        callback=_split_modality,
        help="Modality that inspection measures: image, cloud, both, or the image of another sensor (docs/data.md). "
        "any: detectors for rgb, xyz and both in one bundle, which inspects what a sample has (docs/cross-modal.md).",
    ),
    click.option(
        "--false-reject-rate",
        type=float,
        default=0.05,
        help="Share of good parts that may be rejected; sets the thresholds.",
    ),
    click.option(
        "--calibration",
        metavar="DIR",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Folder of good parts of another session, for example of another day; may be repeated. The thresholds "
        "keep the false-reject rate in every session.",
    ),
    click.option(
        "--verdict",
        type=click.Choice(VERDICTS),
        help="Score that decides between OK and NG. map: the largest value of the anomaly map over the image of the "
        "sensor, so that score and overlay agree; image: the image score, as published.  [default: map, faithful: "
        "image]",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of everything random."),
)
@option_group(
    "Recording conditions",
    click.option(
        "--envelope-rate",
        type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        callback=finite,
        default=0.001,
        help="Share of good samples that the checks of the recording conditions may refuse, all checks together "
        "(docs/envelope.md).",
    ),
    ignore_check(
        "Switch a check off in the bundle, for example colour; may be repeated.  [default: all checks are made]"
    ),
)
@option_group(
    "View",
    click.option(
        "--view",
        type=click.Choice(["auto", *VIEW_NAMES, *EARLIER_VIEWS]),
        metavar=f"[{'|'.join(['auto', *VIEW_NAMES])}]",
        callback=_rename_view,
        help="part: turned upright and cut out of the image (rgb or both); top: from above the support, turned "
        "upright, at one scale (xyz normals or both); each: the cloud from the top, the image cut out (both); "
        "sensor: as recorded; auto: the best of these in which the good samples show nothing but the part.  "
        "[default: auto, faithful: sensor]",
    ),
    click.option(
        "--parts",
        type=click.IntRange(1, MOST_PARTS),
        default=1,
        help="Number of equal parts in every picture. Each part has a separate view (part, top or each), the "
        "worst one decides, and any other number of parts is NG.",
    ),
    click.option(
        "--size",
        type=click.IntRange(min=32),
        help="Side of the view in pixels.  [default: 320, trd and dsr3d 256, shape-guided 112; faithful: 224, "
        "trd 256, ast 768, dsr3d 384]",
    ),
    click.option(
        "--rgb-mask",
        type=click.Choice(["none", "cloud"]),
        default="none",
        help="cloud: black out the background of the image with the help of the cloud (the protocol of the paper).",
    ),
    click.option(
        "--foreground/--no-foreground", default=True, help="Remove support plane and stray clusters from clouds."
    ),
)
@option_group(
    "Mask",
    click.option(
        "--mask",
        type=click.Path(path_type=Path),
        help="Black and white PNG of the size of the training pictures; the white region is ignored and never decides "
        "a verdict. Draw the mask over the first good training picture: in the view sensor the region is fixed, in "
        "other views the region moves with the part.",
    ),
)
@ASSESSMENT
@option_group(
    "Run",
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Run directory; with --category all the folder of the runs.  [default: "
        "runs/CATEGORY-MODALITY-NAME, with --calibration followed by the session; NAME: bank HALLUCINATION, trd "
        "VARIANT, else the family]",
    ),
    click.option(
        "--network-from",
        type=click.Path(path_type=Path),
        help="Take extractors and network over from this finished run, so that a joint network is trained once.",
    ),
    click.option(
        "--device",
        type=click.Choice(DEVICES),
        default="auto",
        help="Device of feature extraction and training; auto takes CUDA if available.",
    ),
    click.option("--cache-gb", type=float, default=CACHE_GB, help="Disk space for cached features."),
    click.option(
        "--cache-dir",
        type=click.Path(path_type=Path),
        help="Feature store, which trainings share.  [default: features in the cache folder of the user]",
    ),
    click.option(
        "--test/--no-test",
        default=True,
        help="Evaluate the detector on the test split. With --no-test the split is not read, and the run has no "
        "figures.",
    ),
)
def cli(  # noqa: PLR0913 - click passes one argument per option
    data: Path | None,
    from_run: Path | None,
    candidate: Path | None,
    category: str | None,
    family: str,
    out: Path | None,
    network_from: Path | None,
    device: str,
    cache_gb: float,
    cache_dir: Path | None,
    mask: Path | None,
    calibration: tuple[Path, ...],
    envelope_rate: float,
    ignore_checks: tuple[str, ...],
    test: bool,
    **options: Any,
) -> int:
    """See HELP."""
    if (from_run is None) != (candidate is None):
        raise click.UsageError("--from-run and --candidate belong together")
    from cmdiad_runtime.support.files import free_name
    from cmdiad_runtime.support.newest import RUNS
    from cmdiad_train.datasets import list_categories, open_category
    from cmdiad_train.features import default_folder
    from cmdiad_train.fit.best_family import fit_best_family
    from cmdiad_train.fit.envelope import EnvelopeOptions
    from cmdiad_train.fit.fit import FitOptions, fit
    from cmdiad_train.fit.mask import read_inspection_mask
    from cmdiad_train.runs.record import FILE, read_record
    from cmdiad_train.training.machine import Machine

    machine, features = Machine(device, cache_gb), cache_dir or default_folder()
    if from_run is not None and candidate is not None:
        refuse_changes(click.get_current_context())
        again = FitOptions(machine, features=features, calibration=calibration, judged=candidate)
        train_again(from_run, data, category, out, again)
        return 0
    if data is None:
        raise click.UsageError("Missing argument 'DATA'.")
    drawn = None if mask is None else read_inspection_mask(mask)
    envelope = EnvelopeOptions(envelope_rate, ignore_checks)
    fit_options = FitOptions(machine, network_from, features, envelope, drawn, calibration, test)
    if options["modality"] == ANY and not options["assess_modalities"]:
        _refuse_foreign_options(click.get_current_context(), CHOSEN_FROM if family == AUTO else (family,))
        return train_patterns(click.get_current_context(), fit_options)
    recipes = recipes_of(click.get_current_context())
    if options["assess_modalities"]:
        return run_assessment(click.get_current_context(), FitOptions(machine, features=features))
    remarks = [line for name, recipe in recipes.items() for line in family_of(name).remarks(options, recipe)]
    for line in dict.fromkeys([*idle_options.warnings(click.get_current_context(), recipes.values()), *remarks]):
        click.echo(line, err=True)

    def train(name: str | None, run: Path) -> RunRecord:
        reporter = TerminalReporter()
        record = (
            fit_best_family(data, name, recipes, run, reporter, fit_options)
            if family == AUTO
            else fit(data, name, recipes[family], run, reporter, fit_options)
        )
        reporter.close()
        summarise(record, run)
        changes = {"--category": in_shell(name)} if name and name != category else {}
        changes |= {"--out": in_shell(free_name(run))} if out else {}
        report_run_threshold(run, repeated({**changes, "--calibration": "DIR"}), record.metrics)
        return record

    categories = list_categories(data) if category == ALL else []
    if not categories or ALL in categories:
        train(category, out or RUNS / _run_name(open_category(data, category).name, recipes, calibration))
        return 0
    if mask is not None or calibration:
        raise click.UsageError("--mask and --calibration belong to one category: name it with --category")

    def train_one(name: str) -> dict[str, str]:
        run = (out or RUNS) / _run_name(name, recipes)
        finished = (run / FILE).exists() and read_record(run).status == "complete"
        return {**_figures_row(train(name, run)), "run": printable(run), "result": KEPT if finished else "trained"}

    folder = "" if out is None else f"{in_shell(out)} "
    return for_each(categories, train_one, following=f"cmdiad-export {folder}--category all")


cli.params += family_options(DEFAULT)


def recipes_of(context: click.Context) -> dict[str, Recipe]:
    """Return the recipe of each family that a parsed command line trains, by name.

    Args:
        context: Context of `cli` with the values of all options.

    Raises:
        RunError: An option contradicts a weights file or the recipe.
        click.UsageError: Options contradict each other, or belong to another family.
    """
    from cmdiad_train.datasets import list_categories

    options, family = context.params, context.params["family"]
    if options["modality"] == ANY:
        raise click.UsageError(f"--modality {ANY} stands for three detectors: choose one of {', '.join(SENSORS)}")
    names = CHOSEN_FROM if family == AUTO else (family,)
    _refuse_foreign_options(context, names)
    return {name: family_of(name).recipe(options, lambda: list_categories(options["data"])) for name in names}


def _refuse_foreign_options(context: click.Context, families: tuple[str, ...]) -> None:
    """Raise click.UsageError if the command line has an option that one of the families does not have."""
    shared = set.intersection(*({option.name for option in family_options(name)} for name in families))
    for other in family_names():
        for option in family_options(other):
            source = context.get_parameter_source(option.name or "")
            if option.name not in shared and source not in _NOT_GIVEN:
                lacking = next(n for n in families if option.name not in {o.name for o in family_options(n)})
                auto = f" Leave out {option.opts[0]} or --family {AUTO}." if len(families) > 1 else ""
                raise click.UsageError(f"{option.opts[0]} is an option of the family {other}, not of {lacking}.{auto}")


def _run_name(category: str, recipes: dict[str, Recipe], calibration: Sequence[Path] = ()) -> str:
    """Return the name of a run directory, which another session is part of, so that the earlier run is kept."""
    from cmdiad_runtime.bundle.session_name import session_name

    recipe, *others = recipes.values()
    name = f"{category}-{recipe.modality_name}-{AUTO if others else family_of(recipe.family).run_name(recipe)}"
    folders = {folder.resolve(): folder for folder in calibration}
    if not folders:
        return name
    return f"{name}-{session_name(calibration[0], ()) if len(folders) == 1 else f'{len(folders)}-sessions'}"


def _figures_row(record: RunRecord) -> dict[str, str]:
    """Return the figures of a finished run as cells of the table of all categories."""
    figures = record.metrics or {}
    return {text: as_figure(figures.get(name)) for name, text in FIGURE_NAMES.items()}


def main() -> None:
    """Run the command."""
    run_command(cli, "cmdiad-train")
