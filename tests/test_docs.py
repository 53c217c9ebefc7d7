"""Documentation: links, commands, options and paths exist, lines are short, README and index keep their form."""

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
from studies.__main__ import cli as studies

ROOT = Path(__file__).resolve().parents[1]
LONGEST_LINE = 120
FOLDERS = ("benchmarks", "docker", "docs", "examples", "export", "requirements", "runtime", "scripts", "tests", "train")
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "tests/**/*.md", "docker/**/*.md")
    for path in ROOT.glob(pattern)
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name: str) -> None:
    page = ROOT / name
    text = without_blocks(page.read_text(encoding="utf-8"))
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


def test_pages_show_commands() -> None:
    """The check above would pass if no command line were recognised."""
    lines = [line for name in NAMES for line in command_lines((ROOT / name).read_text(encoding="utf-8"))]
    assert len(lines) > 60
    assert {line.split()[0] for line in lines} == set(commands())


@pytest.mark.parametrize("name", NAMES)
def test_studies_exist(name: str) -> None:
    assert set(study_names((ROOT / name).read_text(encoding="utf-8"))) <= set(studies.commands)


def test_every_study_is_documented() -> None:
    named = {study for name in NAMES for study in study_names((ROOT / name).read_text(encoding="utf-8"))}
    assert named == set(studies.commands)


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_the_repository_exist(name: str) -> None:
    assert not [path for path in repository_paths((ROOT / name).read_text(encoding="utf-8")) if not exists(path)]


def test_the_check_of_paths_notices_what_does_not_exist() -> None:
    text = "Run `scripts/no-such`, see (`train/cmdiad_train/cli/train.py`), `tests/runtime/` and ../shared/tests/x.py."
    assert repository_paths(text) == ["scripts/no-such", "train/cmdiad_train/cli/train.py", "tests/runtime/"]
    assert [exists(path) for path in repository_paths(text)] == [False, True, True]
    assert len([path for name in NAMES for path in repository_paths((ROOT / name).read_text(encoding="utf-8"))]) > 30


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_short(name: str) -> None:
    """Outside tables and code."""
    text = without_blocks((ROOT / name).read_text(encoding="utf-8"))
    long_lines = [line for line in text.splitlines() if len(line) > LONGEST_LINE and not line.startswith(("|", "!["))]
    assert not long_lines


def test_the_options_of_the_detector_families_are_checked() -> None:
    """`cmdiad-train` adds these options when it runs."""
    names = {name for option in options(commands()["cmdiad-train"]) for name in option.opts}
    assert {"--family", "--coreset", "--rgb-backbone", "--xyz"} <= names


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
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) >= 1
    for node in imports:
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        else:
            assert all(import_module(alias.name) for alias in node.names)


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


def without_blocks(text: str) -> str:
    """Remove all fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def study_names(text: str) -> list[str]:
    """Return the subcommand of every `python -m studies`; module names after a dot are wrong and are returned too."""
    return [name.strip() for name in re.findall(r"python -m studies(\.\w+| [a-z]\w*)", text)]


def repository_paths(text: str) -> list[str]:
    """Return every path that starts with a folder of the repository, except names with placeholders in capitals."""
    paths = re.findall(rf"(?<![\w./<-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w/?)", text)
    return [path for path in paths if not re.search(r"[A-Z]{4,}(?!\.md)", path) and not path.startswith("train/good")]


def exists(path: str) -> bool:
    """Return True if a file or folder of the repository has this path."""
    return (ROOT / path).exists()


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
        subcommand = command.get_command(click.Context(command), name)
        assert subcommand is not None, f"{words[0]} has no subcommand {name}"
        command, rest = subcommand, rest[rest.index(name) + 1 :]
    known = {word for option in options(command) for word in (*option.opts, *option.secondary_opts)}
    unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in known]
    assert not unknown, f"{words[0]} has no option {unknown}"
