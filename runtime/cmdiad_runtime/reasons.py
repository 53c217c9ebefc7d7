"""Reasons of the verdict NG: the closed list of codes in results, with the meaning of each.

Programs compare codes, people read the message. Codes are never renamed; new ones may be added. The table in
docs/failure-modes.md shows what leads to each code.
"""

from __future__ import annotations

from typing import Literal, get_args

Reason = Literal[
    "score",
    "outside",
    "missing-file",
    "missing-modality",
    "not-a-file",
    "unreadable",
    "unsupported",
    "too-large",
    "timeout",
    "out-of-memory",
    "wrong-array",
    "size-mismatch",
    "no-contrast",
    "no-points",
    "no-part",
    "part-count",
    "part-area",
    "part-position",
    "image-size",
    "colour",
    "exposure",
    "sharpness",
    "noise",
    "valid-points",
    "point-pitch",
    "plane-distance",
    "holes",
    "part-height",
    "axes",
    "frozen",
    "bad-output",
    "no-answer",
    "internal",
]
"""Machine-readable reason of the verdict NG."""

REASONS: dict[Reason, str] = {
    "score": "The score exceeds the threshold: the detector sees a defect.",
    "outside": "Something outside the inspected area differs from the training samples.",
    "missing-file": "The file does not exist.",
    "missing-modality": "The sample lacks the image or the cloud that the detector needs.",
    "not-a-file": "The path leads to a folder, pipe, socket or device.",
    "unreadable": "The file is damaged or incomplete, or reading it failed.",
    "unsupported": "The file is whole, but has a format or content that the detector does not take.",
    "too-large": "The file, or what it unpacks to, exceeds a limit.",
    "timeout": "The file was not complete, or not read, within the time limit.",
    "out-of-memory": "The machine has too little memory for the sample.",
    "wrong-array": "An array of the sample has the wrong type or shape.",
    "size-mismatch": "Image and cloud differ in size.",
    "no-contrast": "The image has hardly any contrast.",
    "no-points": "The cloud has no or too few measured points.",
    "no-part": "No part was detected.",
    "part-count": "The number of parts differs from the training samples.",
    "part-area": "The area of a part differs from the training samples.",
    "part-position": "The position of a part differs from the training samples.",
    "image-size": "Width and height differ from the training samples.",
    "colour": "The colours differ from the training samples, for example red and blue are swapped.",
    "exposure": "The image is darker or brighter than the training samples.",
    "sharpness": "The image is less sharp than the training samples.",
    "noise": "The image or the cloud is noisier than the training samples.",
    "valid-points": "The share or the extent of the measured points differs from the training samples.",
    "point-pitch": "The distance of neighbouring points differs from the training samples.",
    "plane-distance": "The distance of the support plane differs from the training samples.",
    "holes": "The part has more missing points or loose material inside than the training samples.",
    "part-height": "The height of the part differs from the training samples.",
    "axes": "The axes of the cloud are swapped or mirrored compared with the training samples.",
    "frozen": "The sensor delivered the same frame again.",
    "bad-output": "Score or map is not a number, or out of range.",
    "no-answer": "The server that runs the graph did not answer in time.",
    "internal": "The preparation failed in a way that was not foreseen; please report this.",
}
"""Meaning of each reason."""

assert set(REASONS) == set(get_args(Reason))
