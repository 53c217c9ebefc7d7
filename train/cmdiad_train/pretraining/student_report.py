"""The report of a distillation: the cost of teacher and student, and how well the student predicts the teacher."""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.records import NewerRecordError, fields_from_json, require, require_object
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.pretraining.student_network import Student, distances, evenly_spaced_rows
from cmdiad_train.pretraining.teacher_features import TeacherFeatures
from cmdiad_train.recipe import RgbExtractor

TIMED_RUNS, WARMUP_RUNS = 9, 2


@torch.no_grad()
def agreement(student: Student, features: TeacherFeatures, held_out: list[int]) -> dict[str, float]:
    """Compare the student's predictions with the teacher's features of held-out images.

    Args:
        student: Trained student, on the CPU.
        features: Images and the teacher's features.
        held_out: Indices of images that the student was not trained on.

    Returns:
        `cosine`: mean cosine between predicted and true features of a patch. `centred_cosine`: the same around the
        teacher's mean feature, which all features share. `r2`: explained share of the variance. `distances`:
        correlation between the distances of an image's patches by the student's own features and by the teacher's;
        mean over images.
    """
    cosine: list[Tensor] = []
    centred: list[Tensor] = []
    correlation: list[Tensor] = []
    error = spread = torch.zeros((), dtype=torch.float64)
    for index in held_out:
        images, teacher = features.batch([(index, 0)])
        own, predictions = student(images)
        predicted, true = predictions[0], teacher[0]
        rows = evenly_spaced_rows(len(true))
        correlation.append(torch.corrcoef(torch.stack([distances(own, rows), distances(teacher, rows)]))[0, 1])
        cosine.append(F.cosine_similarity(predicted, true, dim=1))
        centred.append(F.cosine_similarity(predicted - student.mean, true - student.mean, dim=1))
        error = error + (predicted - true).double().square().sum()
        spread = spread + (true - student.mean).double().square().sum()
    return {
        "cosine": float(torch.cat(cosine).mean()),
        "centred_cosine": float(torch.cat(centred).mean()),
        "r2": float(1 - error / spread),
        "distances": float(torch.stack(correlation).mean()),
    }


def describe(extractor: TimmBackbone, spec: RgbExtractor, size: int) -> dict[str, Any]:
    """Return the identity and the cost of an extractor, ready for JSON.

    Args:
        extractor: Extractor on the CPU.
        spec: Recipe part that it was made from.
        size: Side of its images in pixels.
    """
    return {
        "backbone": spec.backbone,
        "stages": list(spec.stages),
        "grid": extractor.grid,
        "width": extractor.width,
        "weights": extractor.provenance,
        **cost(extractor, size),
    }


def cost(extractor: TimmBackbone, size: int) -> dict[str, float]:
    """Measure the cost of one image.

    Returns:
        `gmac`: 10⁹ multiply-adds. `parameters`: number of parameters. `milliseconds`: median time on this CPU.
    """
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        operations = multiply_adds(extractor, image)
        seconds = []
        for _ in range(TIMED_RUNS + WARMUP_RUNS):
            start = time.perf_counter()
            extractor(image)
            seconds.append(time.perf_counter() - start)
    return {
        "gmac": operations / 1e9,
        "parameters": sum(parameter.numel() for parameter in extractor.model.parameters()),
        "milliseconds": 1e3 * statistics.median(seconds[WARMUP_RUNS:]),
    }


def multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """Count the multiply-adds of convolutions and matrix products in one forward pass."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the counter misses the fused attention of the CPU
        module(*inputs)
    return counter.get_total_flops() // 2


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass(frozen=True)
class StudentReport:
    """The report of a distillation, stored next to the weights.

    Attributes:
        teacher: Identity and cost of the large extractor, see `describe`.
        student: Identity and cost of the small extractor.
        agreement: Figures of `agreement`.
        samples: Source and numbers of the samples.
        machine: Processor and number of threads that the cost was measured with.

    Raises:
        RecordError: A value has the wrong kind.
    """

    teacher: dict[str, Any]
    student: dict[str, Any]
    agreement: dict[str, float]
    samples: dict[str, Any]
    machine: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("teacher", "student", "agreement", "samples", "machine"):
            require_object(self, name)
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.agreement.values())
        require(numbers, self, "agreement", "figures by name")

    @staticmethod
    def from_json(value: object) -> StudentReport:
        """Read the report that `asdict` wrote; raises RecordError, or NewerRecordError for an unknown field."""
        return StudentReport(**fields_from_json(StudentReport, value))


def stored_report(path: Path) -> dict[str, Any]:
    """Return the report of a finished distillation as a JSON object.

    A damaged report is an error, because its figures cannot be measured again without the teacher.

    Raises:
        RunError: The file is missing or damaged, or a newer cmdiad wrote it.
    """
    try:
        return asdict(StudentReport.from_json(json.loads(path.read_text(encoding="utf-8"))))
    except NewerRecordError as error:
        raise RunError(path, found=f"{error}: made by a newer cmdiad", action="Update cmdiad") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            path,
            found=str(error) if isinstance(error, OSError) else f"a damaged report ({error})",
            expected="the report next to the weights",
            action="remove both files and distil again",
        ) from error
