"""A small image extractor learns what a large one sees, and takes its place in the recipe.

The teacher's patch features of every image, and of changed copies of it, are computed once. The student learns them
through one linear layer, which is thrown away; a memory bank is built of the student's own features. All that a bank
takes from features are distances, so the student learns those between the teacher's patches too (Park et al. 2019).
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import write_json
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.weights_file import Origin, save_weights, weights_digest
from cmdiad_train.fit.feature_cache import FeatureCache
from cmdiad_train.pretraining.augmentation import moved, relit
from cmdiad_train.pretraining.image_extractors import settle_statistics, trainable, use_of
from cmdiad_train.pretraining.loop import Job, train
from cmdiad_train.pretraining.samples import Inputs, Report, View, recipe_for
from cmdiad_train.recipe import RgbExtractor

HELD_OUT_SHARE = 5
"""Every fifth image is not learned from; the agreement is measured on these."""
TIMED_RUNS = 9
RELATED = 512
"""Patches of a step, or of a held-out image, whose distances from each other are compared."""


@dataclass(frozen=True)
class Lesson:
    """Who learns what from whom.

    Attributes:
        teacher: the large extractor.
        student: the small one; for a CNN without a grid the teacher's is taken.
        view: "rgb", "normals" or "depth".
        size: side of the images in pixels.
        copies: changed copies of each image that are learned from beside itself.
    """

    teacher: RgbExtractor
    student: RgbExtractor
    view: View = "rgb"
    size: int = 224
    copies: int = 7


class Student(nn.Module):
    """A student and the linear layer from its features to the teacher's, in units of their own spread.

    Args:
        extractor: the student, trainable.
        grid: of the teacher.
        mean: of the teacher's features `[C]`.
        scale: their standard deviations `[C]`.
        seed: of the linear layer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, extractor: TimmBackbone, grid: int, mean: Tensor, scale: Tensor, *, seed: int) -> None:
        super().__init__()
        self.extractor, self.grid = extractor, grid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(extractor.width, len(mean))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The student's own features `[B, T, C']` and the teacher's as it tells them `[B, T, C]`, on the latter's grid.

        Args:
            images: `[B, size, size, 3]`, 0-255.
        """
        tokens = self.extractor(images)
        if self.extractor.grid != self.grid:
            planes = tokens.transpose(1, 2).unflatten(2, (self.extractor.grid, self.extractor.grid))
            tokens = F.adaptive_avg_pool2d(planes, self.grid).flatten(2).transpose(1, 2)
        return tokens.float(), self.head(tokens).float() * self.scale + self.mean

    def loss(self, images: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error in units of each channel's deviation, and that of distances between some patches.

        Args:
            images: `[B, size, size, 3]`, 0-255.
            features: the teacher's `[B, T, C]`.
            rows: int64, which of all patches are compared.
        """
        own, told = self(images)
        error = ((told - features) / self.scale).square().mean()
        return error + (distances(own, rows) - distances(features, rows)).square().mean()


def distances(features: Tensor, rows: Tensor) -> Tensor:
    """Euclidean distances between all pairs of some patches, in units of their mean.

    Args:
        features: `[B, T, C]`.
        rows: int64 `[n]`, below B·T.
    """
    found = torch.pdist(features.flatten(0, 1)[rows])
    return found / found.mean().clamp(min=1e-12)


def distil_student(job: Job, lesson: Lesson, report: Report) -> dict[str, Any]:
    """Train a student, write its weights, and beside them as JSON what it costs and how far it agrees.

    Args:
        job: samples, output, schedule.
        lesson: teacher and student.
        report: told of the progress.

    Returns:
        What was written as JSON.

    Raises:
        RunError: data, teacher or student cannot be used. InputError: a sample cannot be read.
        OutputError: `job.out` holds something else.
    """
    seed, device = job.schedule.seed, job.machine.torch_device()
    teacher = TimmBackbone(lesson.teacher, size=lesson.size, seed=seed)
    spec = replace(lesson.student, grid=lesson.student.grid or (teacher.grid if lesson.student.stages else None))
    inputs = job.inputs(lesson.view, recipe_for(lesson.size, spec))
    known = [replace(each, weights=weights_digest(each.weights)) for each in (lesson.teacher, spec)]
    identity = job.identity(inputs, {"lesson": asdict(replace(lesson, teacher=known[0], student=known[1]))})
    if job.is_done(identity):
        return _stored_report(job.out.with_suffix(".json"))
    training, held_out = _split(len(inputs))
    cache = FeatureCache(job.work / f"teacher-{identity[:16]}", budget=job.cache_bytes)
    lessons = _Lessons(inputs, teacher.to(device), lesson, cache, seed)
    lessons.compute_all(training, held_out, report)
    mean, scale = _feature_statistics(lessons, training)
    student = Student(trainable(spec, lesson.size, seed), teacher.grid, mean, scale, seed=seed)

    def loss(chosen: list[int], generator: torch.Generator) -> Tensor:
        copies = torch.randint(lesson.copies + 1, (len(chosen),), generator=generator).tolist()
        images, features = lessons.batch(list(zip(chosen, copies, strict=True)))
        rows = torch.randperm(features.shape[0] * features.shape[1], generator=generator)[:RELATED]
        return student.loss(images.to(device), features.to(device), rows.to(device))

    @torch.no_grad()
    def validate() -> float:
        student.eval()
        rows = some_rows(teacher.grid**2).to(device)
        batches = [lessons.batch([(i, 0)]) for i in held_out]
        losses = [student.loss(images.to(device), features.to(device), rows) for images, features in batches]
        return sum(map(float, losses)) / len(losses)

    log = train(
        student,
        loss,
        training,
        job.schedule,
        checkpoint=job.work / "checkpoint.safetensors",
        identity=identity,
        device=device,
        validate=validate,
        progress=lambda done, total, value: report(f"distil (loss {value:.4g})", done, total),
    )
    settle_statistics(student.extractor, inputs, training)
    student.eval().requires_grad_(False)
    told = {
        "teacher": _described(teacher.cpu(), lesson.teacher, lesson.size),
        "student": _described(student.extractor, spec, lesson.size),
        "agreement": agreement(student, lessons, held_out),
        "samples": {"source": job.source.words, "training": len(training), "held_out": len(held_out)},
        "machine": {"processor": _processor(), "threads": torch.get_num_threads()},
    }
    origin = Origin(f"distilled from {teacher.provenance} on {job.source.words}", job.licence, job.command, seed=seed)
    use = use_of(student.extractor, replace(spec, weights="seeded"), lesson.size) | {"training": identity}
    write_json(job.out.with_suffix(".json"), told)
    job.write_log(log)
    save_weights(job.out, student.extractor.model.state_dict(), use, origin)
    job.clean()
    return told


class _Lessons:
    """Images and the teacher's features of them, computed once and then read from disk."""

    def __init__(self, inputs: Inputs, teacher: TimmBackbone, lesson: Lesson, cache: FeatureCache, seed: int) -> None:
        self.inputs, self.teacher, self.lesson, self.cache, self.seed = inputs, teacher, lesson, cache, seed

    def compute_all(self, training: list[int], held_out: list[int], report: Report) -> None:
        """Compute what is not on disk yet."""
        wanted = [(i, 0) for i in held_out] + [(i, c) for i in training for c in range(self.lesson.copies + 1)]
        for done, (index, copy) in enumerate(wanted, 1):
            self.one(index, copy)
            report("ask the teacher", done, len(wanted))

    def one(self, index: int, copy: int) -> dict[str, Tensor]:
        """`image` `[size, size, 3]` and `features` float16 `[T, C]` of one copy; copy 0 is the sample itself."""
        total = len(self.inputs) * (self.lesson.copies + 1)
        return self.cache.get(self.lesson.view, f"{index:05d}-{copy}", total, lambda: self._compute(index, copy))

    def batch(self, chosen: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Images `[B, size, size, 3]` and features float32 `[B, T, C]`."""
        found = [self.one(index, copy) for index, copy in chosen]
        return torch.stack([f["image"] for f in found]), torch.stack([f["features"] for f in found]).float()

    @torch.no_grad()
    def _compute(self, index: int, copy: int) -> dict[str, Tensor]:
        image = self.inputs[index]["image"][None]
        if copy:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) * 1009 + copy)
            changed = relit(moved(image.float(), self.lesson.view, generator), self.lesson.view, generator)
            image = changed.round().to(torch.uint8) if self.lesson.view == "rgb" else changed
        device = next(self.teacher.model.parameters()).device
        features = self.teacher(image.to(device))[0].cpu()
        return {"image": image[0], "features": features.clamp(-65504, 65504).half()}


def _split(count: int) -> tuple[list[int], list[int]]:
    """Indices to learn from and held-out ones, spread evenly over all kinds of samples."""
    if count < HELD_OUT_SHARE:
        raise RunError(
            "samples",
            found=str(count),
            expected=f"at least {HELD_OUT_SHARE}, since every fifth is held out",
            action="add samples, or --generate 64",
        )
    held_out = list(range(HELD_OUT_SHARE - 1, count, HELD_OUT_SHARE))
    return [i for i in range(count) if i % HELD_OUT_SHARE != HELD_OUT_SHARE - 1], held_out


def _feature_statistics(lessons: _Lessons, training: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[C]` of the teacher's features of the training images."""
    rows = 0
    total = squares = torch.zeros(())
    for index in training:
        features = lessons.one(index, 0)["features"].double()
        total, squares = total + features.sum(0), squares + features.square().sum(0)
        rows += len(features)
    mean = total / rows
    deviation = (squares / rows - mean.square()).clamp(min=0).sqrt()
    return mean.float(), deviation.clamp(min=1e-3 * float(deviation.max()) + 1e-12).float()


def some_rows(count: int) -> Tensor:
    """Indices int64 of at most 512 of `count` patches, spread evenly."""
    return torch.arange(min(count, RELATED)) * count // min(count, RELATED)


@torch.no_grad()
def agreement(student: Student, lessons: _Lessons, held_out: list[int]) -> dict[str, float]:
    """How far a student tells the teacher's features of images that it has not learned from.

    Returns:
        `cosine`: mean cosine between told and true features of a patch. `centred_cosine`: the same around the
        teacher's mean feature, without which all features look alike. `r2`: share of the variance that is told.
        `distances`: correlation of the distances between patches of an image, by the student's own features and by
        the teacher's; mean over images.
    """
    cosine: list[Tensor] = []
    centred: list[Tensor] = []
    related: list[Tensor] = []
    error = spread = torch.zeros((), dtype=torch.float64)
    for index in held_out:
        images, features = lessons.batch([(index, 0)])
        own, whole = student(images)
        told, true = whole[0], features[0]
        rows = some_rows(len(true))
        related.append(torch.corrcoef(torch.stack([distances(own, rows), distances(features, rows)]))[0, 1])
        cosine.append(F.cosine_similarity(told, true, dim=1))
        centred.append(F.cosine_similarity(told - student.mean, true - student.mean, dim=1))
        error = error + (told - true).double().square().sum()
        spread = spread + (true - student.mean).double().square().sum()
    return {
        "cosine": float(torch.cat(cosine).mean()),
        "centred_cosine": float(torch.cat(centred).mean()),
        "r2": float(1 - error / spread),
        "distances": float(torch.stack(related).mean()),
    }


def cost(extractor: TimmBackbone, size: int) -> dict[str, float]:
    """What one image costs: `gmac` (10⁹ multiply-adds), `parameters`, and the median `milliseconds` on this CPU."""
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        operations = multiply_adds(extractor, image)
        seconds = []
        for _ in range(TIMED_RUNS + 2):
            start = time.perf_counter()
            extractor(image)
            seconds.append(time.perf_counter() - start)
    return {
        "gmac": operations / 1e9,
        "parameters": sum(parameter.numel() for parameter in extractor.model.parameters()),
        "milliseconds": 1e3 * statistics.median(seconds[2:]),
    }


def multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products in one forward pass."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the fused attention of the CPU is not counted
        module(*inputs)
    return counter.get_total_flops() // 2


def _described(extractor: TimmBackbone, spec: RgbExtractor, size: int) -> dict[str, Any]:
    told = {"backbone": spec.backbone, "stages": list(spec.stages), "grid": extractor.grid, "width": extractor.width}
    return {**told, "weights": extractor.provenance, **cost(extractor, size)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _stored_report(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            path, found=str(error), expected="the report beside the weights", action="remove both and distil again"
        ) from error
