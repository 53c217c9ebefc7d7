"""The constraints in requirements/, the ranges in pyproject.toml, the scripts and the installed packages agree."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cmdiad_runtime.support.command_line import EXTRAS, missing_package
from lanes import some

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
LOCKED = ROOT / "requirements" / "locked.txt"
CPU = ROOT / "requirements" / "cpu.txt"
PYTHONS = ["3.10", "3.11", "3.12"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
UNPINNED_EXTRAS = {"tensorrt", "ort-rtx", "jetpack6", "jetpack7", "compare"}
"""Extras for machines that nobody had, and the comparison with another project."""
UNPINNED = {("3.10", "cuda-bindings"), ("3.10", "cuda-pathfinder")}
"""JetPack 6 has Python 3.10 and needs another version than the CUDA build of torch."""


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "--"))]


def _holds(requirement: Requirement, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.7", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _pins(python: str) -> dict[str, str]:
    """Return the pinned version of each package; a package with two pins fails."""
    pins: dict[str, str] = {}
    for requirement in map(Requirement, _lines(LOCKED)):
        if _holds(requirement, python):
            (specifier,) = requirement.specifier
            name = canonicalize_name(requirement.name)
            assert specifier.operator == "==", requirement
            assert name not in pins, requirement
            pins[name] = specifier.version
    return pins


def _extras() -> dict[str, list[Requirement]]:
    """Return the requirements of each extra, and those of the package itself under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    requirements = {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}
    return {extra: [r for r in listed if r.name != "cmdiad"] for extra, listed in requirements.items()}


def _installation_lines() -> list[list[str]]:
    """Return the words of each pip line for this repository in README and in the installation page."""
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/installation.md"))
    return [
        shlex.split(line) for line in dict.fromkeys(re.findall(r"(?:uv )?pip install --[^`\n]*\"\.\[[^`\n]*\"", text))
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_pin_within_its_range(python: str) -> None:
    pins = _pins(python)
    for extra, requirements in _extras().items():
        for requirement in requirements if extra not in UNPINNED_EXTRAS else ():
            name = canonicalize_name(requirement.name)
            marker = requirement.marker
            applies = marker is None or marker.evaluate({"python_version": python})
            if applies and (python, name) not in UNPINNED:
                assert name in pins, (extra, name)
                assert requirement.specifier.contains(pins[name], prereleases=True), (extra, name, pins[name])


def test_every_package_of_the_station_has_its_extra_in_error_messages() -> None:
    imports = packages_distributions()
    for requirement in _extras()["line"]:
        names = [name for name, owners in imports.items() if requirement.name in map(canonicalize_name, owners)]
        assert set(names) & EXTRAS.keys() or requirement.marker is not None, requirement.name
    problem = missing_package(ModuleNotFoundError("No module named 'jinja2'", name="jinja2"), "cmdiad-line")
    assert problem.endswith('Run: pip install "cmdiad[line]".')


def test_installed_packages_have_the_pinned_versions() -> None:
    """Of everything that cmdiad or one of its packages requires, in all extras that are installed here."""
    pins = _pins(HERE)
    installed = dict(_installed(canonicalize_name(r.name) for listed in _extras().values() for r in listed))
    assert {"numpy", "scipy", "pillow", "click", "torch", "timm", "onnx", "sympy", "pytest"} <= installed.keys()
    unpinned = {name for python, name in UNPINNED if python == HERE}
    pinned = {name: version for name, version in installed.items() if name not in unpinned}
    assert {name: version.split("+")[0] for name, version in pinned.items()} == {
        name: pins.get(name) for name in pinned
    }


def _installed(names: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield name and version of the installed packages among these, and of all that these require."""
    known: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        yield name, package.version
        needed = map(Requirement, package.requires or [])
        waiting += [canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]


def test_cpu_build_of_torch_is_that_of_the_pins() -> None:
    (line,) = _lines(CPU)
    (specifier,) = Requirement(line).specifier
    assert specifier.version == f"{_pins(HERE)['torch']}+cpu"
    assert "--constraint locked.txt" in CPU.read_text(encoding="utf-8").splitlines()


def test_every_installation_line_is_pinned() -> None:
    lines = _installation_lines()
    assert len(lines) >= 4
    for words in lines:
        assert words[words.index("--constraint") + 1] in ("requirements/cpu.txt", "requirements/locked.txt"), words
        extras = re.findall(r"[\w-]+", words[-1])
        assert extras
        assert set(extras) <= _extras().keys(), words


@pytest.mark.slow
@pytest.mark.parametrize("python", some(PYTHONS, [HERE]))
def test_installation_lines_bring_pinned_packages_only(python: str) -> None:
    """Resolved from the package index with the torch of PyPI; the build of torch makes no other difference."""
    extras = {extra for words in _installation_lines() for extra in re.findall(r"[\w-]+", words[-1])}
    options = [part for extra in sorted(extras) for part in ("--extra", extra)]
    target = ["--python-version", f"{python}.7", "--python-platform", "x86_64-manylinux_2_28"]
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        *target,
        *options,
    ]
    command += ["--constraint", str(LOCKED), str(ROOT / "pyproject.toml")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if "dns error" in ended.stderr or "error sending request" in ended.stderr:
        pytest.skip("no package index in reach")
    assert ended.returncode == 0, ended.stderr
    resolved = dict(line.split(" ;")[0].split("==") for line in ended.stdout.splitlines())
    unpinned = {name for version, name in UNPINNED if version == python}
    pins = _pins(python)
    assert {"torch", "numpy"} <= resolved.keys()
    assert {name: version.split("+")[0] for name, version in resolved.items() if name not in unpinned} == {
        name: pins.get(canonicalize_name(name)) for name in resolved if name not in unpinned
    }
