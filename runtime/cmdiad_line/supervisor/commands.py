"""Commands of people and of the plant, which are carried out, answered and written to the audit log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from cmdiad_line.supervisor.change_over import ChangeOver
from cmdiad_line.supervisor.readiness import Readiness
from cmdiad_line.transport.messages import COMMANDS, Answer, Command, Message

FORWARDED = ("judge", "override", "note")
"""Commands that the records process carries out; it writes them to its own tables."""
CHANGES = ("prepare", "activate", "rollback", "threshold")
"""Commands that are refused while they could not be written to the audit log."""
LONGEST_AUDIT = 1000
"""Largest number of audit entries that wait for the records process."""


class Controls(Protocol):
    """The actions of the station that commands need."""

    def send(self, name: str, message: Message) -> None:
        """Send a message to a process."""

    def abort(self) -> None:
        """Answer all parts in work with NG."""

    def reset(self) -> None:
        """Start the processes that gave up again."""


class Commands:
    """Carries out commands.

    Args:
        controls: The station.
        readiness: Facts of the station.
        change_over: Changes of the recipe.
    """

    def __init__(self, controls: Controls, readiness: Readiness, change_over: ChangeOver) -> None:
        self._controls, self._readiness, self._change_over = controls, readiness, change_over
        self._token = 0
        self._ends: Counter[str] = Counter()  # Number of ends of each process.
        self._askers: dict[int, tuple[str, int]] = {}
        self._audit: dict[int, Command] = {}

    def handle(self, channel: str, command: Command, now_ns: int) -> None:
        """Carry out a command.

        Args:
            channel: Name of the process that sent it.
            command: The command.
            now_ns: Present monotonic time.
        """
        recorded = "records" in self._readiness.running
        if command.name not in COMMANDS:
            self._answer(channel, command, f"There is no command {command.name!r:.40}.")
        elif command.name in FORWARDED + CHANGES and not recorded:
            self._answer(channel, command, "The records process does not run, so nothing could be written. Try again.")
        elif command.name in FORWARDED:
            self._forward(channel, command)
        else:
            ends = self._ends[channel]
            self._carry_out(command, now_ns, lambda problem: self._answer(channel, command, problem, ends))

    def answered(self, answer: Answer) -> None:
        """Pass an answer of the records process to the process that asked."""
        self._audit.pop(answer.token, None)
        channel, token = self._askers.pop(answer.token, ("", 0))
        if channel:
            self._controls.send(channel, Answer(token=token, done=answer.done, message=answer.message))

    def note(self, action: str, subject: str, details: dict[str, Any], user: str = "station") -> None:
        """Have an entry written to the audit log, as soon as the records process runs."""
        self._token += 1
        arguments = {"action": action, "subject": subject, "details": details}
        self._audit[self._token] = Command(token=self._token, name="note", user=user, arguments=arguments)
        if len(self._audit) > LONGEST_AUDIT:
            del self._audit[next(iter(self._audit))]
        if "records" in self._readiness.running:
            self._controls.send("records", self._audit[self._token])

    def records_up(self) -> None:
        """Send the audit entries that wait."""
        for entry in self._audit.values():
            self._controls.send("records", entry)

    def records_down(self) -> None:
        """Answer the requests that the records process had not answered."""
        for channel, token in self._askers.values():
            problem = "The records process ended before it answered. Look if the entry is there, else try again."
            self._controls.send(channel, Answer(token=token, done=False, message=problem))
        self._askers.clear()

    def channel_down(self, channel: str) -> None:
        """Send no answer to the next process of a channel: its tokens are those of other requests."""
        self._ends[channel] += 1
        self._askers = {token: asker for token, asker in self._askers.items() if asker[0] != channel}

    def _forward(self, channel: str, command: Command) -> None:
        self._token += 1
        self._askers[self._token] = channel, command.token
        forwarded = Command(token=self._token, name=command.name, user=command.user, arguments=command.arguments)
        self._controls.send("records", forwarded)

    def _carry_out(self, command: Command, now_ns: int, then: Callable[[str], None]) -> None:
        recipe_id, score = command.arguments.get("recipe_id"), command.arguments.get("score")
        if command.name in ("prepare", "unprepare", "activate", "threshold") and not isinstance(recipe_id, str):
            then("The argument recipe_id is missing.")
        elif command.name == "prepare":
            self._change_over.prepare(str(recipe_id), now_ns, then)
        elif command.name == "unprepare":
            self._change_over.unprepare(str(recipe_id), then)
        elif command.name == "activate":
            self._change_over.activate(str(recipe_id), now_ns, then)
        elif command.name == "rollback":
            self._change_over.rollback(now_ns, then)
        elif command.name == "threshold" and _is_score(score):
            self._change_over.threshold(str(recipe_id), score, now_ns, then)
        elif command.name == "threshold":
            then("The argument score is a number above 0, or null for the threshold of the bundle.")
        else:
            self._switch(command.name)
            then("")

    def _switch(self, name: str) -> None:
        if name == "reset":
            self._controls.reset()
            return
        self._readiness.stopped = name != "start"
        if name == "abort":
            self._controls.abort()

    def _answer(self, channel: str, command: Command, problem: str, ends: int | None = None) -> None:
        """Write a command to the audit log, and answer it unless the process that asked has ended."""
        message = problem or f"Done: {COMMANDS[command.name].split('. ')[0].rstrip('.').lower()}."
        details = {"channel": channel, "done": not problem, "message": message, **command.arguments}
        self.note(command.name, str(command.arguments.get("recipe_id", "")), details, command.user)
        if ends is None or ends == self._ends[channel]:
            self._controls.send(channel, Answer(token=command.token, done=not problem, message=message))


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0)
