"""The state of the station, as pages and buses show it."""

from __future__ import annotations

from collections.abc import Mapping

from cmdiad_line.supervisor.dispatch import Dispatch
from cmdiad_line.supervisor.readiness import Readiness
from cmdiad_line.transport.messages import Phase, StationState


def make_state(
    readiness: Readiness, dispatch: Dispatch, processes: Mapping[str, str], counters: Mapping[str, int]
) -> StationState:
    """Return the state of the station.

    Args:
        readiness: Facts of the station.
        dispatch: Parts in work.
        processes: State of each process by name.
        counters: Numbers since the start.
    """
    refusal = readiness.refusal()
    reason, message = refusal or ("", "")
    active = readiness.active
    return StationState(
        phase=_phase(readiness, reason, processes),
        reason=reason,
        message=message,
        in_work=dispatch.in_work,
        accepts=refusal is None and not dispatch.is_full,
        recipe_id=readiness.active_id,
        bundle_digest=active.bundle_digest if active else "",
        prepared=tuple(sorted(readiness.loaded)),
        modality=active.modality if active else "",
        processes=dict(processes),
        counters=dict(counters),
    )


def _phase(readiness: Readiness, reason: str, processes: Mapping[str, str]) -> Phase:
    if not reason:
        return "ready"
    if readiness.fault is not None:
        return "failed"
    if reason == "stopped":
        return "stopped"
    return "starting" if "starting" in processes.values() else "not-ready"
