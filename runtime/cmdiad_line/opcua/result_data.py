"""Results as the structures of OPC 40100-1. The structures exist once the address space has been built."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from asyncua import ua

from cmdiad_line.opcua.results import Entry
from cmdiad_runtime.names import INSPECTION_STAGES

types: Any = ua
"""Module of the structures: asyncua adds those of a node set when it is imported."""


def result_data(entry: Entry, simulated: bool) -> Any:
    """Return a result as ResultDataType.

    Args:
        entry: Result.
        simulated: True if a sensor of the station is simulated.
    """
    return types.ResultDataType(**result_fields(entry, simulated))


def result_fields(entry: Entry, simulated: bool) -> dict[str, Any]:
    """Return the fields of ResultDataType, which are also fields of ResultReadyEventType, by name."""
    result = entry.result
    times = _processing_times(entry)
    return {
        "ResultId": types.ResultIdDataType(Id=entry.result_id),
        "IsPartial": False,
        "IsSimulated": simulated,
        "ResultState": entry.result_state,
        "MeasId": types.MeasIdDataType(Id=result.meas_id) if result.meas_id else None,
        "PartId": types.PartIdDataType(Id=result.part_id) if result.part_id else None,
        "InternalRecipeId": recipe_id(result.recipe_id),
        "InternalConfigurationId": _configuration_id(result.bundle_digest),
        "JobId": job_id(entry.job_id),
        "CreationTime": times.EndTime,
        "ProcessingTimes": times,
        "ResultContent": list(_content(entry)),
    }


def job_id(value: str) -> Any:
    """Return the id of a job as JobIdDataType."""
    return types.JobIdDataType(Id=value)


def recipe_id(value: str) -> Any:
    """Return the id of a recipe as RecipeIdInternalDataType."""
    return types.RecipeIdInternalDataType(Id=value)


def status(code: int) -> ua.StatusCode:
    """Return a code of `ua.StatusCodes` as StatusCode."""
    return ua.StatusCode(ua.UInt32(code))


def _configuration_id(digest: str) -> Any:
    """Return the digest of a bundle as ConfigurationIdDataType."""
    data = bytes.fromhex(digest) if len(digest) == 64 else None
    algorithm = "SHA-256" if data else None
    return types.ConfigurationIdDataType(Id=digest, Hash=data, HashAlgorithm=algorithm)


def _processing_times(entry: Entry) -> Any:
    timings = entry.result.timings_ms
    start = datetime.fromisoformat(entry.result.time)
    last = max(
        (timings[name] for name in ("acquired", "inspected", "recorded", "published") if name in timings), default=0
    )
    durations = [timings[name] for name in INSPECTION_STAGES if name in timings]
    return types.ProcessingTimesDataType(
        StartTime=start,
        EndTime=start + timedelta(milliseconds=last),
        AcquisitionDuration=timings.get("acquired"),
        ProcessingDuration=sum(durations) if durations else None,
    )


def _content(entry: Entry) -> Iterator[ua.Variant]:
    """Yield ResultContent: KeyValuePairs. Score and threshold are absent if the part was not inspected."""
    result = entry.result
    yield _pair("Verdict", ua.Variant(result.verdict, ua.VariantType.String))
    yield _pair("Reason", ua.Variant(result.reason, ua.VariantType.String))
    yield _pair("Message", ua.Variant(result.message, ua.VariantType.String))
    for name, number in (("Score", result.score), ("Threshold", result.threshold)):
        if number is not None:
            yield _pair(name, ua.Variant(number, ua.VariantType.Double))


def _pair(name: str, value: ua.Variant) -> ua.Variant:
    return ua.Variant(ua.KeyValuePair(Key=ua.QualifiedName(name), Value=value), ua.VariantType.ExtensionObject)
