"""REST for programs: inspect, results, pictures, health. The OpenAPI description is at `/openapi.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from python_multipart.multipart import parse_options_header

from cmdiad_line.records.ids import LARGEST_ID
from cmdiad_line.web.access import Caller, program_for
from cmdiad_line.web.desk import NoAnswerError
from cmdiad_line.web.guard import BODY_END
from cmdiad_line.web.history import PictureKind
from cmdiad_line.web.operator import PartId
from cmdiad_line.web.rest_answers import PublishedResult, Readiness, RecordedResult, problems, shown_as
from cmdiad_line.web.services import services_of

router = APIRouter()

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MOST_RESULTS = 1000
"""Largest number of results in one answer."""


@router.post(
    "/inspect",
    summary="Trigger an inspection and return its one result",
    responses=problems(401, 403, 409, 413, 415, 422, 503, 504),
)
async def inspect(
    request: Request,
    caller: Annotated[Caller, Depends(program_for("operator"))],
    part_id: Annotated[str, Form(max_length=200, description="Id of the part from the plant.")] = "",
    image: Annotated[UploadFile | None, File(description="Image (PNG, TIFF, …).")] = None,
    cloud: Annotated[UploadFile | None, File(description="Cloud (TIFF, NPZ, …).")] = None,
) -> PublishedResult:
    """Trigger the sensors, or inspect an uploaded picture if a source of the kind `push` is configured.

    The answer contains the verdict, also for NG: status 200 means that there is a result. Any other status means that
    there is none, so the part is NG.
    """
    services = services_of(request)
    await _require_understood(request, {"image": image, "cloud": cloud})
    if not part_id.isprintable():
        raise HTTPException(422, "part_id: found control characters. Expected printable text. Correct the request.")
    try:
        if image is None and cloud is None:
            return shown_as(PublishedResult, await services.desk.trigger(part_id))
        if services.push is None:
            problem = "No source takes uploads. Add a source of the kind push to the station file."
            raise HTTPException(409, problem)
        acquisition_id = await services.push.send(part_id, image=image, cloud=cloud)
        return shown_as(PublishedResult, await services.desk.result(acquisition_id))
    except NoAnswerError as error:
        raise HTTPException(504, f"NG. {error}") from error


async def _require_understood(request: Request, uploads: dict[str, UploadFile | None]) -> None:
    """Raise unless the whole request is understood. An ignored picture would get the verdict of another part."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if kind not in _FORMS and (kind or has_body):
        raise HTTPException(415, f"NG. Found content of the type {kind[:60]!r}. Send a form: {', '.join(_FORMS)}.")
    form = await request.form()
    boundary = str(parse_options_header(request.headers.get("content-type"))[1].get(b"boundary", b""), "latin-1")
    end = request.scope.get(BODY_END, b"").rstrip()
    if has_body and (not form or (boundary and not end.endswith(f"--{boundary}--".encode("latin-1")))):
        raise HTTPException(422, "NG. The form is incomplete or empty. Correct its boundary and send all of it.")
    unknown = sorted(set(form) - {"part_id", *uploads})
    empty = [name for name, upload in uploads.items() if name in form and upload is None]
    twice = [name for name in form if len(form.getlist(name)) > 1]
    if unknown or empty or twice:
        names = ", ".join(name[:60] for name in (*unknown, *empty, *twice))
        raise HTTPException(
            422, f"NG. Found {names}. Expected part_id, image and cloud, once, as a text and two files."
        )


@router.get("/results", summary="List recorded results, newest first", responses=problems(401, 403, 422, 503))
async def results(
    request: Request,
    _: Annotated[Caller, Depends(program_for(None))],
    limit: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 50,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="Only results with a smaller id.")] = None,
    verdict: Annotated[Literal["", "OK", "NG"], Query(description="Only results with this verdict.")] = "",
) -> list[RecordedResult]:
    """Return recorded results; for the next page, pass the last id as `before`."""
    history = services_of(request).history
    recorded = await run_in_threadpool(history.latest, limit=limit, before=before, verdict=verdict)
    return [shown_as(RecordedResult, entry) for entry in recorded]


@router.get(
    "/results/{acquisition_id}",
    summary="Return one recorded result",
    responses=problems(401, 403, 404, 422, 503),
)
async def result(
    request: Request, acquisition_id: PartId, _: Annotated[Caller, Depends(program_for(None))]
) -> RecordedResult:
    """Return one recorded result."""
    recorded = await run_in_threadpool(services_of(request).history.result, acquisition_id)
    if recorded is None:
        raise HTTPException(404, f"There is no result {acquisition_id}.")
    return shown_as(RecordedResult, recorded)


@router.get(
    "/results/{acquisition_id}/picture",
    summary="Return a stored picture",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}}}, **problems(401, 403, 404, 422, 503)},
)
async def picture(
    request: Request,
    acquisition_id: PartId,
    _: Annotated[Caller, Depends(program_for(None))],
    kind: Annotated[PictureKind, Query(description="With or without the anomaly map.")] = "overlay",
    side: Annotated[int, Query(ge=0, le=4096, description="Largest side of a JPEG preview; 0: the PNG file.")] = 0,
) -> Response:
    """Return a stored picture. Pictures are kept by rule; parts without one answer 404."""
    content = await run_in_threadpool(services_of(request).history.picture, acquisition_id, kind, side)
    if content is None:
        raise HTTPException(404, f"No picture of part {acquisition_id} was kept.")
    return Response(content, media_type="image/jpeg" if side else "image/png")


@router.get("/healthz", summary="Live: the web process answers")
async def healthz() -> dict[str, str]:
    """Return status 200 as long as this process works."""
    return {"status": "live"}


@router.get(
    "/readyz",
    summary="Ready: self-test passed, sensors connected, triggers accepted",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready, with the reason."}},
)
async def readyz(request: Request) -> JSONResponse:
    """Return status 200 only in the phase `ready`, otherwise 503 with the reason."""
    state = services_of(request).desk.state
    if state is None:
        silent = Readiness(phase="not-ready", reason="not-ready", message="The supervisor does not answer.")
        return JSONResponse(silent.model_dump(), 503)
    facts = Readiness(**{name: getattr(state, name) for name in Readiness.model_fields})
    return JSONResponse(facts.model_dump(), 200 if state.phase == "ready" else 503)
