"""The first part after a start has the same deadline as all others, so nothing is imported in its time."""

from __future__ import annotations

from pathlib import Path

from helpers import python

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "format1"

CODE = """
import sys
from pathlib import Path
import cmdiad_line.inspection.process
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.readers.reading import read_files

bundle, samples = map(Path, sys.argv[1:])
inspector = Inspector.open(bundle)
image, cloud = (sorted((samples / name).iterdir())[0] for name in ("rgb", "xyz"))
sample = read_files("first", image, cloud)
before = set(sys.modules)
assert inspector.inspect(sample).score is not None
print(*(name for name in sys.modules if name not in before and name.startswith(("scipy", "PIL", "onnxruntime"))))
inspector.close()
"""


def test_first_part_imports_no_library():
    assert python(CODE, FIXTURES / "both-each.cmdiad", FIXTURES / "samples").split() == []
