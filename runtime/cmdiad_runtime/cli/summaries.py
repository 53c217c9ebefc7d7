"""What `cmdiad-info` shows about a bundle or a run directory, ready for JSON. Needs no torch."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.integrity import SIGNATURE
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.bundle.manifest_records import FIGURES, stored_preprocessing
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.bundle.stored_calibration import stored_calibration
from cmdiad_runtime.cli.threshold_text import doubts_about
from cmdiad_runtime.engines import LIBRARIES
from cmdiad_runtime.envelope.record import Envelope
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.modalities import name_of
from cmdiad_runtime.names import SENSORS
from cmdiad_runtime.preprocess.inspected_area.missing import missing_note
from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea, describe, doubt
from cmdiad_runtime.preprocess.mask_note import mask_text
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.records import NewerRecordError, RecordError, is_number
from cmdiad_runtime.support.regular_file import read_regular

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.self_test import SelfTest

_RUN_FORMAT = "cmdiad-run"
_RUN_VERSIONS = (2, 3)
_CHOICES = ("mode", "variant", "hallucination", "partner", "verdict")
"""Fields of a recipe that name a kind of detector, as far as the family has them."""
_RECORD_LIMIT = 64 << 20  # bytes
Record = TypeVar("Record")


def summary_of_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return the summary of a verified bundle, with the engines and self-tests of this machine.

    Raises:
        BundleError: The label of an engine that was built on this machine is damaged.
    """
    record, data = bundle.record, bundle.record.provenance.data
    exported = bundle.certified_calibration
    return {
        "kind": "bundle",
        "path": printable(bundle.path),
        "name": bundle.name,
        "created": record.created or None,
        "sha256": manifest_hash(bundle.manifest),
        "signed": (bundle.path / SIGNATURE).exists(),
        "bytes": sum(file.bytes for file in record.files.values()),
        "data": data,
        "figures": _figures(data.get("test")),
        "detector": _detector(record.recipe, bundle.preprocessing, record.provenance.to_json()),
        "inspects": _inspects(record.inspected_area, bundle.preprocessing),
        "threshold": _threshold(bundle.calibration, bundle.training_doubts),
        "exported_threshold": None if exported == bundle.calibration else _threshold(exported),
        "envelope": _envelope(record.envelope),
        "graph": {"precision": bundle.precision, "banks": [list(shape) for shape in record.graph.banks]},
        "certificate": asdict(record.certificate),
        "engines": _engines(bundle),
        "versions": record.versions,
    }


def summary_of_pattern_bundle(path: Path) -> dict[str, Any]:
    """Return the summary of a bundle for whichever sensors arrive, with `summary_of_bundle` of each pattern.

    Raises:
        BundleError: The bundle is damaged.
    """
    opened = open_pattern_bundle(path)
    return {
        "kind": "pattern bundle",
        "path": printable(path),
        "name": opened.record.name,
        "created": opened.record.created,
        "signed": (path / SIGNATURE).exists(),
        "patterns": {pattern: summary_of_bundle(bundle) for pattern, bundle in opened.bundles.items()},
    }


def summary_of_pattern_runs(path: Path) -> dict[str, Any]:
    """Return the summary of the runs of `cmdiad-train --modality any`, with `summary_of_run` of each run that began.

    Raises:
        RunError: A record is damaged, or a newer cmdiad wrote it.
    """
    began = [pattern for pattern in SENSORS if (path / pattern / "run.json").exists()]
    return {
        "kind": "pattern runs",
        "path": printable(path),
        "patterns": {pattern: summary_of_run(path / pattern) for pattern in began},
    }


def summary_of_run(folder: Path) -> dict[str, Any]:
    """Return the summary of a run directory, from its records `run.json` and `calibration.json`.

    Raises:
        RunError: A record is missing or damaged, or a newer cmdiad wrote it.
    """
    file = folder / "run.json"
    run = _read_object(file)
    if run.get("format") != _RUN_FORMAT or type(run.get("format_version")) is not int:
        raise _damaged(file, f"no {_RUN_FORMAT}")
    if run["format_version"] > _RUN_VERSIONS[-1]:
        raise _newer(file, f"format {run['format_version']!s:.40}")
    preprocessing = _record(file, run.get("preprocessing"), stored_preprocessing)
    area = run.get("inspected_area")
    envelope = run.get("envelope")
    calibration = folder / "calibration.json"
    finished = run.get("status") == "complete"
    stored = None
    if finished:
        stored = _record(calibration, _read_object(calibration).get("calibration"), stored_calibration)
    data, provenance = _object(file, run, "data"), _object(file, run, "provenance")
    return {
        "kind": "run",
        "path": printable(folder),
        "finished": finished,
        "written": datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).isoformat(timespec="seconds"),
        "data": {
            "category": data.get("category"),
            "folder": data.get("folder"),
            **{
                f"{name}_samples": len(data[name]) for name in ("train", "held_out") if isinstance(data.get(name), list)
            },
        },
        "figures": _figures(run.get("metrics")),
        "detector": _detector(_object(file, run, "recipe"), preprocessing, provenance),
        "inspects": _inspects(None if area is None else _record(file, area, InspectedArea.from_json), preprocessing),
        "threshold": None if stored is None else _threshold(stored, _training_doubts(run)),
        "envelope": _envelope(None if envelope is None else _record(file, envelope, Envelope.from_json)),
        "left_out_samples": _length(run.get("left_out")),
        "versions": _object(file, run, "versions"),
    }


def _training_doubts(run: Mapping[str, Any]) -> list[str]:
    """Return the warnings of the training in the record of a run, as text."""
    series, not_separated = run.get("series"), run.get("not_separated")
    doubts = [not_separated] if isinstance(not_separated, str) and not_separated else []
    if isinstance(series, dict):
        doubts.append(
            f"{series.get('samples')} good samples make up {series.get('count')} series of images that hardly differ; "
            "the same cmdiad-train command names one of them"
        )
    return doubts


def _detector(recipe: Mapping[str, Any], preprocessing: Preprocessing, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices of a recipe that a user names on the command line, of any version of recipes."""
    part = recipe.get("detector")
    choices = {**recipe, **(part if isinstance(part, dict) else {})}
    extractors = {
        name_of(name, preprocessing.image_modality): origin["extractor"]
        for name, origin in provenance.items()
        if isinstance(origin, dict) and isinstance(origin.get("extractor"), str)
    }
    return {
        "family": str(recipe.get("family", "bank")),
        "modality": preprocessing.modality_name,
        **{name: choices[name] for name in _CHOICES if isinstance(choices.get(name), str)},
        "view": preprocessing.view,
        "size": preprocessing.size,
        "parts": preprocessing.parts,
        "extractors": extractors,
    }


def _inspects(area: InspectedArea | None, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the inspected area as text, with what an inspection mask excludes and what speaks against the area."""
    ignored = preprocessing.ignored
    return {
        "area": None if area is None else describe(area, preprocessing.parts),
        "ignored_share": 0.0 if ignored is None else ignored.share,
        "mask": mask_text(preprocessing),
        "note": missing_note(area, preprocessing),
        "warning": "" if area is None else doubt(area),
    }


def _figures(values: object) -> dict[str, Any] | None:
    """Return the figures on the test split; None if there are none, or a value is no number."""
    figures = {name: values.get(name) for name in FIGURES} if isinstance(values, dict) else {}
    whole = all(is_number(figures.get(name), 0, 1 << 40) for name in ("samples", "good"))
    shares = all(value is None or is_number(value, 0, 1 << 40) for value in figures.values())
    return figures if whole and shares else None


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


def _threshold(calibration: Calibration, training_doubts: Sequence[str] = ()) -> dict[str, Any]:
    """Return a calibration without the scores, with all warnings and the number of scores of each session."""
    content = calibration.to_json()
    return {
        **{name: value for name, value in content.items() if name not in ("held_out_scores", "held_out_peaks")},
        "verdict": calibration.verdict,
        "doubts": [*doubts_about(calibration), *map(printable, training_doubts)],
        "sessions": [{"name": session.name, "samples": session.samples} for session in calibration.sessions],
    }


def _envelope(envelope: Envelope | None) -> dict[str, Any] | None:
    if envelope is None:
        return None
    return {
        "samples": envelope.samples,
        "false_alarm_rate": envelope.false_alarm_rate,
        "sizes": [list(size) for size in envelope.sizes],
        "off": list(envelope.off),
    }


def _engines(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the engines that can run a bundle on this machine, each with its certificate or self-test here."""
    from cmdiad_runtime.bundle.built_engines import engines_of
    from cmdiad_runtime.bundle.engine_selection import is_tested_at_each_opening
    from cmdiad_runtime.bundle.self_test import self_tests_of

    certified = bundle.record.certificate.machine == platform.machine()
    tests = {test.engine: test for test in self_tests_of(bundle)}
    engines: list[dict[str, Any]] = [
        {
            "engine": "cpu",
            "origin": "onnxruntime",
            "certified": certified,
            "tested_at_each_opening": is_tested_at_each_opening(bundle),
            **_tested(tests.pop("cpu", None)),
        }
    ]
    for name, library in LIBRARIES.items():
        for engine in engines_of(bundle, library):
            origin = f"{library} {engine.fingerprint.library_version}"
            place = "built on this machine" if engine.built_here else "came with the bundle"
            test = tests.pop(engine.path.stem, None)
            engines.append(
                {
                    "engine": name,
                    "origin": f"{origin}, {place}",
                    "file": printable(engine.path.name),
                    "bytes": engine.fingerprint.size_bytes,
                    "certified": False,
                    **_tested(test if test and test.file_sha256 == engine.fingerprint.engine_sha256 else None),
                }
            )
    for test in tests.values():
        origin = "a server" if test.engine == "triton" else "onnxruntime"
        engines.append({"engine": test.engine, "origin": origin, "certified": False, **_tested(test)})
    return engines


def _tested(test: SelfTest | None) -> dict[str, Any]:
    """Return the result of a self-test on this machine, all None without one."""
    if test is None:
        return {"self_test": None, "self_test_created": None, "self_test_on": None}
    return {"self_test": test.comparison.passed, "self_test_created": test.created, "self_test_on": test.identity}


def _object(file: Path, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict):
        raise _damaged(file, f"no {name}")
    return value


def _record(file: Path, value: object, read: Callable[[object], Record]) -> Record:
    try:
        return read(value)
    except NewerRecordError as error:
        raise _newer(file, str(error)) from error
    except RecordError as error:
        raise _damaged(file, str(error)) from error


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(file, _RECORD_LIMIT, follow=True))
    except FileNotFoundError as error:
        raise _damaged(file, "no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, f"no readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(file, "no JSON object")
    return value


def _damaged(file: Path, problem: str) -> RunError:
    expected = "a record of a run written by cmdiad-train"
    return RunError(file, found=problem, expected=expected, action="check the path, or train again")


def _newer(file: Path, problem: str) -> RunError:
    return RunError(file, found=f"{problem}: made by a newer cmdiad", action="update cmdiad")
