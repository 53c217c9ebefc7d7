"""Messages as JSON objects. The types of all fields are checked when a message is read."""

from __future__ import annotations

import json
import types
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from cmdiad_line.transport.messages import Message

_KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Message)}


class MessageError(ValueError):
    """Bytes are no message, or a field has a wrong type."""


def encode(message: Message) -> bytes:
    """Return a message as UTF-8 JSON: its fields, and its class name as `kind`.

    Raises:
        MessageError: A number is not finite, or a value has no JSON form.
    """
    try:
        return json.dumps({"kind": type(message).__name__, **asdict(message)}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise MessageError(f"{type(message).__name__}: {error}") from error


def decode(data: bytes) -> Message:
    """Return the message that `encode` wrote.

    Raises:
        MessageError: The bytes are no message, the kind is unknown, or a field is missing, unknown or of a wrong type.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise MessageError(f"no JSON: {data[:60]!r}") from error
    kind = _KINDS.get(value.pop("kind", "")) if isinstance(value, dict) else None
    if kind is None:
        raise MessageError(f"no known message: {data[:60]!r}")
    message: Message = _build(kind, value)
    return message


def _build(kind: type, value: object) -> Any:
    """Return a dataclass from a JSON object, or raise MessageError."""
    if not isinstance(value, dict):
        raise MessageError(f"{kind.__name__}: {value!r:.60} is no object")
    hints = _hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise MessageError(f"{kind.__name__}: unknown field {', '.join(unknown)}")
    try:
        return kind(
            **{name: _convert(hints[name], content, f"{kind.__name__}.{name}") for name, content in value.items()}
        )
    except TypeError as error:
        raise MessageError(f"{kind.__name__}: {error}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in fields(kind)}


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Return a JSON value as the type of a field, or raise MessageError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kind = next(kind for kind in arguments if kind is not type(None))
        return None if value is None and type(None) in arguments else _convert(kind, value, name)
    if origin in (tuple, dict):
        return _convert_many(origin, arguments, value, name)
    if is_dataclass(hint):
        return _build(cast("type", hint), value)
    if origin is Literal:
        return _checked(value in arguments, value, name)
    if hint is float:
        return float(_checked(isinstance(value, int | float) and not isinstance(value, bool), value, name))
    return _checked(hint is Any or type(value) is hint, value, name)


def _convert_many(origin: Any, arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    """Return a JSON list as a tuple, or a JSON object as a dict with text as keys, or raise MessageError."""
    _checked(isinstance(value, dict if origin is dict else list), value, name)
    if origin is dict:
        return {key: _convert(arguments[1], item, name) for key, item in value.items()}
    kinds = arguments[:1] * len(value) if Ellipsis in arguments else arguments
    _checked(len(kinds) == len(value), value, name)
    return tuple(_convert(kind, item, name) for kind, item in zip(kinds, value, strict=True))


def _checked(condition: bool, value: Any, name: str) -> Any:
    """Return the value if the condition holds, otherwise raise MessageError."""
    if not condition:
        raise MessageError(f"{name}: {value!r:.60} has a wrong type")
    return value
