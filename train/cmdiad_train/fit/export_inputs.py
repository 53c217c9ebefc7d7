"""Network inputs that training leaves for export: golden, quantisation and held-out samples with tampered copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.preprocess.views.prepared import Placement, Prepared
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.fit.splits import Splits
from cmdiad_train.runs.run import GOLDEN, HELD_OUT, QUANTISATION
from cmdiad_train.runs.stored_samples import StoredSample, save_samples

Content = TypeVar("Content")

GOLDEN_SAMPLES = 4
QUANTISATION_SAMPLES = 4
HELD_OUT_SAMPLES = 24


def golden_samples(splits: Splits) -> Sequence[SampleFiles]:
    """Return the held-out samples of the certificate; of several parts per sample, another part of each."""
    return [sample[i % splits.parts] for i, sample in enumerate(_samples(splits.held_out, splits)[:GOLDEN_SAMPLES])]


def quantisation_samples(splits: Splits) -> Sequence[SampleFiles]:
    """Return the training samples that calibrate int8 and fp8; of several parts per sample, another part of each."""
    samples = _samples(splits.train, splits)
    step = max(1, len(samples) // QUANTISATION_SAMPLES)
    return [sample[i % splits.parts] for i, sample in enumerate(samples[::step][:QUANTISATION_SAMPLES])]


def measured_samples(splits: Splits) -> Sequence[SampleFiles]:
    """Return the held-out samples, with all their parts, on which export measures a faster search or a smaller bank."""
    spread = evenly_spread(_samples(splits.held_out, splits), HELD_OUT_SAMPLES)
    return [files for sample in spread for files in sample]


def _samples(entries: Sequence[SampleFiles], splits: Splits) -> list[Sequence[SampleFiles]]:
    """Return the entries of each sample, one for each part."""
    return [entries[start : start + splits.parts] for start in range(0, len(entries), splits.parts)]


def evenly_spread(samples: Sequence[Content], count: int) -> list[Content]:
    """Return `count` of the samples at equal steps, the first one included, or all if there are no more."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def tampered_samples(splits: Splits) -> list[SampleFiles]:
    """Return the samples of which export needs a tampered copy."""
    return [*golden_samples(splits), *quantisation_samples(splits), *measured_samples(splits)]


def input_bytes(splits: Splits, samples: SampleProvider) -> int:
    """Return the size in bytes of what `save_export_inputs` writes, if all samples are like the first one."""
    first = samples.prepared(splits.held_out[0])
    size = samples.preprocessing(splits.held_out[0]).size
    stored = [*first.inputs.values(), *first.placement.sampled(size).to_arrays().values()]
    return 2 * len(tampered_samples(splits)) * sum(array.nbytes for array in stored)


def with_tampered_copy(
    chosen: Sequence[SampleFiles], candidates: Sequence[SampleFiles], samples: SampleProvider
) -> list[SampleFiles]:
    """Return the chosen samples; each one whose tampered copy cannot be prepared is replaced by another candidate.

    Raises:
        RunError: No candidate has a tampered copy that can be prepared.
    """
    kept: list[SampleFiles] = []
    error: InputError | None = None
    for files in (*chosen, *(other for other in candidates if other not in chosen)):
        if len(kept) == len(chosen):
            break
        failed = samples.try_tamper(files)
        error = error or failed
        if failed is None:
            kept.append(files)
    if kept:
        return kept
    raise RunError(
        str(error.subject if error else "held-out samples"),
        found="no good sample of which a tampered copy can be prepared"
        + (f"; in the copy of the first one: {error.found}" if error else ""),
        expected="a part that is still detected with a small defect, for the certificate of the export",
        action="Train with --view sensor",
    )


def save_export_inputs(
    run: Path, splits: Splits, samples: SampleProvider, input_names: Sequence[str], reporter: Reporter
) -> None:
    """Write the inputs of golden, quantisation and held-out samples, each with the inputs of a tampered copy.

    Good samples alone would clip the values that defects cause in an int8 or fp8 graph.

    Args:
        run: Run directory.
        splits: Samples of the training.
        samples: Source of prepared samples.
        input_names: Names of the detector's inputs.
        reporter: Receiver of progress.
    """
    kept: list[StoredSample] = []
    measured = with_tampered_copy(measured_samples(splits), splits.held_out, samples)
    for i, files in enumerate(measured):
        sample, part = divmod(i, splits.parts)
        name = f"{sample:02d}" if splits.parts == 1 else f"{sample:02d}.{part:02d}"
        kept += _good_and_tampered(name, files, samples, input_names)
        reporter.step("keep held-out samples", i + 1, len(measured))
    save_samples(run / HELD_OUT, kept)
    golden = with_tampered_copy(golden_samples(splits), splits.held_out, samples)
    quantisation = with_tampered_copy(quantisation_samples(splits), splits.train, samples)
    for file, chosen in ((GOLDEN, golden), (QUANTISATION, quantisation)):
        pairs = [_good_and_tampered(str(i), files, samples, input_names) for i, files in enumerate(chosen)]
        save_samples(run / file, [sample for pair in pairs for sample in pair])


def _good_and_tampered(
    name: str, files: SampleFiles, samples: SampleProvider, input_names: Sequence[str]
) -> tuple[StoredSample, StoredSample]:
    """Return a sample and a tampered copy, named `NAME-good` and `NAME-tampered`."""
    size = samples.preprocessing(files).size
    return (
        StoredSample(f"{name}-good", False, *_stored(samples.prepared(files), input_names, size)),
        StoredSample(f"{name}-tampered", True, *_stored(samples.tampered(files), input_names, size)),
    )


def _stored(prepared: Prepared, names: Sequence[str], size: int) -> tuple[dict[str, Tensor], Placement | None]:
    """Return the network inputs with these names, and the position of the views; None in the sensor view."""
    inputs = as_tensors({name: prepared.inputs[name] for name in names})
    return inputs, prepared.placement.sampled(size) if prepared.places else None
