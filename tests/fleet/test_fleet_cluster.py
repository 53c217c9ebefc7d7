"""A Ray cluster that a command starts is closed to everybody else. Ray is a stand-in that keeps its environment."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmdiad_fleet.cluster import _connect, _require_listener
from cmdiad_runtime.errors import EngineError
from helpers import python

RAY = """
import os

seen = {name: os.environ.get(name, "") for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_COLOR_PREFIX")}

def is_initialized():
    return False

def init(*words, **options):
    pass

def shutdown():
    pass
"""
CODE = """
import sys

sys.path.insert(0, sys.argv[1])
from cmdiad_fleet.cluster import ray_cluster

with ray_cluster(sys.argv[2]) as ray:
    print(ray.seen["RAY_AUTH_MODE"], len(ray.seen["RAY_AUTH_TOKEN"]))
    assert ray.seen["RAY_COLOR_PREFIX"] == "0"
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stand-in for Ray."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_COLOR_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ray.py").write_text(RAY)
    return tmp_path


def test_a_cluster_of_this_machine_needs_a_token_that_nobody_knows(stand_in: Path) -> None:
    assert python(CODE, stand_in, "") == "token 64\n"


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(EngineError, match="no cluster"):
        _require_listener("[::1")


def test_the_token_of_the_user_and_a_cluster_of_others_stay_as_they_are(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert python(CODE, stand_in, f"127.0.0.1:{listener.getsockname()[1]}") == " 0\n"
    assert python(CODE, stand_in, "auto") == " 0\n"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 40)
    assert python(CODE, stand_in, "") == "token 40\n"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert python(CODE, stand_in, "") == "disabled 40\n"


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:{}0000"])
def test_an_address_without_a_listener_is_refused_at_once(address: str) -> None:
    """Ray itself would try for minutes; this stand-in must not be asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = address.format(free.getsockname()[1])
        with pytest.raises(EngineError, match="found no cluster"):
            _connect(SimpleNamespace(), place, None)
