"""Commands are carried out, answered and written to the audit log."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cmdiad_line.supervisor.change_over import ChangeOver
from cmdiad_line.supervisor.commands import Commands
from cmdiad_line.supervisor.readiness import Readiness
from cmdiad_line.transport.messages import Answer, Command, Message


class Controls:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.done: list[str] = []

    def send(self, name: str, message: Message) -> None:
        self.sent.append((name, message))

    def abort(self) -> None:
        self.done.append("abort")

    def reset(self) -> None:
        self.done.append("reset")


class Changes:
    """Changes of the recipe that all fail with the same message, or succeed."""

    def __init__(self) -> None:
        self.problem = ""
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def change(*arguments: Any) -> None:
            *values, _now_ns, then = arguments
            self.asked.append((name, *values))
            then(self.problem)

        return change


class Desk:
    def __init__(self) -> None:
        self.controls, self.changes = Controls(), Changes()
        self.readiness = Readiness(running={"records"})
        self.commands = Commands(self.controls, self.readiness, cast(ChangeOver, self.changes))

    def ask(self, name: str, **arguments: Any) -> Answer:
        self.controls.sent.clear()
        self.commands.handle("web", Command(token=3, name=name, user="ada", arguments=arguments), 0)
        (answer,) = [message for to, message in self.controls.sent if to == "web"]
        assert isinstance(answer, Answer)
        assert answer.token == 3
        return answer

    def notes(self) -> list[Command]:
        return [message for to, message in self.controls.sent if to == "records" and isinstance(message, Command)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_stop_and_start(desk):
    assert desk.ask("stop").done
    assert desk.readiness.stopped
    assert desk.ask("start").done
    assert not desk.readiness.stopped


def test_abort_answers_the_parts_and_stops(desk):
    assert desk.ask("abort").done
    assert (desk.controls.done, desk.readiness.stopped) == (["abort"], True)


def test_every_command_is_in_the_audit_log(desk):
    desk.changes.problem = "No such recipe."
    assert not desk.ask("activate", recipe_id="nut").done
    (note,) = desk.notes()
    assert (note.name, note.user) == ("note", "ada")
    assert note.arguments["action"] == "activate"
    assert note.arguments["subject"] == "nut"
    assert note.arguments["details"] == {
        "channel": "web",
        "done": False,
        "message": "No such recipe.",
        "recipe_id": "nut",
    }


def test_audit_entries_wait_for_the_records_process_until_it_answers(desk):
    desk.readiness.running.clear()
    desk.ask("stop")
    assert desk.notes() == []
    desk.commands.records_up()
    (note,) = desk.notes()
    desk.commands.records_up()
    assert desk.notes() == [note, note]
    desk.commands.answered(Answer(token=note.token, done=True, message=""))
    desk.commands.records_up()
    assert len(desk.notes()) == 2


@pytest.mark.parametrize("name", ["activate", "threshold", "judge", "note"])
def test_what_cannot_be_recorded_is_refused(desk, name):
    desk.readiness.running.clear()
    assert not desk.ask(name, recipe_id="nut").done
    assert desk.changes.asked == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dance", {}),
        ("activate", {}),
        ("prepare", {"recipe_id": 3}),
        ("threshold", {"recipe_id": "nut", "score": "1"}),
        ("threshold", {"recipe_id": "nut", "score": True}),
        ("threshold", {"recipe_id": "nut", "score": -1}),
    ],
)
def test_wrong_command_is_refused(desk, name, arguments):
    assert not desk.ask(name, **arguments).done
    assert desk.changes.asked == []


def test_threshold_reaches_the_change_over(desk):
    assert desk.ask("threshold", recipe_id="nut", score=2).done
    assert desk.ask("threshold", recipe_id="nut", score=None).done
    assert desk.changes.asked == [("threshold", "nut", 2), ("threshold", "nut", None)]


def test_judgement_is_answered_by_the_records_process(desk):
    judge = Command(token=8, name="judge", user="ada", arguments={"acquisition_id": 4, "judgement": "good"})
    desk.commands.handle("web", judge, 0)
    (forwarded,) = desk.notes()
    assert (forwarded.name, forwarded.user, forwarded.arguments) == ("judge", "ada", judge.arguments)
    desk.commands.answered(Answer(token=forwarded.token, done=True, message="Stored."))
    assert desk.controls.sent[-1] == ("web", Answer(token=8, done=True, message="Stored."))


def test_request_that_the_records_process_did_not_answer_is_refused(desk):
    desk.commands.handle("web", Command(token=8, name="note", user="ada"), 0)
    desk.commands.records_down()
    name, answer = desk.controls.sent[-1]
    assert name == "web"
    assert isinstance(answer, Answer)
    assert not answer.done


def test_next_process_of_a_channel_gets_no_answer_to_the_request_of_the_one_before(desk):
    """Both number their requests from 1, so the answer would be taken for that to another command."""
    late = []
    desk.changes = type("Late", (), {"prepare": lambda self, recipe_id, now_ns, then: late.append(then)})()
    desk.commands = Commands(desk.controls, desk.readiness, cast(ChangeOver, desk.changes))
    desk.commands.handle("plc", Command(token=1, name="prepare", user="plc", arguments={"recipe_id": "nut"}), 0)
    desk.commands.handle("plc", Command(token=2, name="note", user="plc"), 0)
    forwarded = desk.notes()[-1]
    desk.commands.channel_down("plc")
    late[0]("")
    desk.commands.answered(Answer(token=forwarded.token, done=True, message="Stored."))
    assert [message for to, message in desk.controls.sent if to == "plc"] == []
    assert [note.arguments["action"] for note in desk.notes() if note.name == "note" and note.arguments] == ["prepare"]
