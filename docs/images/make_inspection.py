"""Compose inspection.png, the picture at the top of the README, from the results of `scripts/demo`.

Run: python docs/images/make_inspection.py demo docs/images/inspection.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cmdiad_runtime.inspection.overlay import depth_image
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support.score_text import compared

CELL = 226
GAP = 10
HEADER = 34
FOOTER = 30
SAMPLES = [  # modality, defect, number, title
    ("rgb", "good", "006", "Camera: good part"),
    ("rgb", "scratch", "002", "Camera: scratch"),
    ("xyz", "good", "005", "3D sensor: good part"),
    ("xyz", "dent", "001", "3D sensor: dent"),
]


def main(demo: Path, target: Path) -> None:
    """Draw one column per sample: the input on top, the overlay and the verdict below."""
    width = len(SAMPLES) * (CELL + GAP) + GAP
    canvas = Image.new("RGB", (width, HEADER + 2 * CELL + GAP + FOOTER), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(16)
    for column, (modality, defect, number, title) in enumerate(SAMPLES):
        left = GAP + column * (CELL + GAP)
        result = read_result(demo / f"inspected-{modality}", defect, number)
        overlay = Image.open(demo / f"inspected-{modality}" / str(result["overlay"])).convert("RGB")
        canvas.paste(fit(read_input(demo, modality, defect, number)), (left, HEADER))
        canvas.paste(fit(overlay), (left, HEADER + CELL + GAP))
        draw.text((left + CELL / 2, HEADER / 2), title, "black", font, anchor="mm")
        colour = "#1a7f37" if result["verdict"] == "OK" else "#cf222e"
        scores = compared(float(str(result["score"])), float(str(result["threshold"])), "threshold")
        text = f"{result['verdict']}   {scores}"
        draw.text((left + CELL / 2, HEADER + 2 * CELL + GAP + FOOTER / 2), text, colour, font, anchor="mm")
    canvas.quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(target, optimize=True)


def read_result(folder: Path, defect: str, number: str) -> dict[str, object]:
    """Return the line of results.jsonl that belongs to one test sample."""
    for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines():
        result: dict[str, object] = json.loads(line)
        path = Path(str(result["input"]))
        if path.stem == number and path.parts[-3] == defect:
            return result
    raise SystemExit(f"{folder}: no result for {defect}/{number}. Run: scripts/demo")


def read_input(demo: Path, modality: str, defect: str, number: str) -> Image.Image:
    """Return the camera's image, or the cloud as the grey depth image of the runtime."""
    folder = demo / "data" / "gear" / "test" / defect / modality
    if modality == "rgb":
        return Image.open(folder / f"{number}.png").convert("RGB")
    return Image.fromarray(depth_image(read_xyz(folder / f"{number}.tiff")))


def fit(image: Image.Image) -> Image.Image:
    """Scale an image to one cell."""
    return image.resize((CELL, CELL), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
