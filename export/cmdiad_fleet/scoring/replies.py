"""`Worker`, which runs in a process or actor, and its replies: plain values that can be sent to another machine."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Literal

from cmdiad_fleet.scoring.scorer import Endings, Scorer
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import Shard
from cmdiad_fleet.scoring.tally import Tally
from cmdiad_runtime.errors import BundleError, CmdiadError, EngineError, InputError, OutputError
from cmdiad_runtime.support.system import limit_cores

_ERRORS: dict[str, type[CmdiadError]] = {
    kind.__name__: kind for kind in (BundleError, EngineError, InputError, OutputError)
}


@dataclass(frozen=True)
class Reply:
    """Answer of a worker.

    Attributes:
        kind: "ready": the bundle is open; "finished": the shard is stored; "failed": the row in work raised an error
            of the engine, and the worker cannot be used any more; "refused": every other worker would fail, too.
        tally: Counts of the finished shard.
        problem: Description of a failure.
        error: Class and fields of a refusal.
    """

    kind: Literal["ready", "finished", "failed", "refused"]
    tally: Tally = field(default_factory=Tally)
    problem: str = ""
    error: tuple[str, dict[str, str]] = ("", {})

    def raised(self) -> CmdiadError:
        """Return the error of a refusal."""
        kind, fields = self.error
        return _ERRORS[kind](
            fields["subject"], found=fields["found"], expected=fields["expected"], action=fields["action"]
        )


class Worker:
    """Open bundle of one process or actor. Foreseen errors are returned as replies.

    The process uses one core: workers share a machine by their number, and results do not depend on the number of
    threads.
    """

    def __init__(self) -> None:
        limit_cores(1)
        self._scorer: Scorer | None = None

    def open(self, settings: ScoreSettings) -> Reply:
        """Open the bundle."""
        try:
            self._scorer = Scorer(settings)
        except CmdiadError as error:
            return _refused(error)
        return Reply("ready")

    def score(self, shard: Shard, endings: Endings) -> Reply:
        """Score a shard; see `Scorer.score`."""
        assert self._scorer is not None
        try:
            return Reply("finished", self._scorer.score(shard, endings))
        except OutputError as error:
            return _refused(error)
        except Exception as error:  # An engine that failed once may be unusable, for example after a fault of a GPU.
            place = traceback.extract_tb(error.__traceback__)[-1]
            detail = str(error) if isinstance(error, CmdiadError) else f"{type(error).__name__}: {error} ({place.name})"
            return Reply("failed", problem=detail)

    def close(self) -> None:
        """Release the bundle. Idempotent."""
        if self._scorer is not None:
            self._scorer.close()


def _refused(error: CmdiadError) -> Reply:
    fields = {name: getattr(error, name) for name in ("subject", "found", "expected", "action")}
    kind = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), EngineError.__name__)
    return Reply("refused", error=(kind, fields))
