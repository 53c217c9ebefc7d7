"""Files of tensors: who can read them."""

from __future__ import annotations

from pathlib import Path

import torch

from cmdiad_train import tensor_files


def test_accounts_that_read_new_files_read_files_of_tensors_too(tmp_path: Path) -> None:
    usual = tmp_path / "usual.json"
    usual.write_text("{}")
    tensor_files.save(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    assert (tmp_path / "a.safetensors").stat().st_mode == usual.stat().st_mode
