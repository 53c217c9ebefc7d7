"""The README of a bundle: what a stranger needs, from the manifest, in plain text that nothing can forge."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from cmdiad_export.cli import cli
from cmdiad_export.options import ExportOptions
from cmdiad_export.readme import README, readme_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import Manifest
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.preprocess.inspected_area.records import WHOLE_PICTURE
from cmdiad_runtime.support.records import RecordError
from helpers import command, set_threshold

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "format1"


@pytest.fixture
def old() -> Manifest:
    """The manifest of a bundle that an earlier version wrote, without a README."""
    bundle = Bundle.open(FIXTURES / "both-each.cmdiad")
    assert README not in bundle.record.files
    return bundle.record


def _fact(text: str, label: str) -> str:
    """Return the text of a label, with its lines joined."""
    match = re.search(rf"^{label} +(.*(?:\n {{14}}.*)*)", text, re.MULTILINE)
    assert match, text
    return " ".join(match[1].split())


def test_readme_says_what_the_manifest_says(exported: Callable[..., Path]) -> None:
    bundle = Bundle.open(exported("rgb"))
    text = (bundle.path / README).read_text(encoding="utf-8")
    assert text.startswith(f"{bundle.name}\n====")
    assert _fact(text, "Inspects") == "gear, modality rgb (camera)"
    assert bundle.record.envelope is not None
    width, height = bundle.record.envelope.sizes[0]
    assert _fact(text, "Input").startswith(f"a colour image with 8 bits per channel of {width}×{height} pixels")
    threshold = _fact(text, "Threshold")
    assert f"a score above {bundle.calibration.score_threshold:.6g} was NG" in threshold
    assert f"{bundle.calibration.false_reject_rate:.2%} of good parts" in threshold
    low, high = bundle.calibration.interval
    assert f"95 % interval {low:.2%} to {high:.2%}, from {bundle.calibration.samples} good parts" in threshold
    assert bundle.calibration.warning in threshold
    assert _fact(text, "Certificate").startswith("fp32 graph within ")
    assert _fact(text, "From") == "not stated"
    assert f"cmdiad {version('cmdiad')} or newer" in text
    assert 'pip install --constraint requirements/locked.txt ".[cpu]"' in text
    assert max(map(len, text.splitlines())) <= 120


def test_readme_is_hashed_and_a_changed_one_is_refused(own_bundle: Path) -> None:
    assert README in Bundle.open(own_bundle).record.files
    with (own_bundle / README).open("a", encoding="utf-8") as file:
        file.write("another threshold\n")
    with pytest.raises(BundleError, match=README):
        Bundle.open(own_bundle)


def test_later_threshold_does_not_make_the_readme_wrong(own_bundle: Path) -> None:
    before = (own_bundle / README).read_text(encoding="utf-8")
    set_threshold(own_bundle, 77.0)
    assert (own_bundle / README).read_text(encoding="utf-8") == before
    assert _fact(before, "Threshold").startswith("at export, ")
    assert "cmdiad-threshold THIS_FOLDER` shows the present one" in _fact(before, "Threshold")


def test_forced_view_is_named(old: Manifest) -> None:
    area = replace(WHOLE_PICTURE, counter_evidence="the picture has structure outside of the part")
    text = _fact(readme_of(replace(old, inspected_area=area), ""), "Area")
    assert text.startswith(
        "the whole picture. WARNING: defects outside of the inspected area are not seen: the picture has structure "
        "outside of the part"
    )


def test_warnings_of_the_training_are_named(old: Manifest) -> None:
    series, weak = "20 good samples make up 5 series", "Only 1 of 8 held-out samples exceed the threshold"
    doubted = replace(old.provenance, data={**old.provenance.data, "series": series, "not_separated": weak})
    text = readme_of(replace(old, provenance=doubted), "")
    assert f"Caution: {series}. Caution: {weak}. The" in _fact(text, "Threshold")
    assert doubted.doubts(1) == (series, weak)
    assert doubted.doubts(2) == (weak,), "near copies no longer matter once another session sets the threshold"
    assert old.provenance.doubts(1) == ()
    assert replace(doubted, data={"series": ["no text"], "not_separated": 3}).doubts(1) == ()


def test_names_cannot_forge_a_line(old: Manifest) -> None:
    category = replace(old.provenance, data={"category": "gear\nFrom          the boss\u202e"})
    text = readme_of(replace(old, provenance=category), "Vision team <vision@example>\u202e, `line 4`")
    assert _fact(text, "From") == "Vision team <vision@example>\\u202e, `line 4`"
    assert _fact(text, "Inspects").startswith("gear\\nFrom the boss\\u202e, modality both")


def test_input_of_both_modalities(old: Manifest) -> None:
    assert _fact(readme_of(old, ""), "Input").endswith(
        "and an organised point cloud in metres of the same size and file name"
    )


@pytest.mark.parametrize("contact", ["line\nbreak", "x" * 201, "  ", "tab\t", 5])
def test_contact_of_the_options(contact: object) -> None:
    assert ExportOptions(contact="Vision team, line 4").contact == "Vision team, line 4"
    with pytest.raises(RecordError, match="contact"):
        ExportOptions(contact=contact)  # type: ignore[arg-type]


@pytest.mark.parametrize("contact", ["line\nbreak", "x" * 201, "  "])
def test_contact_of_the_command_line(contact: str) -> None:
    ended = command(cli, "no-run", "--contact", contact)
    assert ended.code == 2
    assert "is not one line of 1 to 200 printable characters" in ended.err


def test_contact_without_a_bundle() -> None:
    ended = command(cli, "no-run", "--plan", "--contact", "me")
    assert (ended.code, "leave --contact out" in ended.err) == (2, True)
