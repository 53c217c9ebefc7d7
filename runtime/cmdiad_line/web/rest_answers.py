"""Answers of REST. Fields may be added, but never change their meaning or vanish."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field

from cmdiad_line.records.stored import StoredResult
from cmdiad_line.transport.messages import Phase, Result

Shown = TypeVar("Shown", bound="PublishedResult")

_PROBLEMS = {
    401: "No token, or an unknown one.",
    403: "The token has no sufficient role.",
    404: "There is no such result or picture.",
    409: "No source of the station takes uploads. There is no result: NG.",
    413: "The request is too large. There is no result: NG.",
    415: "The content has another type. There is no result: NG.",
    422: "The request is not understood. There is no result: NG.",
    503: "The station does not take requests now, or its records cannot be read. There is no result: NG.",
    504: "The station gave no result in time: NG.",
}


class PublishedResult(BaseModel):
    """The result of one part, as the plant received it."""

    acquisition_id: Annotated[int, Field(description="Id of the part, unique for the station.")]
    verdict: Annotated[Literal["OK", "NG"], Field(description="OK, or NG.")]
    reason: Annotated[str, Field(description="Code of the reason of NG, empty for OK.")]
    message: Annotated[str, Field(description="The reason as one line for people.")]
    score: Annotated[float | None, Field(description="Score, null if the part was not inspected.")]
    threshold: Annotated[float | None, Field(description="Score above which a part is NG.")]
    part_id: Annotated[str, Field(description="Id of the part from the plant.")]
    meas_id: Annotated[str, Field(description="Id of the measurement from the plant.")]
    channel: Annotated[str, Field(description="Interface that sent the trigger.")]
    recipe_id: Annotated[str, Field(description="Recipe that inspected the part.")]
    bundle_digest: Annotated[str, Field(description="SHA-256 of the manifest of the bundle.")]
    time: Annotated[str, Field(description="Time of the trigger, ISO 8601 in UTC.")]
    timings_ms: Annotated[
        dict[str, float],
        Field(
            description="Milliseconds from the trigger to the end of each stage; durations of `preprocess`, "
            "`engine`, `map`."
        ),
    ]


class RecordedResult(PublishedResult):
    """A result with what only the records contain."""

    sensors: Annotated[dict[str, str], Field(description="Facts of the sensors, such as serial numbers.")]
    engine: Annotated[str, Field(description="Library, version and device of the engine.")]
    map_max: Annotated[float | None, Field(description="Largest value of the anomaly map.")]
    judgement: Annotated[str | None, Field(description="Last judgement of a person: good, defect, unsure.")]
    override: Annotated[str | None, Field(description="Verdict by which a person replaced the published one.")]
    sequence: Annotated[int, Field(description="Number of the row in the hash chain of the records.")]
    hash: Annotated[str, Field(description="SHA-256 of the row together with the hash of the row before it.")]


class Readiness(BaseModel):
    """State of the station."""

    phase: Annotated[Phase, Field(description="`ready` is the only phase in which parts can be OK.")]
    reason: Annotated[str, Field(description="Code of the reason why the station is not ready.")]
    message: Annotated[str, Field(description="The reason as one line for people.")]
    recipe_id: Annotated[str, Field(description="Active recipe.")] = ""
    bundle_digest: Annotated[str, Field(description="SHA-256 of the manifest of the active bundle.")] = ""


class StoredRecipe(BaseModel):
    """A recipe of the station."""

    recipe_id: Annotated[str, Field(description="Id of the recipe, which stands for one bundle for ever.")]
    product_id: Annotated[str, Field(description="Id of the product from the plant.")]
    bundle_digest: Annotated[str, Field(description="SHA-256 of the manifest of the bundle.")]
    bundle_name: Annotated[str, Field(description="Name of the detector in the bundle.")]
    modality: Annotated[str, Field(description="Sensors that the bundle needs: `rgb`, `xyz` or `both`.")]
    engine: Annotated[str, Field(description="Engine that runs the bundle.")]
    threshold: Annotated[float | None, Field(description="Score threshold, null for that of the bundle.")]
    imported: Annotated[str, Field(description="Time of the import, ISO 8601 in UTC.")]
    active: Annotated[bool, Field(description="True for the recipe that inspects the next part.")]
    prepared: Annotated[bool, Field(description="True if the recipe is loaded and has passed the self-test.")]


class Done(BaseModel):
    """Answer to a request that changed the station: a line that states the change."""

    message: Annotated[str, Field(description="The change as one line for people.")]


class Problem(BaseModel):
    """The reason why there is no answer."""

    detail: Annotated[str, Field(description="The reason as one line for people.")]


def shown_as(model: type[Shown], result: Result | StoredResult) -> Shown:
    """Return a result with the fields of a model, without the internal ones."""
    return model(**{name: getattr(result, name) for name in model.model_fields})


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of the answers that are no results."""
    return {status: {"model": Problem, "description": _PROBLEMS[status]} for status in statuses}
