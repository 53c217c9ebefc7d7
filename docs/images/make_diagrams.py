"""Write the SVG diagrams of the documentation with `python docs/images/make_diagrams.py`."""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
FONT = 'font-family="Helvetica, Arial, sans-serif"'
COLOURS = {"blue": "#dbeafe", "green": "#dcfce7", "yellow": "#fef9c3", "red": "#fee2e2", "grey": "#f3f4f6"}


class Diagram:
    """An SVG picture of boxes, arrows and labels on a white background."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {FONT} font-size="12">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#374151"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def box(self, at: tuple[int, int], size: tuple[int, int], lines: list[str], colour: str = "blue") -> None:
        """Draw a box; the first line is bold."""
        (x, y), (width, height) = at, size
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
            f'fill="{COLOURS[colour]}" stroke="#374151"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * 8.5 + 4.5
        for number, line in enumerate(lines):
            weight = ' font-weight="bold"' if number == 0 else ""
            self.parts.append(
                f'<text x="{x + width / 2}" y="{top + 17 * number}" text-anchor="middle"{weight}>{escape(line)}</text>'
            )

    def arrow(self, start: tuple[int, int], end: tuple[int, int], label: str = "", *, dashed: bool = False) -> None:
        """Draw an arrow with a label above its middle."""
        style = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<line x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}" stroke="#374151" stroke-width="1.5" '
            f'marker-end="url(#tip)"{style}/>'
        )
        if label:
            self.text(((start[0] + end[0]) // 2, (start[1] + end[1]) // 2 - 7), label, anchor="middle")

    def text(self, at: tuple[int, int], text: str, *, anchor: str = "start", colour: str = "#374151") -> None:
        """Write one line."""
        self.parts.append(f'<text x="{at[0]}" y="{at[1]}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>')

    def save(self, name: str) -> None:
        """Write the picture next to this script."""
        (FOLDER / name).write_text("\n".join([*self.parts, "</svg>", ""]), encoding="utf-8")


def packages() -> Diagram:
    """Draw which package imports which."""
    picture = Diagram(900, 300, "Packages: bench imports export, train and runtime; the station imports the runtime")
    columns = [
        (20, ["cmdiad_bench", "accuracy, latency, memory", "report, demo"], "yellow"),
        (240, ["cmdiad_export", "graph, precision, search", "planning, certificate"], "yellow"),
        (
            460,
            ["cmdiad_train", "recipe, datasets, extractors", "detectors, fit, runs", "evaluation, pretraining"],
            "yellow",
        ),
        (680, ["cmdiad_runtime", "readers, preprocess", "engines, bundle", "inspection, support"], "green"),
    ]
    for x, lines, colour in columns:
        picture.box((x, 70), (200, 100), lines, colour)
    for x in (220, 440, 660):
        picture.arrow((x, 120), (x + 20, 120))
    picture.box((790, 220), (100, 56), ["cmdiad", "public API"], "blue")
    picture.arrow((840, 220), (840, 172))
    picture.box((600, 220), (170, 56), ["cmdiad_line", "the station, its processes"], "green")
    picture.arrow((720, 220), (720, 172))
    picture.box((300, 220), (200, 56), ["cmdiad_fleet", "archives, many detectors, servers"], "yellow")
    picture.arrow((340, 220), (340, 172))
    picture.arrow((500, 248), (598, 248))
    picture.text((20, 40), "An arrow means: may import. Nothing imports in the other direction.")
    picture.text((20, 60), "Yellow: workstation. Training needs torch, timm and onnx.")
    picture.text((680, 60), "Green: device at the line, no torch.")
    return picture


def data_flow() -> Diagram:
    """Draw the way from training samples to a verdict."""
    picture = Diagram(960, 300, "Data flow: samples, run directory, bundle, verdict")
    picture.box((20, 30), (150, 84), ["good samples", "paired rgb + xyz", "any layout of data.md"], "grey")
    picture.box((270, 30), (170, 84), ["run directory", "recipe.json, run.json", "safetensors, metrics"], "yellow")
    picture.box((540, 30), (170, 84), ["bundle", "manifest.json, graph.onnx", "golden.npz, engines/"], "green")
    picture.box((800, 30), (140, 84), ["verdict", "OK or NG, score", "map, heatmap"], "blue")
    picture.arrow((170, 72), (268, 72), "train")
    picture.arrow((440, 72), (538, 72), "export")
    picture.arrow((710, 72), (798, 72), "run")
    picture.box(
        (270, 190), (170, 84), ["preprocess (runtime)", "read, remove background", "view, resize, geometry"], "green"
    )
    picture.box((540, 190), (170, 84), ["graph (ONNX)", "extractor, hallucination", "search, fusion, map"], "green")
    picture.box((20, 190), (150, 84), ["one sample", "rgb or xyz or both"], "grey")
    picture.box((800, 190), (140, 84), ["inspection", "threshold,", "map over the image"], "blue")
    picture.arrow((170, 232), (268, 232), "read")
    picture.arrow((440, 232), (538, 232), "arrays")
    picture.arrow((710, 232), (798, 232), "score, map")
    picture.arrow((625, 116), (625, 188), dashed=True)
    picture.arrow((355, 188), (355, 116), dashed=True)
    picture.text((365, 156), "the same code in training and inspection")
    return picture


def threads() -> Diagram:
    """Draw which thread does what while a stream of samples is inspected."""
    picture = Diagram(
        900, 250, "Threads: two threads prepare ahead, the caller's thread owns the engine, one helper shares geometry"
    )
    lanes = [(60, "cmdiad-prepare 0"), (110, "cmdiad-prepare 1"), (160, "caller"), (210, "cmdiad-helper")]
    for y, name in lanes:
        picture.text((10, y + 5), name)
        picture.parts.append(f'<line x1="140" y1="{y + 20}" x2="890" y2="{y + 20}" stroke="#d1d5db"/>')
    for x, y, width, label, colour in [
        (150, 40, 150, "read + prepare 1", "green"),
        (150, 90, 190, "read + prepare 2", "green"),
        (310, 40, 180, "read + prepare 3", "green"),
        (500, 90, 180, "read + prepare 4", "green"),
        (310, 140, 180, "engine 1", "yellow"),
        (500, 140, 180, "engine 2", "yellow"),
        (690, 140, 180, "engine 3", "yellow"),
        (200, 190, 80, "pieces", "blue"),
        (370, 190, 80, "pieces", "blue"),
        (560, 190, 80, "pieces", "blue"),
    ]:
        picture.box((x, y), (width, 34), [label], colour)
    picture.text((150, 25), "time →")
    return picture


def student() -> Diagram:
    """Draw the networks of one branch of reverse distillation."""
    picture = Diagram(1140, 330, "One branch: teacher, Filter, Amplifier, bottleneck, decoder and the map of distances")
    picture.box((20, 30), (130, 56), ["own input", "image or cloud"], "grey")
    picture.box((20, 250), (130, 56), ["other input", "cloud or image"], "grey")
    picture.box((200, 30), (130, 56), ["teacher", "frozen CNN"], "blue")
    picture.box((200, 250), (130, 56), ["teacher", "the same one"], "blue")
    picture.box((400, 140), (130, 56), ["Filter", "narrow hour-glass"], "yellow")
    picture.box((400, 250), (130, 56), ["Amplifier", "place by place"], "yellow")
    picture.box((590, 140), (130, 56), ["bottleneck", "stride 32"], "green")
    picture.box((780, 140), (130, 56), ["decoder", "levels 3, 2, 1"], "green")
    picture.box((780, 30), (130, 56), ["1 - cos", "by level and pixel"], "blue")
    picture.box((980, 30), (140, 56), ["map of the branch", "sum of the levels"], "blue")
    picture.arrow((150, 58), (198, 58))
    picture.arrow((150, 278), (198, 278))
    picture.arrow((330, 58), (778, 58), "features of levels 1-3: strides 4, 8, 16")
    picture.arrow((655, 58), (655, 138))
    picture.arrow((330, 264), (398, 172))
    picture.arrow((330, 278), (398, 278))
    picture.arrow((530, 168), (588, 168))
    picture.arrow((720, 168), (778, 168))
    picture.arrow((530, 278), (843, 198))
    picture.text((720, 250), "predicted features, mixed in at each level")
    picture.arrow((845, 140), (845, 88))
    picture.text((852, 118), "reconstruction")
    picture.arrow((910, 58), (978, 58))
    picture.text((720, 300), "Green: the networks of plain reverse distillation (RD).", colour="#166534")
    return picture


def variants() -> Diagram:
    """Draw what each variant of reverse distillation runs at inspection."""
    picture = Diagram(1000, 350, "The networks that each variant of reverse distillation runs at inspection")
    rows = [
        ("trd", "image and cloud", "each sees both", "two students"),
        ("rd", "one modality", "plain", "student"),
        ("mtfi-trd", "one modality", "sees both", "student"),
        ("mtfi-rd", "one modality", "plain, taught", "student"),
    ]
    for number, (name, measured, kind, what) in enumerate(rows):
        y = 20 + 82 * number
        picture.text((20, y + 32), name)
        picture.box((110, y), (130, 56), ["input", measured], "grey")
        picture.box((290, y), (130, 56), ["teacher", "one batch" if name == "trd" else "frozen CNN"], "blue")
        picture.box((660, y), (130, 56), [what, kind], "green")
        picture.box((840, y), (140, 56), ["map", "sum, blur" if name == "trd" else "blur"], "blue")
        picture.arrow((240, y + 28), (288, y + 28))
        picture.arrow((420, y + 28), (658, y + 28))
        picture.arrow((790, y + 28), (838, y + 28))
    picture.box((450, 190), (180, 44), ["other Amplifier", "adds hallucinated features"], "yellow")
    return picture


def opcua_states() -> Diagram:
    """Draw the states of OPC 40100-1 with the phase of the station behind each, and what leads from one to another."""
    picture = Diagram(1000, 500, "States of OPC 40100-1, and the phases of the station behind them")
    picture.box((20, 40), (190, 62), ["Preoperational", "starts, loads, self-test"], "yellow")
    picture.box((20, 216), (190, 62), ["Halted", "stopped"], "grey")
    picture.box((20, 392), (190, 62), ["Error", "sensor gone, or failed"], "red")
    picture.parts.append(
        '<rect x="420" y="20" width="560" height="460" rx="6" fill="none" stroke="#374151" stroke-dasharray="5 4"/>'
    )
    picture.text((436, 42), "Operational: the station is ready")
    picture.box((450, 60), (200, 62), ["Initialized", "no active recipe"], "yellow")
    picture.box((450, 216), (200, 62), ["Ready", "accepts triggers"], "green")
    picture.box((450, 392), (200, 62), ["SingleExecution", "one part of a client"], "blue")
    picture.box((760, 216), (200, 62), ["ContinuousExecution", "parts of all channels"], "blue")
    picture.arrow((210, 71), (418, 71), "self-test passed")
    picture.arrow((418, 95), (212, 95))
    picture.text((315, 112), "process restarts", anchor="middle")
    picture.arrow((115, 214), (115, 104))
    picture.text((122, 163), "Reset")
    picture.arrow((418, 235), (212, 235), "Halt, or stop on a page")
    picture.arrow((418, 407), (212, 407), "sensor gone, process failed")
    picture.arrow((210, 439), (418, 439))
    picture.text((315, 457), "resolved, or Reset", anchor="middle")
    picture.arrow((550, 122), (550, 214))
    picture.text((558, 172), "recipe active")
    picture.arrow((520, 278), (520, 390))
    picture.text((512, 328), "StartSingleJob", anchor="end")
    picture.arrow((580, 390), (580, 280))
    picture.text((588, 328), "result, at the deadline at the latest")
    picture.arrow((650, 236), (758, 236), "StartContinuous")
    picture.arrow((760, 262), (652, 262))
    picture.text((705, 280), "Stop", anchor="middle")
    return picture


if __name__ == "__main__":
    packages().save("packages.svg")
    data_flow().save("data-flow.svg")
    threads().save("threads.svg")
    student().save("student.svg")
    variants().save("student-variants.svg")
    opcua_states().save("opcua-states.svg")
