"""Damaged and forged bundles, a few of many: the long run is scripts/mutate_bundles.py --count 5000."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "mutate_bundles.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_changed_bundles_are_refused_or_judge_as_before() -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("cryptography")
    arguments = [sys.executable, str(SCRIPT), "--count", "16", "--seed", "14"]
    ended = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures["problems"] == 0
    assert figures["signature required: refused"] > 10
