"""The methods of the vision system, which check role and arguments and return outputs or a status."""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from asyncua import ua

from cmdiad_line.accounts.account import Role
from cmdiad_line.opcua.address_space import AddressSpace
from cmdiad_line.opcua.result_data import job_id, recipe_id, result_data, status, types
from cmdiad_line.opcua.results import Entry, ResultFilter
from cmdiad_line.opcua.sessions import caller
from cmdiad_line.opcua.vision_system import VisionSystem, WrongStateError
from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.transport.link import LinkFullError
from cmdiad_line.transport.messages import Answer
from cmdiad_runtime.errors import CmdiadError

Outputs = list[ua.Variant]
REFUSED = -1
"""Value of the output `Error` if the station refused; 0 if it did not."""
LONGEST_ID = 200
"""Largest number of characters of an id."""
PREPARED_WITHIN_S = 2.0
"""Seconds to wait for a recipe before PrepareRecipe returns with `IsCompleted` false."""

_LARGEST_PAGE = 1000

log = logging.getLogger("cmdiad.line.opcua")


class BadError(Exception):
    """A method returns a bad status.

    Args:
        code: One of `ua.StatusCodes`.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Method:
    """A method of the vision system.

    Attributes:
        path: Path of the method below the vision system.
        inputs: Number of input arguments.
        role: Role that the caller needs.
        call: Function of the user's name and the input values that returns the outputs.
    """

    path: str
    inputs: int
    role: Role
    call: Callable[..., Awaitable[Outputs]]


async def link_methods(space: AddressSpace, methods: Methods) -> None:
    """Connect the methods of the address space with their functions."""
    for method in methods.table():
        space.server.link_method(await space.child(method.path), _callback(method))


def _callback(method: Method) -> Callable[..., Awaitable[Outputs | ua.StatusCode]]:
    """Return the function that asyncua calls."""

    async def call(_parent: ua.NodeId, *arguments: ua.Variant) -> Outputs | ua.StatusCode:
        account = caller.get()
        if account is None or not account.may(method.role):
            return status(ua.StatusCodes.BadUserAccessDenied)
        if len(arguments) != method.inputs:
            few = len(arguments) < method.inputs
            return status(ua.StatusCodes.BadArgumentsMissing if few else ua.StatusCodes.BadTooManyArguments)
        try:
            return await method.call(account.name, *(argument.Value for argument in arguments))
        except BadError as error:
            return status(error.code)
        except WrongStateError as error:
            log.info("%s of %s is refused: %s", method.path, account.name, error)
            return status(ua.StatusCodes.BadInvalidState)
        except (asyncio.TimeoutError, LinkFullError):
            return status(ua.StatusCodes.BadTimeout)

    return call


class Methods:
    """The methods that the server implements.

    Args:
        system: Vision system.
        recipes: Recipes of the station.
        simulated: True if a sensor of the station is simulated.
    """

    def __init__(self, system: VisionSystem, recipes: RecipeStore, simulated: bool) -> None:
        self._system = system
        self._recipes = recipes
        self._simulated = simulated

    def table(self) -> list[Method]:
        """Return all methods. A method that is not in this list is absent from the address space."""
        machine, mode = "VisionStateMachine", "VisionStateMachine/AutomaticModeStateMachine"
        recipes, results = "RecipeManagement", "ResultManagement"
        return [
            Method(f"{machine}/Halt", 2, "operator", self._halt),
            Method(f"{machine}/Reset", 2, "operator", self._reset),
            Method(f"{machine}/SelectModeAutomatic", 0, "operator", self._select_mode_automatic),
            Method(f"{machine}/ConfirmAll", 1, "operator", self._confirm_all),
            Method(f"{mode}/StartSingleJob", 5, "operator", self._start_single_job),
            Method(f"{mode}/StartContinuous", 5, "operator", self._start_continuous),
            Method(f"{mode}/Stop", 2, "operator", self._stop),
            Method(f"{mode}/Abort", 2, "operator", self._abort),
            Method(f"{recipes}/PrepareRecipe", 2, "engineer", self._prepare_recipe),
            Method(f"{recipes}/UnprepareRecipe", 2, "engineer", self._unprepare_recipe),
            Method(f"{recipes}/AddRecipe", 2, "engineer", self._add_recipe),
            Method(f"{recipes}/GetRecipeListFiltered", 6, "operator", self._recipe_list),
            Method(f"{recipes}/ReleaseRecipeHandle", 1, "operator", self._release),
            Method(f"{results}/GetResultById", 2, "operator", self._result_by_id),
            Method(f"{results}/GetResultComponentsById", 2, "operator", self._result_components),
            Method(f"{results}/GetResultListFiltered", 12, "operator", self._result_list),
            Method(f"{results}/ReleaseResultHandle", 1, "operator", self._release),
        ]

    async def _start_single_job(self, user: str, *inputs: Any) -> Outputs:
        meas_id, part_id, recipe = self._job_inputs(*inputs)
        triggered = await self._system.start_single_job(user, part_id, meas_id, recipe)
        return [_structure(job_id(str(triggered.acquisition_id))), _error(triggered.accepted)]

    async def _start_continuous(self, user: str, *inputs: Any) -> Outputs:
        meas_id, part_id, recipe = self._job_inputs(*inputs)
        if meas_id or part_id:  # They belong to one part, a continuous job has many.
            raise BadError(ua.StatusCodes.BadInvalidArgument)
        return [_structure(job_id(await self._system.start_continuous(user, recipe))), _error(True)]

    def _job_inputs(self, meas_id: Any, part_id: Any, recipe: Any, product: Any, parameters: Any) -> tuple[str, ...]:
        """Return ids of measurement, part and recipe of a job. A product must be that of the recipe."""
        asked, product_id = _id(recipe), _id(product)
        account, station = caller.get(), self._system.station
        active = station.recipe_id if station is not None else ""
        products = {stored.recipe_id: stored.product_id for stored in self._stored()} if product_id else {}
        if parameters or (product_id and products.get(asked or active) != product_id):
            raise BadError(ua.StatusCodes.BadInvalidArgument)
        if asked not in ("", active) and (account is None or not account.may("engineer")):
            raise BadError(ua.StatusCodes.BadUserAccessDenied)
        return _id(meas_id), _id(part_id), asked

    async def _stop(self, user: str, cause: Any, description: Any) -> Outputs:
        await self._system.stop()
        return [_error(True)]

    async def _abort(self, user: str, cause: Any, description: Any) -> Outputs:
        return _done(await self._system.abort(user))

    async def _halt(self, user: str, cause: Any, description: Any) -> Outputs:
        return _done(await self._system.command("stop", user))

    async def _reset(self, user: str, cause: Any, description: Any) -> Outputs:
        return _done(await self._system.reset(user))

    async def _select_mode_automatic(self, user: str) -> Outputs:
        """Accept in Operational, where the automatic mode is always selected."""
        if self._system.state.system != "Operational":
            raise WrongStateError(self._system.state.system)
        return [_error(True)]

    async def _confirm_all(self, user: str, comment: Any) -> Outputs:
        """Write the confirmation into the audit log; errors resolve themselves or by Reset."""
        text = _text(getattr(comment, "Text", None))
        station = self._system.station
        subject = station.reason if station is not None and station.reason else "no error"
        note = {"action": "confirm errors", "subject": subject, "details": {"comment": text}}
        answer = await self._system.command("note", user, note)
        if not answer.done:
            raise BadError(ua.StatusCodes.BadUnexpectedError)
        return []

    async def _prepare_recipe(self, user: str, external: Any, internal: Any) -> Outputs:
        recipe = _required_id(internal, external)
        work = asyncio.ensure_future(self._system.command("prepare", user, {"recipe_id": recipe}))
        done, _ = await asyncio.wait({work}, timeout=PREPARED_WITHIN_S)
        answer = work.result() if done else None
        work.add_done_callback(lambda future: future.cancelled() or future.exception())
        accepted = answer is None or answer.done
        return [_structure(recipe_id(recipe)), _boolean(bool(answer and answer.done)), _error(accepted)]

    async def _unprepare_recipe(self, user: str, external: Any, internal: Any) -> Outputs:
        recipe = _required_id(internal, external)
        answer = await self._system.command("unprepare", user, {"recipe_id": recipe})
        return [_structure(recipe_id(recipe)), _error(answer.done)]

    async def _add_recipe(self, user: str, external: Any, product: Any) -> Outputs:
        """Accept a recipe that is stored already. A new one needs its bundle, which OPC UA does not transfer here."""
        recipe, product_id = _required_id(external), _id(product)
        products = {stored.recipe_id: stored.product_id for stored in self._stored()}
        if recipe not in products:
            raise BadError(ua.StatusCodes.BadNotSupported)
        if product_id not in ("", products[recipe]):
            raise BadError(ua.StatusCodes.BadInvalidArgument)
        no_node = ua.Variant(ua.NodeId(), ua.VariantType.NodeId)
        return [_structure(recipe_id(recipe)), no_node, no_node, _boolean(False), _error(True)]

    async def _recipe_list(self, user: str, *inputs: Any) -> Outputs:
        external, product, prepared, limit, start, _timeout = inputs
        recipe, product_id, choice = _id(external), _id(product), _whole(prepared)
        if choice > types.TriStateBooleanDataType.DONTCARE_2:
            raise BadError(ua.StatusCodes.BadInvalidArgument)
        loaded = set(self._system.station.prepared) if self._system.station is not None else set()
        names = [
            stored.recipe_id
            for stored in self._stored()
            if recipe in ("", stored.recipe_id)
            and product_id in ("", stored.product_id)
            and choice in (stored.recipe_id in loaded, types.TriStateBooleanDataType.DONTCARE_2)
        ]
        page = names[_whole(start) :][: _whole(limit) or _LARGEST_PAGE]
        return [
            _boolean(_whole(start) + len(page) >= len(names)),
            _number(len(page)),
            _number(self._system.results.new_handle()),
            ua.Variant([recipe_id(name) for name in page], ua.VariantType.ExtensionObject, is_array=True),
            _error(True),
        ]

    def _stored(self) -> tuple[Recipe, ...]:
        """Return the recipes of the station."""
        try:
            return self._recipes.list()
        except CmdiadError as error:
            log.error("%s", error)
            raise BadError(ua.StatusCodes.BadResourceUnavailable) from error

    async def _result_by_id(self, user: str, result_id: Any, timeout: Any) -> Outputs:
        entry = self._entry(result_id)
        handle = self._system.results.new_handle()
        return [_number(handle), _structure(result_data(entry, self._simulated)), _error(True)]

    async def _result_components(self, user: str, result_id: Any, timeout: Any) -> Outputs:
        entry = self._entry(result_id)
        data = result_data(entry, self._simulated)
        return [
            _boolean(False),
            _number(self._system.results.new_handle()),
            _boolean(data.IsPartial),
            _boolean(data.IsSimulated),
            ua.Variant(data.ResultState, ua.VariantType.Int32),
            _structure(data.MeasId),
            _structure(data.PartId),
            _structure(None),
            _structure(data.InternalRecipeId),
            _structure(None),
            _structure(None),
            _structure(data.InternalConfigurationId),
            _structure(data.JobId),
            ua.Variant(data.CreationTime, ua.VariantType.DateTime),
            _structure(data.ProcessingTimes),
            ua.Variant(data.ResultContent, ua.VariantType.Variant, is_array=True),
            _error(True),
        ]

    async def _result_list(self, user: str, *inputs: Any) -> Outputs:
        state, meas, part, ext_recipe, recipe, ext_configuration, configuration, product, job, limit, start, _ = inputs
        rule = ResultFilter(
            result_state=_whole(state),
            meas_id=_id(meas),
            part_id=_id(part),
            job_id=_id(job),
            recipe_id=_id(recipe) or _id(ext_recipe),
            configuration_id=_id(configuration) or _id(ext_configuration),
        )
        if _id(product):  # A result has a recipe, and the product of a recipe may change.
            raise BadError(ua.StatusCodes.BadNotSupported)
        results = self._system.results
        page, complete = results.select(rule, _whole(start), min(_whole(limit) or _LARGEST_PAGE, _LARGEST_PAGE))
        data = [result_data(entry, self._simulated) for entry in page]
        return [
            _boolean(complete),
            _number(len(page)),
            _number(results.new_handle()),
            ua.Variant(data, ua.VariantType.ExtensionObject, is_array=True),
            _error(True),
        ]

    async def _release(self, user: str, handle: Any) -> Outputs:
        return [_error(self._system.results.release(_whole(handle)))]

    def _entry(self, result_id: Any) -> Entry:
        entry = self._system.results.get(_id(result_id))
        if entry is None:
            raise BadError(ua.StatusCodes.BadNotFound)
        return entry


def _id(structure: Any) -> str:
    """Return the id in one of the id structures; "" for a missing one."""
    return _text(getattr(structure, "Id", None))


def _required_id(*structures: Any) -> str:
    """Return the first id that is not empty, or raise BadError."""
    ids = [identifier for identifier in map(_id, structures) if identifier]
    if not ids:
        raise BadError(ua.StatusCodes.BadInvalidArgument)
    return ids[0]


def _text(value: Any) -> str:
    """Return a text without surrounding spaces, or raise BadError if it is too long or has control characters."""
    text = value.strip() if isinstance(value, str) else ""
    if len(text) > LONGEST_ID or any(unicodedata.category(character)[0] == "C" for character in text):
        raise BadError(ua.StatusCodes.BadInvalidArgument)
    return text


def _whole(value: Any) -> int:
    """Return a whole number that is not negative, 0 for a missing one, or raise BadError."""
    number = 0 if value is None else value
    if not isinstance(number, int) or number < 0:
        raise BadError(ua.StatusCodes.BadInvalidArgument)
    return int(number)


def _done(answer: Answer) -> Outputs:
    return [_error(answer.done)]


def _error(done: bool) -> ua.Variant:
    return ua.Variant(0 if done else REFUSED, ua.VariantType.Int32)


def _boolean(value: bool) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.Boolean)


def _number(value: int) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.UInt32)


def _structure(value: Any) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.ExtensionObject)
