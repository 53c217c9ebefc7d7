"""Sources that arrive one by one: results never wait for the next one, and no source is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.arrivals import MOST_WAITING, Arrivals
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.name_list import LONGEST_NAME, read_names
from cmdiad_runtime.inspection.pipeline import inspect_stream
from helpers import sample_files
from patience import LIMIT_S

Cached = Callable[..., Path]


def blocks(*contents: bytes) -> Callable[[int], bytes]:
    """Return a function that reads these blocks one after the other."""
    left = iter([*contents, b""])
    return lambda size: next(left)


def test_names_arrive_as_they_are_written() -> None:
    read, write = os.pipe()
    names = read_names(lambda size: os.read(read, size))
    os.write(write, b"a.png\nb")
    assert next(names) == Path("a.png")
    os.write(write, b".png\n\n  c \xff.png")
    assert next(names) == Path("b.png")
    os.close(write)
    assert [os.fsencode(name) for name in names] == [b"  c \xff.png"]
    os.close(read)


def test_names_may_contain_line_ends_between_zero_bytes() -> None:
    assert list(read_names(blocks(b"a\nb.png\0c.p", b"ng\0"), null=True)) == [Path("a\nb.png"), Path("c.png")]


def test_lists_that_were_written_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of such a list was missing. A name that does end in a carriage return still counts."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "odd.png\r"):
        (tmp_path / name).touch()
    names = read_names(blocks(b"a.png\r\n\r\nodd.png\r\nmissing.png\r\n"))
    assert [str(name) for name in names] == ["a.png", "odd.png\r", "missing.png\r"]


@pytest.mark.parametrize(
    ("contents", "null", "words"),
    [
        ([], False, "no name of a file"),
        ([b"\n\n"], False, "no name of a file"),
        ([b"a.png\0b.png\0"], False, "pass -0"),
        ([b"x" * (LONGEST_NAME + 1)], False, "without the end of a name"),
        ([b"x\n" * LONGEST_NAME], True, "without the end of a name"),
    ],
)
@pytest.mark.failure_mode("A list on standard input that is empty or no list")
def test_what_is_no_list_is_refused(contents: list[bytes], null: bool, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(read_names(blocks(*contents), null=null))


def test_results_do_not_wait_for_the_next_source(data: Path, exported: Cached) -> None:
    """The list continues only when the results of the names so far have come."""
    files = sample_files(data, "test", "contamination", "rgb")
    printed = [threading.Event() for _ in files]

    def names() -> Iterator[Path]:
        for file, event in zip(files, printed, strict=True):
            yield file
            assert event.wait(LIMIT_S)

    with Inspector.open(exported("rgb")) as inspector, Arrivals(names()) as arrivals:
        for inspected, file, event in zip(inspect_stream(inspector, arrivals), files, printed, strict=True):
            assert inspected.source == file
            assert inspected.inspection.inspected
            event.set()


def test_an_error_of_the_list_comes_after_the_results_of_all_names_before(data: Path, exported: Cached) -> None:
    file = sample_files(data, "test", "good", "rgb")[0]
    names = read_names(blocks(f"{file}\n{file}\n".encode(), b"a\0\n"))
    results = []
    with Inspector.open(exported("rgb")) as inspector, Arrivals(names) as arrivals:
        stream = inspect_stream(inspector, arrivals)
        with pytest.raises(InputError, match="zero bytes"):
            results.extend(stream)
    assert [inspected.inspection.verdict for inspected in results] == ["OK", "OK"]


def test_a_long_list_is_read_no_further_than_the_inspection_needs() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10 * MOST_WAITING):
            taken.append(number)
            yield number

    with Arrivals(numbers()) as arrivals:
        for number in range(5 * MOST_WAITING):
            assert next(arrivals) == number
            assert len(taken) <= number + MOST_WAITING + 3
