"""Documentation: links lead somewhere, commands and options exist, README and index keep their form."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from commands import commands, options

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "tests/**/*.md", "docker/**/*.md")
    for path in ROOT.glob(pattern)
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not re.match(r"[a-z]+:", link) and not link.startswith("#")
        if not (page.parent / link.split("#")[0]).exists()
    ]
    assert not broken


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_exist(name: str) -> None:
    for line in command_lines((ROOT / name).read_text(encoding="utf-8")):
        check_command(line)


def test_the_check_of_commands_notices_what_does_not_exist() -> None:
    with pytest.raises(AssertionError, match="--no-such"):
        check_command("cmdiad-run BUNDLE --no-such 3")
    with pytest.raises(AssertionError, match="nothing"):
        check_command("cmdiad-data nothing")
    check_command("cmdiad-data check DIR [--category NAME]... [--json FILE]")


def test_readme_is_short_and_starts_with_a_picture() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    picture = next(index for index, line in enumerate(lines) if line.startswith("!["))
    assert picture < 8
    install, code = (blocks((ROOT / "README.md").read_text(encoding="utf-8"))[index] for index in (0, 1))
    assert len(install.strip().splitlines()) == 3
    assert len([line for line in code.splitlines() if line.strip()]) == 4


def test_python_in_the_readme_uses_names_that_exist() -> None:
    code = next(block for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if "import" in block)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_page_is_in_the_index_and_in_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.relative_to(ROOT / "docs").as_posix()
        if page == "index.md":
            continue
        assert page in site, f"mkdocs.yml does not list {page}"
        assert page in index or page.startswith(("api/", "design-notes/")), f"docs/index.md does not list {page}"


def test_pictures_are_small() -> None:
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 300_000, path


def blocks(text: str) -> list[str]:
    """Return the contents of all fenced blocks."""
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> Iterator[str]:
    """Yield the command lines of the fenced blocks, continued lines joined, comments removed."""
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("cmdiad-"):
                yield re.sub(r"\s+#.*", "", line.strip())


def check_command(line: str) -> None:
    """Raise AssertionError unless the command, the subcommands and all options of a line exist."""
    words = [word.strip("[]") for word in shlex.split(line.split("|", maxsplit=1)[0].replace("...", ""))]
    assert words[0] in commands(), f"no command {words[0]}"
    command, rest = commands()[words[0]], words[1:]
    while isinstance(command, click.Group):
        name = next((word for word in rest if not word.startswith("-")), "")
        assert name in command.commands, f"{words[0]} has no subcommand {name}"
        command, rest = command.commands[name], rest[rest.index(name) + 1 :]
    known = {word for option in options(command) for word in (*option.opts, *option.secondary_opts)}
    unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in known]
    assert not unknown, f"{words[0]} has no option {unknown}"
