"""REST for programs that change the recipe: list, prepare, unprepare, activate. The pages of engineers do the same."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool

from cmdiad_line.station_file.recipe import RECIPE_ID
from cmdiad_line.web.access import Caller, program_for
from cmdiad_line.web.desk import NoAnswerError, NotTakenError
from cmdiad_line.web.orders import UNKNOWN_OUTCOME
from cmdiad_line.web.rest_answers import Done, Problem, StoredRecipe, problems
from cmdiad_line.web.services import services_of

router = APIRouter(prefix="/recipes")
Engineer = Annotated[Caller, Depends(program_for("engineer"))]
RecipeId = Annotated[str, PathParameter(pattern=f"^{RECIPE_ID.pattern}$", description="Id of a stored recipe.")]
_FAILED: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "The station refuses the order. The content has the reason."},
    503: {"model": Problem, "description": "The station takes no orders now. The order has no effect."},
    504: {"model": Problem, "description": "The station did not answer in time. The order may still take effect."},
}


@router.get("", summary="List the stored recipes", responses=problems(401, 403, 503))
async def recipes(request: Request, _: Engineer) -> list[StoredRecipe]:
    """List the stored recipes in the order of their import, with the present state of each."""
    services = services_of(request)
    stored = await run_in_threadpool(services.recipes.list)
    state = services.desk.state
    if state is None:
        raise HTTPException(503, "The supervisor does not answer.")
    return [
        StoredRecipe(
            recipe_id=recipe.recipe_id,
            product_id=recipe.product_id,
            bundle_digest=recipe.bundle_digest,
            bundle_name=recipe.bundle_name,
            modality=recipe.modality,
            engine=recipe.engine,
            threshold=recipe.threshold,
            imported=recipe.imported,
            active=recipe.recipe_id == state.recipe_id,
            prepared=recipe.recipe_id in state.prepared,
        )
        for recipe in stored
    ]


@router.post(
    "/{recipe_id}/{order}",
    summary="Prepare, unprepare or activate a recipe",
    responses={**problems(401, 403, 422), **_FAILED},
)
async def change(
    request: Request, caller: Engineer, recipe_id: RecipeId, order: Literal["prepare", "unprepare", "activate"]
) -> Done:
    """Load a recipe and run its self-test, unload it, or use it from the next part on.

    The answer comes when the order is done, which can take minutes. Parts in work keep their recipe. If the station
    refuses, the active recipe stays active. Without an answer in time, `GET /recipes` shows what became of the order.
    """
    try:
        answer = await services_of(request).desk.command(order, caller.name, {"recipe_id": recipe_id})
    except NotTakenError as error:
        raise HTTPException(503, str(error)) from error
    except NoAnswerError as error:
        raise HTTPException(504, UNKNOWN_OUTCOME) from error
    if not answer.done:
        raise HTTPException(409, answer.message)
    return Done(message=answer.message)
