"""Files of a reverse distillation detector in a run directory."""

from __future__ import annotations
