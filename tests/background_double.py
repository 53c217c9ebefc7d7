"""Background work of the supervisor without its thread, for tests."""

from __future__ import annotations

from typing import Any

from cmdiad_line.supervisor.background import Background


class Now(Background):
    """Background work that is done at once, or later by `do`.

    Attributes:
        late: Work and receivers that wait, oldest first; None while work is done at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.late: list[tuple[Any, Any]] | None = None

    def submit(self, work: Any, then: Any) -> None:
        if self.late is None:
            self.do(work, then)
        else:
            self.late.append((work, then))

    def do(self, work: Any, then: Any) -> None:
        try:
            result, error = work(), None
        except Exception as problem:
            result, error = None, problem
        then(result, error)
