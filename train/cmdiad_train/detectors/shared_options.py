"""Options of `cmdiad-train` that several detector families have. Importing this module loads no torch."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import collect_options, option_group
from cmdiad_train.extractors.names import AUTO, PRESET_NAMES

IMAGES_TITLE = "Image extractor"

MODE: tuple[click.Option, ...] = collect_options(
    option_group(
        "Mode",
        click.option(
            "--mode",
            type=click.Choice(["default", "faithful"]),
            default="default",
            help="Settings recommended by cmdiad, or the behaviour of the published code.",
        ),
    )
)

GEOMETRY: tuple[click.Option, ...] = collect_options(
    option_group(
        "Images of clouds",
        click.option(
            "--geometry",
            type=click.Choice(["normals", "pseudo-normals", "depth"]),
            help="Clouds as images of metric surface normals, or as published: depth, or (trd alone) pseudo-normals of "
            "the depth image. The last two work with --view sensor and need the support in the corners of the cloud.  "
            "[default: normals; faithful: trd pseudo-normals, ast and dsr3d depth]",
        ),
    )
)

TRAINING: tuple[click.Option, ...] = collect_options(
    option_group(
        "Training of networks",
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            help="Training epochs.  [default: bank 12, faithful 100; trd 60, faithful 200; ast 60, faithful 72; "
            "cfm 50; m3dm 30, faithful 3; shape-guided 60, faithful 600; dsr3d 60, faithful 120]",
        ),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            help="Samples per training step.  [default: bank 4, faithful 32; trd and dsr3d 8, faithful 16; ast 8; cfm "
            "and shape-guided 4; m3dm 8, faithful 16]",
        ),
        click.option(
            "--learning-rate",
            type=click.FloatRange(min=0, min_open=True),
            help="Learning rate.  [default: bank 1e-3, faithful 5e-4, i2f 3e-4 or 2e-4; trd 5e-3; ast 1e-3, faithful "
            "2e-4; cfm 1e-3; m3dm 3e-3; shape-guided 1e-3, faithful 1e-4; dsr3d 1e-3, faithful 2e-4]",
        ),
        click.option(
            "--patience",
            type=click.IntRange(min=0),
            help="Epochs without improvement before training stops; 0 never stops.  "
            "[default: bank 5, trd, ast, cfm, m3dm, shape-guided and dsr3d 10, faithful 0]",
        ),
    )
)

IMAGES: tuple[click.Option, ...] = collect_options(
    option_group(
        IMAGES_TITLE,
        click.option(
            "--extractor",
            type=click.Choice([AUTO, *PRESET_NAMES]),
            help="Backbone, stages, grid and size for images and clouds in one word; other options change single "
            "values. The family trd takes the backbone as teacher, at 256 pixels, ast in one cell per 16 pixels, and "
            "shape-guided for --modality both, at 112 pixels. "
            "auto: the best preset whose weights are on this machine; for real parts run 'cmdiad-extractor fetch "
            "standard' once.  [default: auto, unless --rgb-backbone, --rgb-weights or --mode faithful is given]",
        ),
        click.option(
            "--rgb-backbone",
            help="Name of the timm model for images; the family trd also uses this model for clouds.  "
            "[default: that of --extractor, faithful: bank vit_base_patch8_224.dino, trd and patchcore "
            "wide_resnet50_2.tv_in1k, shape-guided wide_resnet50_2.racm_in1k, ast tf_efficientnet_b5.in1k]",
        ),
        click.option(
            "--rgb-weights",
            help="timm (download by timm), seeded (random), shipped-rgb, or a safetensors FILE (a classifier in the "
            "file is ignored). A file made by cmdiad-extractor also sets the other extractor options.  [default: that "
            "of --extractor, faithful: the stored file of the model, else timm]",
        ),
    )
)

STAGES: tuple[click.Option, ...] = collect_options(
    option_group(
        IMAGES_TITLE,
        click.option(
            "--rgb-stages", help="CNN stages such as 1,2 (stage k has stride 4·2^k); '' for a ViT.  [default: 1,2]"
        ),
        click.option(
            "--rgb-layers",
            help="Blocks of a ViT such as 3 or 3,6, counted from 1; early ones may be better than the last one.  "
            "[default: the last block, normalised]",
        ),
        click.option("--rgb-grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: 40]"),
    )
)


def idle_because(reason: str, *groups: tuple[click.Option, ...]) -> dict[str, str]:
    """Return the parameter names of groups of options with the reason why they change nothing; see `Family.idle`."""
    return {str(option.name): reason for group in groups for option in group}


NO_IMAGE = "with --modality xyz no image is read"
NO_CLOUD = "with --modality rgb no cloud is read"
