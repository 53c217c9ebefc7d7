"""Scores of good samples that a memory bank detector was not fitted on, and the fusion weights fitted on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.patches import alone
from cmdiad_train.detectors.bank.fitting.leaving_out import BanksWithout
from cmdiad_train.detectors.bank.fitting.series import MOST_OF_ALL, averaged, in_order, series_of
from cmdiad_train.detectors.bank.fitting.usual_distance import UsualDistances
from cmdiad_train.detectors.bank.fusion import fusion_weights
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.run_files import load_chosen, load_row_weights
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.recipe import bank_part, has_relative_distances
from cmdiad_train.runs.tensors import load_tensors, save_tensors

LEFT_OUT = "left-out-distances"  # Not "held-out-": earlier versions did not leave series out.
"""Folder of a run with the distances of training samples that were held out so far; deleted at the end."""

Compared = tuple[Tensor, Tensor]
"""Score `[]` and plain distances `[grid²]` of one sample and bank."""

Scored = tuple[Tensor, Tensor]
"""Unfused scores `[banks]` and maps `[banks, size, size]` of one sample; maps lie over the image of the sensor."""


@torch.no_grad()
def calibrate_fusion(
    context: FitContext,
    detector: Detector,
    banks: Sequence[MemoryBank],
    patches: tuple[Sequence[Sequence[Patches]], Sequence[Sequence[Patches]]],
) -> tuple[list[float], list[float], list[int]]:
    """Set fusion weights and factors of a detector, and return fused scores, map maxima and series of good samples.

    The results are those of `Fitted`.

    The samples are the held-out ones and the training samples, each of these scored against banks that were made
    without it. The factors of relative distances are learnt from the training samples. The map of a training sample
    uses factors that were learnt without the sample. Samples that were recorded in series (`series`) are compared with
    banks without their whole series, held-out ones, too.

    Args:
        context: The training.
        detector: Detector whose fusion weights and factors are set in place.
        banks: Banks of the detector.
        patches: Patch features of the training samples, by scorer and sample; and by bank and sample those that an
            inspection mask does not ignore, which make up the banks.
    """
    held_out = _held_out_patches(context, detector)
    owners = _owners(context, patches[0], held_out)
    trained, of_series = _without_own_rows(context, detector, banks, patches, held_out, owners)
    scored = []
    for i, (files, sample) in enumerate(zip(context.held_out, held_out, strict=True)):
        scored.append(of_series[i] if i in of_series else _over_sensor(context, files, detector.score_each(sample)))
        context.reporter.step("calibrate threshold", i + 1, len(held_out))
    if detector.has_residuals:
        trained = as_held_out(trained, scored)
    scored += trained
    is_published = bank_part(context.recipe).fusion == "ocsvm"
    fitted_on = _against_own_rows(context, detector, patches[0]) if is_published else scored
    detector.score_weights = fusion_weights(torch.stack([s for s, _ in fitted_on]), context.recipe)
    detector.map_weights = fusion_weights(torch.cat([m.flatten(1).T for _, m in fitted_on]), context.recipe)
    scores = [float((detector.score_weights * s).sum()) for s, _ in scored]
    peaks = [float((detector.map_weights[:, None, None] * m).sum(0).max()) for _, m in scored]
    return scores, peaks, owners


def as_held_out(trained: Sequence[Scored], held_out: Sequence[Scored]) -> list[Scored]:
    """Return the results of training samples with residuals at the level of held-out samples.

    The networks have seen the training samples, so their residuals, the last of the results, are too small. They are
    multiplied by the ratio of the mean residual of the held-out samples to that of the training samples, at least 1.
    """
    means = [torch.stack([maps[-1].mean() for _, maps in scored]).mean() for scored in (held_out, trained) if scored]
    ratio = max(1.0, float(means[0] / means[-1]))
    raised = []
    for scores, maps in trained:
        factors = torch.ones_like(scores)
        factors[-1] = ratio
        raised.append((factors * scores, factors[:, None, None] * maps))
    return raised


def _held_out_patches(context: FitContext, detector: Detector) -> list[list[Patches]]:
    patches = []
    for i, files in enumerate(context.held_out):
        inputs = as_tensors(context.samples.prepared(files).inputs)
        patches.append(detector.patches(*(inputs[name] for name in detector.input_names)))
        context.reporter.step("extract held-out features", i + 1, len(context.held_out))
    return patches


def _over_sensor(context: FitContext, files: SampleFiles, scored: Scored) -> Scored:
    """Move the maps of a sample over the image of the sensor, where the operator sees them."""
    if context.recipe.view == "sensor":
        return scored
    scores, maps = scored
    return scores, torch.from_numpy(context.samples.prepared(files).each_to_sensor(maps.numpy()))


def _against_own_rows(context: FitContext, detector: Detector, patches: Sequence[Sequence[Patches]]) -> list[Scored]:
    """Score the training samples against the banks that hold their rows; the published fusion is fitted on these."""
    by_sample = [list(sample) for sample in zip(*patches, strict=True)]
    samples = zip(context.train, by_sample, strict=True)
    return [_over_sensor(context, files, detector.score_each(sample)) for files, sample in samples]


def _owners(
    context: FitContext, trained: Sequence[Sequence[Patches]], held_out: Sequence[Sequence[Patches]]
) -> list[int]:
    """Return for each training and held-out sample the number of the picture, or of the series of pictures, it is of.

    Samples of `--calibration` are another recording, and have numbers that no other sample has.

    Args:
        context: The training.
        trained: Patch features of the training samples, by scorer and sample.
        held_out: Patch features of the held-out samples, by sample and scorer.
    """
    mains, parts = len(context.recipe.mains), context.preprocessing.parts
    count = len(context.train) + len(context.held_out)
    if bank_part(context.recipe).series == "keep":
        return [i // parts for i in range(count)]
    samples = [*zip(*trained[:mains], strict=True), *(sample[:mains] for sample in held_out)]
    pictures = [[p for sample in samples[i : i + parts] for p in sample] for i in range(0, count, parts)]
    files = [*context.train, *context.held_out][::parts]
    owners = list(range(len(pictures)))
    own = [i for i, file in enumerate(files) if not file.session]
    order = [own[i] for i in in_order([files[i].name for i in own])]
    longest = min(len(order) // MOST_OF_ALL, len(context.train) // parts // 2)
    recorded = series_of(torch.stack([averaged(pictures[i]) for i in order]), longest)
    series = len({*recorded})
    if series < len(order):
        for picture, number in zip(order, recorded, strict=True):
            owners[picture] = len(pictures) + number
        context.reporter.say(
            f"note: many of the {len(order)} good samples resemble those recorded next to them most, so they count as "
            f"{series} series, and each one is compared with the other series only. If these are different "
            "kinds of parts instead, the threshold is too high: use --series keep."
        )
    return [owners[i // parts] for i in range(count)]


def _without_own_rows(
    context: FitContext,
    detector: Detector,
    banks: Sequence[MemoryBank],
    patches: tuple[Sequence[Sequence[Patches]], Sequence[Sequence[Patches]]],
    held_out: Sequence[Sequence[Patches]],
    owners: Sequence[int],
) -> tuple[list[Scored], dict[int, Scored]]:
    """Score every training sample against banks that were made without the samples of its owner.

    Sets the factors of relative distances.

    Args:
        context: The training.
        detector: Detector whose factors are set.
        banks: Banks of the detector.
        patches: See `calibrate_fusion`.
        held_out: Patch features of the held-out samples, by sample and scorer.
        owners: Owner of each training sample, then of each held-out sample; see `_owners`.

    Returns:
        Results of the training samples, and by number those of the held-out samples that share an owner with some.
    """
    count = len(context.train)
    of_training = {*owners[:count]}
    sharing = [i for i in range(len(held_out)) if owners[count + i] in of_training]
    numbers = [*range(count), *(count + i for i in sharing)]
    chosen = load_chosen(context.run)
    by_bank: list[list[Scored]] = []
    factors: list[Tensor | None] = []
    weights = load_row_weights(context.run)
    of_banks = zip(banks, chosen, patches[0][: len(banks)], patches[1], strict=True)
    for number, (bank, of_bank, trained, inspected) in enumerate(of_banks):
        own = None if bank.weights is None else weights
        without = BanksWithout(bank, of_bank, inspected, owners[:count], context.recipe, context.device, own)
        every = [*trained, *(sample[number] for sample in held_out)]
        compared: list[Compared] = []
        for first in numbers[:: context.preprocessing.parts]:
            compared += _of_picture(context, detector, number, first, without, owners[first], every)
            done, total = number * len(numbers) + len(compared), len(banks) * len(numbers)
            context.reporter.step("hold out training samples", done, total)
        scorer = detector.scorer(number, bank)
        usual = _usual_distances(context, scorer, compared[:count], trained, owners[:count])
        by_bank.append(_with_maps(scorer, compared, usual, [owners[i] for i in numbers]))
        factors.append(None if usual is None else usual.factors())
    detector.set_factors(factors)
    for place, residual in enumerate(detector.scorers[len(banks) :], len(banks)):
        every = [*patches[0][place], *(sample[place] for sample in held_out)]
        by_bank.append([residual(*every[i]) for i in numbers])
    files = [*context.train, *context.held_out]
    scored = [
        _over_sensor(context, files[i], (torch.stack([s for s, _ in unfused]), torch.stack([m for _, m in unfused])))
        for i, unfused in zip(numbers, zip(*by_bank, strict=True), strict=True)
    ]
    return scored[:count], dict(zip(sharing, scored[count:], strict=True))


def _with_maps(
    scorer: BankScorer, compared: Sequence[Compared], usual: UsualDistances | None, owners: Sequence[int]
) -> list[Scored]:
    """Return score and map of each sample. Factors of relative distances do not know the samples of its owner."""
    scored = []
    for owner, (score, distances) in zip(owners, compared, strict=True):
        shown = distances if usual is None else distances * usual.factors(without=owner)
        scored.append((score, scorer.map(shown)))
    return scored


def _usual_distances(
    context: FitContext,
    scorer: BankScorer,
    compared: Sequence[Compared],
    patches: Sequence[Patches],
    owners: Sequence[int],
) -> UsualDistances | None:
    """Return the usual distances of the training samples of one bank, or None if the recipe takes plain distances."""
    if not has_relative_distances(context.recipe):
        return None
    on_part = torch.stack([alone(cells) for _, cells in patches])
    if scorer.kept_cells is not None:
        on_part &= scorer.kept_cells > 0
    return UsualDistances(torch.stack([distances for _, distances in compared]), on_part, owners)


def _of_picture(  # noqa: PLR0913 - a picture, and what it is compared with
    context: FitContext,
    detector: Detector,
    number: int,
    first: int,
    without: BanksWithout,
    owner: int,
    patches: Sequence[Patches],
) -> list[Compared]:
    """Return score and distances of each part in a picture, of an earlier attempt if there is one.

    Args:
        context: The training.
        detector: Detector of all samples.
        number: Number of the bank.
        first: Number of the first part of the picture.
        without: Banks without the samples of an owner.
        owner: Owner of the picture.
        patches: Patch features of all samples.
    """
    parts = context.preprocessing.parts
    file = context.run / LEFT_OUT / f"{number}-{first // parts:06d}.safetensors"
    if not file.exists():
        scorer = detector.scorer(number, without.without(owner))
        results = [scorer.compare(*patches[i]) for i in range(first, first + parts)]
        scores, distances = (torch.stack(values) for values in zip(*results, strict=True))
        file.parent.mkdir(exist_ok=True)
        save_tensors(file, {"scores": scores, "distances": distances})
    tensors = load_tensors(file)
    return [*zip(tensors["scores"], tensors["distances"], strict=True)]
