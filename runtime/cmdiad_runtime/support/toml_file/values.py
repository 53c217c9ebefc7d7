"""Conversion of TOML values to the values of a section's fields, by the type of each field.

Fields have one of these types: `str`, `int`, `float`, `bool`, `Literal[...]`, `tuple[T, ...]`, `dict[str, T]`, `Path`,
`ExistingFile`, `ExistingFolder`, `Any`, or one of them `| None`. `Any` takes every value. A path is relative to the
folder of the TOML file.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ExistingFile = Annotated[Path, "an existing file"]
"""Path of a file that must exist."""
ExistingFolder = Annotated[Path, "an existing folder"]
"""Path of a folder that must exist."""

_NAMES = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
_CHECKS = {"an existing file": Path.is_file, "an existing folder": Path.is_dir}


class ValueMistakeError(ValueError):
    """A value does not have the type of its field.

    Attributes:
        found: Description of the value.
        expected: Description of the type.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found}, expected {expected}")
        self.found = found
        self.expected = expected


def convert(hint: Any, value: object, folder: Path, *, exists: bool = True) -> Any:
    """Return a TOML value as a value of a field.

    Args:
        hint: Type of the field, see the module.
        value: Value that `tomllib` returned.
        folder: Folder that relative paths refer to.
        exists: False to accept the path of a file or folder that does not exist.

    Raises:
        ValueMistakeError: The value has another type, or a file or folder does not exist.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        hint = next(kind for kind in arguments if kind is not type(None))
        return convert(hint, value, folder, exists=exists)
    if origin is Annotated or hint is Path:
        return _path(value, folder, arguments[1] if arguments and exists else "")
    if origin in (tuple, dict):
        return _many(origin, arguments, value, folder)
    if origin is Literal:
        return _checked(value in arguments, value, f"one of {', '.join(map(str, arguments))}")
    if hint is float and type(value) is int:
        return float(value)
    return value if hint is Any else _checked(type(value) is hint, value, _NAMES[hint])


def _many(origin: Any, arguments: tuple[Any, ...], value: Any, folder: Path) -> Any:
    """Return a TOML array as a tuple, or a table as a dict."""
    if origin is tuple:
        _checked(isinstance(value, list), value, "a list in square brackets")
        return tuple(convert(arguments[0], item, folder) for item in value)
    _checked(isinstance(value, dict), value, "a table, for example {name = 1}")
    return {name: convert(arguments[1], item, folder) for name, item in value.items()}


def _path(value: object, folder: Path, rule: str) -> Path:
    usable = isinstance(value, str) and value != "" and "\0" not in value
    _checked(usable, value, "a path in quotes")
    path = folder / Path(str(value)).expanduser()
    check = _CHECKS.get(rule)
    if check is not None and not check(path):
        raise ValueMistakeError(f"{path}, which does not exist" if not path.exists() else f"{path}", rule)
    return path


def _checked(condition: bool, value: object, expected: str) -> Any:
    """Return the value if the condition holds, otherwise raise ValueMistakeError."""
    if not condition:
        raise ValueMistakeError(f"{value!r:.60}", expected)
    return value
