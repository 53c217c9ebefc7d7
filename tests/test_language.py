"""Docstrings, comments, help texts and documentation follow the rules of plain technical English (CONTRIBUTING.md).

A finding is printed as `FILE:LINE: text`. A justified exception is one line of EXCEPTIONS, with its reason.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import pytest

from commands import all_commands, options

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("runtime", "train", "export", "benchmarks", "examples", "docs", "scripts")
PAGES = ("*.md", "docs/**/*.md", "examples/*.md", "tests/**/*.md")

BAD_FIRST_WORDS = frozenset(["The", "What", "Whether", "Of", "How", "Where", "With", "Which", "Those", "All"])
"""A function's docstring starts with an imperative verb instead."""

BAD_NAMES = frozenset(["told", "found", "given", "each", "some", "wanted", "wished", "ours", "theirs"])
"""A variable is named after its content instead."""

BAD_PHRASES = {
    r"at hand": "available",
    r"in words": "as text",
    r"of (?:its|their|his|your) own": "separate",
    r"anew": "again",
    r"but for": "except",
    r"so many": "the number",
    r"drawn from nothing": "procedurally generated",
    r"shall": "must",
    r"(?:is|are|was|were|be) told": "receives, reports",
    r"goes on": "continues",
    r"beside": "next to, in addition to",
    r"wished(?: for)?": "requested",
    r"hands? over": "passes",
}
"""Phrases to replace, and what with."""

BAD_OPENINGS = r"(?:^|(?<=[.!?:] ))(Of |With all that|What is |Whether |Those )"
"""Sentences do not start like this."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(file, text): reason. A finding is excused if it is in this file and contains this text."""

ERROR_KEYWORD = "found"
"""Keyword of CmdiadError for the problem. Functions that build an error have a parameter of this name."""

PHRASE = re.compile("|".join(rf"\b{phrase}\b" for phrase in BAD_PHRASES), re.IGNORECASE)
OPENING = re.compile(BAD_OPENINGS, re.MULTILINE)
PRONOUN = re.compile(r"\b(?:it|its|it's|itself)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """A place that breaks a rule.

    Attributes:
        path: File, relative to the repository.
        line: Line number, from 1.
        text: What stands there.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"

    @property
    def excused(self) -> bool:
        """True if EXCEPTIONS has a reason for this finding."""
        return any(self.path == path and text in self.text for path, text in EXCEPTIONS)

    @property
    def folder(self) -> str:
        """First three parts of the path, or the command, for the count per folder."""
        return "/".join(self.path.split("/")[:3]) if "/" in self.path else self.path.split(" -")[0]


def check(findings: Iterable[Finding]) -> None:
    """Fail with the count per folder and the first findings."""
    findings = [finding for finding in findings if not finding.excused]
    counts = Counter(finding.folder for finding in findings)
    summary = "\n".join(f"{count:5} {folder}" for folder, count in sorted(counts.items()))
    lines = "\n".join(str(finding) for finding in findings[:60])
    if findings:
        pytest.fail(f"{len(findings)} findings\n{summary}\n\n{lines}", pytrace=False)


def test_function_docstrings_start_with_a_verb() -> None:
    check(
        Finding(path, node.lineno, f"{node.name}: {text.splitlines()[0]}")
        for path, node, text in docstrings()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and text.split()[0] in BAD_FIRST_WORDS
    )


def test_docstrings_and_comments_have_no_phrases_to_replace() -> None:
    check(
        Finding(path, line, f"…{text}…")
        for path, first_line, prose in python_prose()
        for line, text in matches(PHRASE, prose, first_line)
    )


def test_docstrings_and_comments_have_no_inverted_sentences() -> None:
    check(
        Finding(path, line, text)
        for path, first_line, prose in python_prose()
        for line, text in matches(OPENING, prose, first_line)
    )


def test_variables_are_named_after_their_content() -> None:
    check(
        Finding(path, line, name)
        for path, tree in modules()
        for line, name in assigned_names(tree)
        if name in BAD_NAMES
    )


def test_pages_have_no_phrases_to_replace() -> None:
    check(Finding(path, line, f"…{text}…") for path, prose in pages() for line, text in matches(PHRASE, prose, 1))


def test_pages_have_no_inverted_sentences() -> None:
    check(Finding(path, line, text) for path, prose in pages() for line, text in matches(OPENING, prose, 1))


def test_help_texts_are_plain() -> None:
    """No help text says "it" or "its", and none contains a phrase to replace."""
    check(
        Finding(name, 1, f"…{text[max(0, match.start() - 40) : match.end() + 30]}…".replace("\n", " "))
        for name, text in help_texts()
        for pattern in (PRONOUN, PHRASE)
        for match in pattern.finditer(text)
    )


def test_every_option_has_a_help_text() -> None:
    check(
        Finding(name, 1, option.opts[0])
        for name, command in all_commands()
        for option in options(command)
        if not (option.help or option.hidden)
    )


def test_every_command_has_a_version_and_two_examples() -> None:
    findings = []
    for name, command in all_commands():
        text = command.get_help(click.Context(command, info_name=name, **command.context_settings))
        if "--version" not in text:
            findings.append(Finding(name, 1, "no --version"))
        examples = [line for line in text.splitlines() if f"{line.strip()} ".startswith(f"{name} ")]
        if len(examples) < 2:
            findings.append(Finding(name, 1, f"{len(examples)} examples"))
    check(findings)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("the sensor at hand", True),
        ("Handle it", False),
        ("a thread of its own", True),
        ("besides the image", False),
        ("beside the image", True),
    ],
)
def test_the_phrases_are_recognised(text: str, bad: bool) -> None:
    assert bool(PHRASE.search(text)) == bad


def test_the_openings_are_recognised() -> None:
    assert OPENING.findall("Of the rows. What is more. Offer this. It is good. Whether or not.") == [
        "Of ",
        "What is ",
        "Whether ",
    ]


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """Return the path and syntax tree of every source file."""
    files = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in files)


def docstrings() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module, str]]:
    """Yield path, node and text of every docstring."""
    for path, tree in modules():
        for node in statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node)
                if text:
                    yield path, node, text


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a module, all its statements, and their branches, but no expression: a tenth of the nodes."""
    unseen: list[ast.AST] = [tree]
    while unseen:
        node = unseen.pop()
        yield node
        for branch in ("body", "orelse", "finalbody", "handlers", "cases"):
            unseen += getattr(node, branch, [])


@cache
def python_prose() -> tuple[tuple[str, int, str], ...]:
    """Return path, first line and text of every docstring, attribute docstring and comment."""
    return tuple(
        (path, line, without_code(text)) for path, tree in modules() for line, text in (*strings(tree), *comments(path))
    )


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is a statement."""
    for node in statements(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def comments(path: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every comment of a file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    if "#" in source:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("# ")


def pages() -> Iterator[tuple[str, str]]:
    """Yield path and text of every documentation page; code is blank, so that line numbers stay."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            blank = re.sub(r"^```.*?^```", lambda m: "\n" * m.group().count("\n"), text, flags=re.DOTALL | re.MULTILINE)
            yield path.relative_to(ROOT).as_posix(), without_code(blank)


def without_code(text: str) -> str:
    """Remove code in backticks."""
    return re.sub(r"``?[^`\n]+``?", "", text)


def matches(pattern: re.Pattern[str], prose: str, first_line: int) -> Iterator[tuple[int, str]]:
    """Yield the line and the surroundings of every match."""
    for match in pattern.finditer(prose):
        line = first_line + prose.count("\n", 0, match.start())
        text = prose[max(0, match.start() - 30) : match.end() + 30]
        yield line, " ".join(text.split())


def assigned_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every assigned variable and every parameter, except the keyword of errors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg) and node.arg != ERROR_KEYWORD:
            yield node.lineno, node.arg


def help_texts() -> Iterator[tuple[str, str]]:
    """Yield the text of every command and of each of its options, with a name."""
    for name, command in all_commands():
        yield name, without_code(command.help or "")
        for option in options(command):
            if option.help:
                yield f"{name} {option.opts[0]}", without_code(option.help)
