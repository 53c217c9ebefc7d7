"""Jobs: finished ones are kept, changed ones are trained again, failures concern one detector."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from cmdiad_fleet.cli.fleet import cli
from cmdiad_fleet.training.digest import digest_of
from cmdiad_fleet.training.engines import local_engine
from cmdiad_fleet.training.fleet_file.fleet import Fleet
from cmdiad_fleet.training.fleet_file.sections import General
from cmdiad_fleet.training.job import LOG, Outcome, job_of
from cmdiad_fleet.training.progress import SHOW_S, Progress
from cmdiad_fleet.training.rows import Row
from cmdiad_fleet.training.run_job import request_of, run_job
from cmdiad_fleet.training.tables import terminal_table, write_tables
from cmdiad_fleet.training.train_fleet import train_fleet
from cmdiad_fleet.training.trainer import Trainer
from cmdiad_fleet.training.worker import check_recipes
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.lock import InUseError, lock_folder
from cmdiad_runtime.support.reporter import SILENT
from fleet_fleets import CAMERA, fleet_of, small_categories, use_double, write_fleet
from helpers import RecordingReporter, command, flip_byte, python
from patience import LIMIT_S

EXPORT = '[export]\ncontact = "Line 4"\n'


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return small_categories(tmp_path / "parts", ("clip", "gear", "nut"))


@pytest.fixture
def run(trained: object) -> Path:
    return trained("rgb")  # type: ignore[operator,no-any-return]


@pytest.fixture
def bundle(exported: object) -> Path:
    return exported("rgb")  # type: ignore[operator,no-any-return]


def train(fleet: Fleet, jobs: int = 2) -> dict[str, Row]:
    return {row.name: row for row in train_fleet(fleet, local_engine(jobs), SILENT)}


def states(rows: dict[str, Row]) -> list[str]:
    return [row.state for row in rows.values()]


def log_of(fleet: Fleet, name: str) -> str:
    return (fleet.general.out / name / LOG).read_text(encoding="utf-8")


@pytest.mark.failure_mode("A detector of a fleet that fails")
def test_failures_keep_their_log_and_reason_and_others_continue(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts, CAMERA + EXPORT)
    use_double(monkeypatch, run, bundle, {"clip-camera": "error", "gear-camera": "exception"})
    rows = train(fleet)
    assert states(rows) == ["failed", "failed", "trained"]
    assert rows["clip-camera"].reason == "data: found nothing. Expected samples. Add samples."
    assert rows["gear-camera"].reason == "The process ended with exit code 1: ZeroDivisionError: the last line"
    assert "found nothing" in log_of(fleet, "clip-camera")
    assert "Traceback" in log_of(fleet, "gear-camera")
    assert "threads 1 devices ''" in log_of(fleet, "nut-camera")  # Without a share of a GPU, none is visible.
    assert f"$ cmdiad-train {parts} --category nut --size=112 --view=sensor" in log_of(fleet, "nut-camera")
    assert "$ cmdiad-export" in log_of(fleet, "nut-camera")
    nut = rows["nut-camera"]
    assert nut.precision == "fp32"
    assert nut.certified_share is not None
    assert nut.certified_share < 1e-3
    assert nut.defects == 3

    # The next command trains the failed ones only.
    use_double(monkeypatch, run, bundle)
    assert states(train(fleet)) == ["trained", "trained", "kept"]
    assert states(train(fleet)) == ["kept", "kept", "kept"]
    assert log_of(fleet, "clip-camera").count("$ cmdiad-train") == 2


@pytest.mark.failure_mode("A training of a fleet that the system kills")
def test_a_process_that_is_killed_is_started_again(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts)
    use_double(monkeypatch, run, bundle, {"clip-camera": "killed once", "gear-camera": "killed"})
    rows = train(fleet)
    assert states(rows) == ["trained", "failed", "trained"]
    assert "SIGKILL" in rows["gear-camera"].reason
    assert "memory_gb" in rows["gear-camera"].reason
    for name, attempts in (("clip-camera", 2), ("gear-camera", 2), ("nut-camera", 1)):
        assert json.loads((fleet.general.out / name / "detector.json").read_text())["attempts"] == attempts


def processes_of(fleet: Fleet, name: str) -> list[tuple[int, int]]:
    """Return the process id of each attempt at a detector, and that of its parent."""
    return [(int(one), int(of)) for one, of in re.findall(r"process (\d+) of (\d+)", log_of(fleet, name))]


def test_one_process_with_the_imports_forks_one_for_each_detector(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts)
    use_double(monkeypatch, run, bundle, {"clip-camera": "exception", "gear-camera": "killed once"})
    assert states(train(fleet, jobs=1)) == ["failed", "trained", "trained"]
    started = [each for name in ("clip", "gear", "nut") for each in processes_of(fleet, f"{name}-camera")]
    assert len(started) == len({process for process, _ in started}) == 4
    assert len({parent for _, parent in started}) == 1
    assert os.getpid() not in {parent for _, parent in started}


def test_other_threads_need_another_process(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries read the number of threads when they are imported."""
    fleet = fleet_of(tmp_path, parts, CAMERA + "[recipe.two]\ncpus = 2\ntrain = {size = 64}\n")
    use_double(monkeypatch, run, bundle)
    assert set(states(train(fleet, jobs=1))) == {"trained"}
    parents = {name: {of for _, of in processes_of(fleet, f"gear-{name}")} for name in ("camera", "two")}
    assert not parents["camera"] & parents["two"]
    assert "threads 1 " in log_of(fleet, "gear-camera")
    assert "threads 2 " in log_of(fleet, "gear-two")


def test_a_recipe_for_a_gpu_has_a_process_without_a_fork(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts, CAMERA.replace("retries = 1", "retries = 1\ngpus = 0.25"))
    use_double(monkeypatch, run, bundle, {"clip-camera": "error", "gear-camera": "killed once"})
    rows = train(fleet, jobs=1)
    assert states(rows) == ["failed", "trained", "trained"]
    assert rows["clip-camera"].reason == "data: found nothing. Expected samples. Add samples."
    started = [each for name in ("clip", "gear", "nut") for each in processes_of(fleet, f"{name}-camera")]
    assert len({process for process, _ in started}) == 4
    assert {parent for _, parent in started} == {os.getpid()}


@pytest.mark.failure_mode("A training of a fleet that the system kills")
def test_a_killed_process_with_the_imports_ends_the_training_and_starts_again(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts)
    use_double(monkeypatch, run, bundle, {"clip-camera": "trainer killed once"})
    assert states(train(fleet, jobs=1)) == ["trained"] * 3
    (first, _), (second, _) = processes_of(fleet, "clip-camera")
    assert first != second
    stat = Path(f"/proc/{first}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_a_process_that_ends_without_an_answer_has_trained_nothing(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdiad_fleet.training.trainer.WORKER", "string")  # Ends at once, with exit code 0.
    fleet = fleet_of(tmp_path, parts)
    with closing(Trainer()) as trainer:
        outcome = run_job(job_of(fleet, fleet.detectors[0], {}), trainer)
    assert outcome.state == "failed"
    assert outcome.reason == "The process ended with exit code 1: no output"


@pytest.mark.failure_mode("Changed pictures under the same names")
def test_changed_data_or_recipes_are_trained_again_and_nothing_is_lost(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, run, bundle)
    fleet = fleet_of(tmp_path, parts)
    train(fleet)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(parts / "gear/train/good/rgb/001.png")  # The name is the same.
    assert states(train(fleet)) == ["kept", "trained", "kept"]
    earlier = list((fleet.general.out / "gear-camera").glob("earlier-*/run/run.json"))
    assert len(earlier) == 1
    assert states(train(fleet_of(tmp_path, parts, CAMERA.replace("112", "128")))) == ["trained"] * 3
    assert states(train(fleet)) == ["trained"] * 3  # Back again.
    assert states(train(fleet_of(tmp_path, parts, CAMERA.replace("retries = 1", "memory_gb = 1")))) == ["kept"] * 3
    assert len(list((fleet.general.out / "gear-camera").glob("earlier-*/run*/run.json"))) == 3


def test_changed_intrinsics_of_depth_images_are_other_data(parts: Path, tmp_path: Path) -> None:
    for images in list(parts.glob("*/*/*/rgb")):
        shutil.copytree(images, images.with_name("xyz"))
    fleet = fleet_of(tmp_path, parts, '[recipe.cloud]\ntrain = {modality = "xyz"}\n')
    job = job_of(fleet, fleet.detectors[0], {})
    digests = {digest_of(job)}
    for name in ("intrinsics.json", "xyz/intrinsics.json", "xyz/001.json"):
        (parts / "clip/train/good" / name).write_text("{}")
        digests.add(digest_of(job))
    assert len(digests) == 4


def test_other_content_of_a_weights_file_is_another_recipe(parts: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    fleet = fleet_of(tmp_path, parts, f'[recipe.camera]\ntrain = {{rgb-weights = "{weights}"}}\n')
    job = job_of(fleet, fleet.detectors[0], {})
    digests = set()
    for content in (b"", b"one", b"two"):
        weights.write_bytes(content)
        digests.add(digest_of(job))
    assert len(digests) == 3


def test_other_options_of_the_export_keep_the_run(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, run, bundle)
    plain = fleet_of(tmp_path, parts)
    train(plain)
    fleet = fleet_of(tmp_path, parts, CAMERA + EXPORT)
    assert states(train(fleet)) == ["trained"] * 3
    changed = fleet_of(tmp_path, parts, CAMERA + EXPORT.replace("4", "5"))
    assert states(train(changed)) == ["trained"] * 3
    assert "--contact=Line 5" in log_of(fleet, "nut-camera")
    names = {path.name for path in (fleet.general.out / "nut-camera").iterdir() if not path.name.startswith(".")}
    assert names == {"run", "nut-camera.cmdiad", "earlier-bundle-2.cmdiad", "log.txt", "detector.json"}


@pytest.mark.failure_mode("A damaged bundle of a finished fleet")
def test_a_damaged_bundle_is_never_reported_as_finished(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, run, bundle)
    fleet = fleet_of(tmp_path, parts, CAMERA + EXPORT)
    train(fleet)
    flip_byte(fleet.general.out / "nut-camera/nut-camera.cmdiad/graph.onnx")
    rows = train(fleet)
    assert states(rows) == ["kept", "kept", "failed"]
    assert "graph.onnx" in rows["nut-camera"].reason
    assert rows["nut-camera"].image_auroc is None


@pytest.mark.failure_mode("An interrupted fleet")
def test_an_interruption_ends_the_processes_and_writes_the_tables(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts)
    use_double(monkeypatch, run, bundle, {"gear-camera": "hangs", "nut-camera": "hangs"})
    started = [fleet.general.out / name / "attempt" for name in ("gear-camera", "nut-camera")]

    class Interrupting(RecordingReporter):
        def say(self, line: str) -> None:
            if "trained in" not in line:
                return
            deadline = time.monotonic() + LIMIT_S
            while not any(path.exists() for path in started) and time.monotonic() < deadline:
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_fleet(fleet, local_engine(2), Interrupting())
    content = json.loads((fleet.general.out / "fleet.json").read_text())
    assert [row["state"] for row in content["detectors"]] == ["trained", "not finished", "not finished"]
    with lock_folder(fleet.general.out):  # Nothing runs any more, so the folder is free.
        pass
    use_double(monkeypatch, run, bundle)
    assert states(train(fleet)) == ["kept", "trained", "trained"]


def test_two_commands_do_not_train_into_one_folder(parts: Path, tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, parts)
    fleet.general.out.mkdir()
    with lock_folder(fleet.general.out), pytest.raises(InUseError):
        train(fleet)


def test_an_unreadable_data_set_fails_its_detector_alone(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, run, bundle)
    fleet = fleet_of(tmp_path, parts)
    shutil.rmtree(parts / "gear")
    (fleet.general.out / "nut-camera").mkdir(parents=True)
    (fleet.general.out / "nut-camera/detector.json").write_text("{", encoding="utf-8")
    rows = train(fleet)
    assert rows["clip-camera"].state == "trained"
    assert rows["nut-camera"].state == "failed"
    assert "detector.json" in rows["nut-camera"].reason
    assert rows["gear-camera"].state == "failed"
    assert "Expected category gear" in rows["gear-camera"].reason


SWEEP = """
[sweep]
recipe = "camera"
values = {size = [64, 96], seed = [1, 2]}
"""


def test_a_sweep_trains_the_best_options(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts, CAMERA + SWEEP)
    separation = {"000": 0.7, "001": 0.895, "002": 0.9, "003": 0.8}
    use_double(monkeypatch, run, bundle, {"003": "error"}, separation)
    rows = train(fleet)
    assert states(rows) == ["trained"] * 3
    # Criteria that differ by less than a hundredth are equal, and the first one is taken.
    assert {tuple(row.options.items()) for row in rows.values()} == {(("size", 64), ("seed", 2))}
    assert "--size=64 --view=sensor --seed=2" in log_of(fleet, "gear-camera")
    assert "--no-test" not in log_of(fleet, "gear-camera")
    for number in range(4):
        assert "--no-test" in (fleet.general.out / f"sweep/gear-camera/{number:03d}/log.txt").read_text()
    content = json.loads((fleet.general.out / "fleet.json").read_text())["sweeps"]["gear-camera"]
    assert content["best"] == 1
    assert [trial["state"] for trial in content["trials"]] == ["trained", "trained", "trained", "failed"]
    assert content["trials"][2]["evidence"]["separation"] == 0.9


def test_trials_are_not_started_after_the_time_limit(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts, CAMERA + SWEEP + "minutes = 1.0\n")
    use_double(monkeypatch, run, bundle)
    clock = iter([0.0, *[61.0] * 1000])
    monkeypatch.setattr("time.time", lambda: next(clock))
    rows = train(fleet)
    assert states(rows) == ["failed"] * 3
    assert rows["gear-camera"].reason == "No trial of the sweep has finished."
    assert not (fleet.general.out / "gear-camera").exists()


def test_changed_test_samples_do_not_change_trials(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(tmp_path, parts, CAMERA + SWEEP)
    use_double(monkeypatch, run, bundle, separation=dict.fromkeys(("000", "001", "002", "003"), 0.5))
    train(fleet)
    flip_byte(parts / "gear/test/hole/rgb/001.png")
    assert states(train(fleet)) == ["kept", "trained", "kept"]
    trial = fleet.general.out / "sweep/gear-camera/000"
    assert (trial / "log.txt").read_text().count("$ cmdiad-train") == 1
    (trial / "evidence.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"evidence\.json: found a damaged file"):
        train(fleet)


def test_tables_agree_and_the_page_escapes_everything(
    tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "<b>&'\" x"
    fleet = fleet_of(tmp_path, small_categories(tmp_path / "odd", (name, "plain")), CAMERA + EXPORT)
    use_double(monkeypatch, run, bundle, {"plain-camera": "error"})
    rows = train(fleet)
    assert states(rows) == ["trained", "failed"]
    stored = json.loads((fleet.general.out / "fleet.json").read_text())["detectors"]
    with (fleet.general.out / "fleet.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in stored] == [row["name"] for row in table] == list(rows)
    assert float(table[0]["threshold"]) == stored[0]["threshold"] == rows[f"{name}-camera"].threshold
    page = (fleet.general.out / "fleet.html").read_text(encoding="utf-8")
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "<script" not in page
    assert "http" not in page
    assert "Expected samples. Add samples." in page
    text = terminal_table(list(rows.values())).splitlines()
    assert text[1].endswith("trained")
    assert "failed: data: found nothing" in text[2]


def test_a_name_that_looks_like_a_formula_is_text_in_the_table(tmp_path: Path) -> None:
    fleet = Fleet(General(out=tmp_path), {}, (), None, None)
    row = Row(name="=1+1-camera", data="/parts", category="=1+1", recipe="camera", state="failed", reason="@no data")
    write_tables(fleet, [row], {})
    with (tmp_path / "fleet.csv").open(encoding="utf-8", newline="") as file:
        (cells,) = csv.DictReader(file)
    assert (cells["name"], cells["category"], cells["reason"]) == ("'=1+1-camera", "'=1+1", "'@no data")
    assert json.loads((tmp_path / "fleet.json").read_text())["detectors"][0]["name"] == "=1+1-camera"


def test_progress_states_the_time_left() -> None:
    reporter = RecordingReporter()
    outcomes = [
        Outcome(name="a", state="trained", seconds=3.0),
        Outcome(name="b", state="trained", kept=True),
        Outcome(name="c", state="failed", reason="No data."),
    ]
    jobs = [SimpleNamespace(detector=SimpleNamespace(name=o.name), folder=Path("/nowhere")) for o in outcomes]
    assert list(Progress(reporter).follow(iter(outcomes), cast(Any, jobs))) == outcomes
    assert reporter.lines == [
        "[1/3] a: trained in 3 s, about 10 s left",
        "[2/3] b: kept, about 10 s left",
        "[3/3] c: failed: No data",
    ]


def test_a_long_training_is_not_silent(parts: Path, tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, parts)
    jobs = [job_of(fleet, detector, {}) for detector in fleet.detectors]
    clip, gear, nut = [job.folder / LOG for job in jobs]
    for log in (clip, nut):
        log.parent.mkdir(parents=True)
        log.write_text("of an earlier command\n", encoding="utf-8")
    seconds = [0.0]

    def events() -> Iterator[Outcome | None]:
        yield None
        with clip.open("a", encoding="utf-8") as file:
            file.write("features: 3/40 (12 s, about 4 min left)\n")
        yield None
        seconds[0] = SHOW_S
        yield None
        seconds[0] += SHOW_S / 2
        yield None  # The next line about a log is not due.
        gear.parent.mkdir()
        gear.write_text("error\n", encoding="utf-8")
        yield Outcome(name="gear-camera", state="failed", reason="No data.")
        yield Outcome(name="clip-camera", state="trained", seconds=30.0)
        yield Outcome(name="nut-camera", state="trained", kept=True)

    reporter = RecordingReporter()
    assert len(list(Progress(reporter, lambda: seconds[0]).follow(events(), jobs))) == 3
    assert reporter.lines == [
        f"clip-camera: started, log {clip}",
        "[0/3] clip-camera: features: 3/40 (12 s, about 4 min left)",
        f"gear-camera: started, log {gear}",
        f"[1/3] gear-camera: failed: No data (log {gear})",
        "[2/3] clip-camera: trained in 30 s, about 30 s left",
        "[3/3] nut-camera: kept",
    ]


def test_the_worker_ends_when_its_parent_has_gone() -> None:
    """The thread that watches stdin interrupts the process when the other end is closed."""
    import signal
    import subprocess
    import sys

    code = (
        "import threading, time\n"
        "from cmdiad_fleet.training.worker import _end_with_parent\n"
        "threading.Thread(target=_end_with_parent, daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert process.wait(LIMIT_S) == -signal.SIGTERM


def test_the_imports_before_a_fork_start_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a process do not exist in its forks, which would wait for them without end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = (
        "import os, sys; from cmdiad_fleet.training.worker import import_libraries; import_libraries()\n"
        "print(len(os.listdir('/proc/self/task')), 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    assert python(code).split() == ["1", "True", "False"]


def test_a_stopped_job_starts_no_process_again(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, run, bundle, {"clip-camera": "killed"})
    fleet = fleet_of(tmp_path, parts)
    stop = threading.Event()
    stop.set()
    with closing(Trainer()) as trainer:
        outcome = run_job(job_of(fleet, fleet.detectors[0], {}), trainer, stop)
    assert (outcome.state, outcome.attempts) == ("failed", 1)


def test_a_machine_with_other_weights_refuses_the_recipe(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = fleet_of(tmp_path, parts)
    request = json.loads(json.dumps(request_of(job_of(fleet, fleet.detectors[0], {}))))
    check_recipes(request)
    request["recipes"]["bank"]["seed"] = 7
    with pytest.raises(SystemExit, match="7"):
        check_recipes(request)
    assert "Expected the same stored weights on all machines" in capsys.readouterr().err


def test_the_command_ends_with_a_table_and_an_exit_code(
    parts: Path, tmp_path: Path, run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_fleet(tmp_path, parts)
    use_double(monkeypatch, run, bundle, {"gear-camera": "error"})
    ended = command(cli, "train", file, "--engine", "local", "--jobs", "2")
    assert ended.code == 1
    assert [line.split()[0] for line in ended.out.splitlines()[1:4]] == ["clip-camera", "gear-camera", "nut-camera"]
    assert ended.out.endswith(f"page: {tmp_path / 'out/fleet.html'}\n")
    assert "gear-camera: failed: data: found nothing" in ended.err
    use_double(monkeypatch, run, bundle)
    assert command(cli, "train", file, "--engine", "local").code == 0
    monkeypatch.setattr("cmdiad_fleet.training.train_fleet.train_fleet", _interrupted)
    ended = command(cli, "train", file, "--engine", "local")
    assert ended.code == 130
    assert "To continue, run the same command again." in ended.err


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt
