"""The job that an OPC UA client has started: one part, or all parts until Stop."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_line.opcua.state import JobKind


@dataclass(kw_only=True)
class Job:
    """A job of an OPC UA client. There is at most one at a time.

    Attributes:
        kind: "single" for one part, "continuous" for all parts of the station until Stop.
        recipe_id: Recipe that the client asked for, or "" for any.
        job_id: Id for the client; "" until a single job has its acquisition id.
        acquisition_id: Id of the part of a single job, or 0.
        running: True once the client is shown that the job has started.
    """

    kind: JobKind
    recipe_id: str = ""
    job_id: str = ""
    acquisition_id: int = 0
    running: bool = False
