"""Ground truth of a sample as every command takes it: a usable mask, or the reason why pixels cannot be judged."""

from __future__ import annotations

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.sample import Mask
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles


def read_ground_truth(files: SampleFiles, shape: tuple[int, int]) -> Mask | InputError:
    """Return the mask of the defective pixels, or the error that says why there is none.

    `cmdiad-data check` reports this error; training, accuracy and report leave the sample out of the pixel figures.

    Args:
        files: Files of the sample.
        shape: Height and width of the sample in pixels.

    Returns:
        bool `[h, w]`, all False for a good sample. The error if the mask of a defect is missing, cannot be read, has
        another size, or marks no pixel.
    """
    return guarded(str(files.ground_truth or files.rgb or files.xyz), lambda: _checked(files, shape))


def _checked(files: SampleFiles, shape: tuple[int, int]) -> Mask:
    mask = files.read_mask(shape)
    if files.defect != GOOD and not mask.any():
        raise InputError(
            str(files.ground_truth),
            found="an empty mask",
            expected="a mask with the pixels of the defect",
            action=f"Draw the defect, or move the sample to test/{GOOD}",
        )
    return mask
