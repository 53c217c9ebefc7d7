"""Write the README of a bundle: plain text for the person who gets the folder and knows nothing about it."""

from __future__ import annotations

import textwrap
from importlib.metadata import version

from cmdiad_runtime.bundle.manifest import Manifest
from cmdiad_runtime.colour import GreyRange
from cmdiad_runtime.modalities import sensor_text, trained_with_text
from cmdiad_runtime.preprocess.inspected_area.missing import missing_note
from cmdiad_runtime.preprocess.inspected_area.records import describe, doubt
from cmdiad_runtime.preprocess.mask_note import mask_text
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.printable import printable

README = "README.txt"
"""Name of the file. Plain text, so nothing in names or contacts can be taken for markup."""

_WIDTH = 100
_COLUMN = 14


def readme_of(manifest: Manifest, contact: str) -> str:
    """Return the README of a bundle as text, with a final line end.

    Args:
        manifest: Manifest of the bundle, as exported.
        contact: Person or department that the bundle comes from, or "".
    """
    name, runtime = printable(manifest.name), version("cmdiad")
    modality = manifest.preprocessing.modality_name
    facts = {
        "Inspects": f"{printable(manifest.provenance.category or 'parts of one kind')}, modality "
        f"{modality} ({sensor_text(modality)})",
        **_training(manifest),
        "Area": _area(manifest),
        "Input": _input(manifest),
        "Threshold": _threshold(manifest),
        "Certificate": _certificate(manifest),
        "From": printable(contact) or "not stated",
        "Exported": f"{manifest.created or 'at an unknown time'} with cmdiad {runtime}",
    }
    lines = [line for label, text in facts.items() for line in _entry(label, text)]
    return "\n".join(
        [
            name,
            "=" * len(name),
            "",
            "This folder is a bundle of CMDIAD Edge. It decides about photos or 3D scans of parts: OK or NG.",
            "Do not change files in it: a changed bundle is refused.",
            "",
            *lines,
            "",
            "Install and run",
            "---------------",
            f"Install the runtime, cmdiad {runtime} or newer, with Python 3.10 to 3.12. In a clone of CMDIAD Edge:",
            "",
            "    python3 -m venv .venv",
            "    source .venv/bin/activate",
            '    pip install --constraint requirements/locked.txt ".[cpu]"',
            "",
            "On a Jetson, docs/edge.md has another line. Test this machine, then inspect:",
            "",
            "    cmdiad-run THIS_FOLDER",
            "    cmdiad-run THIS_FOLDER PHOTOS_OR_SCANS --output RESULTS",
            "",
        ]
    )


def _training(manifest: Manifest) -> dict[str, str]:
    """Return the second image that training read besides those of inspection, or nothing."""
    detector = manifest.recipe.get("detector")
    partner = detector.get("partner") if isinstance(detector, dict) else None
    if not isinstance(partner, str):
        return {}
    return {"Trained with": trained_with_text(printable(partner), manifest.preprocessing.modality_name)}


def _entry(label: str, text: str) -> list[str]:
    indent = " " * _COLUMN
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{label:<{_COLUMN}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _area(manifest: Manifest) -> str:
    area, settings = manifest.inspected_area, manifest.preprocessing
    text = "not recorded" if area is None else describe(area, settings.parts)
    mask = mask_text(settings)
    warnings = ["" if area is None else doubt(area), missing_note(area, settings)]
    return ". ".join([text, *([mask] if mask else []), *(f"WARNING: {printable(w)}" for w in warnings if w)])


def _input(manifest: Manifest) -> str:
    settings, envelope = manifest.preprocessing, manifest.envelope
    sizes = () if envelope is None else envelope.sizes
    size = f" of {' or '.join(f'{w}×{h}' for w, h in sizes[:3])} pixels" if sizes else ""
    more = f" (and {len(sizes) - 3} other sizes)" if len(sizes) > 3 else ""
    return _kind(settings).format(size=f"{size}{more}")


def _kind(settings: Preprocessing) -> str:
    name = "" if settings.image_modality == "rgb" else f" ({settings.image_modality})"
    bits = f"16 bits ({settings.colour.text})" if isinstance(settings.colour, GreyRange) else "8 bits per channel"
    image = f"{'a colour' if settings.colour == 'rgb' else 'a grey'} image{name} with {bits}{{size}}"
    cloud = "an organised point cloud in metres"
    if settings.modality == "xyz":
        return f"{cloud}{{size}}"
    return f"{image}, and {cloud} of the same size and file name" if settings.needs_cloud else image


def _threshold(manifest: Manifest) -> str:
    calibration = manifest.certified_calibration
    low, high = calibration.interval
    doubts = manifest.provenance.doubts(len(calibration.sessions))
    cautions = [*([calibration.warning] if calibration.warning else []), *doubts]
    caution = "".join(f" Caution: {printable(text)}." for text in cautions)
    return (
        f"at export, a score above {calibration.score_threshold:.6g} was NG, and {calibration.false_reject_rate:.2%} "
        f"of good parts rejected (95 % interval {low:.2%} to {high:.2%}, from {calibration.samples} good "
        f"parts).{caution} "
        "The threshold can be changed later; `cmdiad-threshold THIS_FOLDER` shows the present one."
    )


def _certificate(manifest: Manifest) -> str:
    precision = manifest.graph.precision
    comparison = [c for c in manifest.certificate.comparisons if c.precision == precision][-1]
    return (
        f"{precision} graph within {comparison.score_max_share:.3%} of the threshold in score and "
        f"{comparison.map_max_share:.3%} in map, no verdict changed, {manifest.certificate.samples} golden samples "
        f"({comparison.engine})"
    )
