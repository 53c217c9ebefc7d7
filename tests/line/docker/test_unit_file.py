"""The unit file of systemd: what the station relies on, and that systemd understands it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cmdiad_line.supervisor.start import REAL_TIME as SUPERVISOR_PRIORITY
from cmdiad_line.worker import REAL_TIME

DOCKER = Path(__file__).resolve().parents[3] / "docker"
UNIT = DOCKER / "cmdiad-line.service"


def values(name: str) -> list[str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_unit_file_has_what_the_station_relies_on():
    assert values("Type") == ["notify"]
    assert values("NotifyAccess") == ["main"]
    assert 0 < int(values("WatchdogSec")[0]) <= 60
    assert values("Restart") == ["on-failure"]
    assert values("StartLimitIntervalSec") == ["0"]
    assert values("RestartPreventExitStatus") == ["10"]
    assert values("KillMode") == ["mixed"]
    assert values("OOMPolicy") == ["continue"]
    assert int(values("LimitRTPRIO")[0]) >= max(SUPERVISOR_PRIORITY, REAL_TIME)
    assert values("RestrictRealtime") == []
    assert values("User") == ["cmdiad"]
    assert values("ExecStart") == ["/opt/cmdiad/bin/cmdiad-line run /etc/cmdiad/station.toml"]


def test_unit_file_takes_rights_away():
    assert values("NoNewPrivileges") == ["yes"]
    assert values("CapabilityBoundingSet") == [""]
    assert values("ProtectSystem") == ["strict"]
    assert values("DevicePolicy") == ["closed"]
    assert values("UMask") == ["0077"]
    assert values("DeviceAllow") == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit_file(tmp_path):
    text = UNIT.read_text(encoding="utf-8").replace("/opt/cmdiad/bin/cmdiad-line", "/bin/true")
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", str(copy)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    own = [line for line in ended.stderr.splitlines() if UNIT.name in line]
    assert own == []


def test_container_runs_as_a_user_without_rights():
    lines = (DOCKER / "Dockerfile.line").read_text(encoding="utf-8").splitlines()
    assert "USER cmdiad" in lines
    assert 'ENTRYPOINT ["cmdiad-line"]' in lines
    assert 'CMD ["run", "/etc/cmdiad/station.toml"]' in lines
    assert lines.index("USER cmdiad") < lines.index("VOLUME /var/lib/cmdiad")
