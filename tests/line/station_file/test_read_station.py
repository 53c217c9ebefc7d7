"""Station files are read completely, and every mistake is reported at once, with its line and a remedy."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from cmdiad_line.opcua.certificates import own_certificate
from cmdiad_line.station_file.mistakes import StationFileError
from cmdiad_line.station_file.read import read_station
from cmdiad_line.station_file.source import SOURCE_KINDS, FolderSource, SimulatedSource
from cmdiad_line.station_file.station import INSIDE, OUTSIDE, Station
from cmdiad_runtime.support.toml_file.lines import Lines
from cmdiad_runtime.support.toml_file.mistakes import Mistake
from cmdiad_runtime.support.toml_file.read import LARGEST_FILE

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "format1"
XYZ, BOTH = FIXTURES / "xyz-points.cmdiad", FIXTURES / "both-each.cmdiad"
HEAD = '[station]\nname = "Press 3"\nstate = "state"\n'
SOURCE = '[[source]]\nkind = "simulated"\ndelivers = "both"\n'


def station_text(*, head: str = HEAD, recipe: str = "", source: str = SOURCE, more: str = "") -> str:
    return f'{head}[recipe]\nbundle = "{BOTH}"\n{recipe}{source}{more}'


def write(folder: Path, text: str) -> Path:
    path = folder / "station.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> dict[str, Mistake]:
    with pytest.raises(StationFileError) as caught:
        read_station(write(folder, text))
    return {mistake.subject: mistake for mistake in caught.value.mistakes}


def test_smallest_file(tmp_path):
    station = read_station(write(tmp_path, station_text()))
    assert station.name == "Press 3"
    assert station.state == tmp_path / "state"
    assert station.deadline_ms == 1000
    assert station.recipe.bundle == BOTH
    assert station.recipe.id == "both-each"
    assert isinstance(station.sources[0], SimulatedSource)
    assert list(station.outside) == []
    assert not station.pushes


def test_values_of_every_kind(tmp_path):
    (tmp_path / "in").mkdir()
    source = '[[source]]\nkind = "folder"\npath = "in"\ndelivers = "both"\nsettle_ms = 50\n'
    text = station_text(head=HEAD + "frame_megapixels = 2\n", recipe="threshold = 3\n", source=source)
    station = read_station(write(tmp_path, text + '[modbus]\nport = 0\nclients = ["10.0.0.5"]\n'))
    assert station.frame_megapixels == 2.0
    assert station.recipe.threshold == 3.0
    assert isinstance(station.sources[0], FolderSource)
    assert station.sources[0].path == tmp_path / "in"
    assert station.pushes
    assert [name for name, _ in station.outside] == ["modbus"]


def test_every_mistake_is_reported_with_its_line(tmp_path):
    text = (
        HEAD
        + "deadline_ms = 5\nmargin = 3\nframe_slots = 1000\n"
        + f'[recipe]\nbundle = "{BOTH}"\ntreshold = 3\nengine = "gpu"\n'
        + '[[source]]\nkind = "simulated"\nwidth = "wide"\n[[source]]\nkind = "floder"\n'
        + "[web]\nport = true\n[recrods]\n"
    )
    by_subject = mistakes(tmp_path, text)
    assert {subject: mistake.line for subject, mistake in by_subject.items()} == {
        "station.deadline_ms": 4,
        "station.margin": 5,
        "station.frame_slots": 6,
        "recipe.treshold": 9,
        "recipe.engine": 10,
        "source.width": 13,
        "source.kind": 15,
        "web.port": 17,
        "recrods": 18,
    }
    assert "Write margin_ms instead" in str(by_subject["station.margin"])
    assert "Write threshold instead" in str(by_subject["recipe.treshold"])
    assert "Write folder instead" in str(by_subject["source.kind"])
    assert "Write records instead" in str(by_subject["recrods"])
    assert str(by_subject["web.port"]).startswith("line 17: web.port: found True. Expected a whole number. ")


@pytest.mark.parametrize(
    ("text", "subject", "words"),
    [
        ("", "station", "add [station]"),
        ("", "recipe", "add [recipe]"),
        ("", "source", "[[source]]"),
        ("source = 3\n", "source", "[[source]]"),
        ("[station]\n", "station.name", "add name"),
        ("[[station]]\n", "station", "double brackets"),
        ('[source]\nkind = "simulated"\n', "source", "single brackets"),
        ("[[source]]\n", "source.kind", "add the key kind"),
        ("[[source]]\nkind = 3\n", "source.kind", "one of folder, push"),
        ("web = 3\n", "web", "[web]"),
        ("[recipe]\nbundle = 3\n", "recipe.bundle", "a path in quotes"),
        ('[recipe]\nbundle = ""\n', "recipe.bundle", "a path in quotes"),
        ('[recipe]\nbundle = "none.cmdiad"\n', "recipe.bundle", "does not exist"),
        ('[recipe]\nbundle = "station.toml"\n', "recipe.bundle", "an existing folder"),
        ("[station]\ndeadline_ms = 100.5\n", "station.deadline_ms", "a whole number"),
        ('[[source]]\nkind = "simulated"\nfaults = {explode = 0.5}\n', "source.faults", "shares of unplug"),
        ('[[source]]\nkind = "simulated"\nfaults = {delay = 0.6, lose = 0.6}\n', "source.faults", "1 in total"),
        ('[[source]]\nkind = "simulated"\nfaults = {delay = "often"}\n', "source.faults", "a number"),
        ('[[source]]\nkind = "folder"\n', "source.path", "add path"),
        ('[[source]]\nkind = "simulated"\ndelivers = "ir"\n', "source.delivers", "one of rgb, xyz, both"),
        ("[station]\nname = 'a'\nname = 'b'\n", "station.toml", "no TOML"),
        ("[station\n", "station.toml", "no TOML"),
        ('[web]\naddress = "localhost"\n', "web.address", "an IP address"),
        ("[web]\nport = 70000\n", "web.port", "from 0 to 65535"),
    ],
)
def test_mistake_in_a_section(tmp_path, text, subject, words):
    assert words in f"{mistakes(tmp_path, text)[subject]}".replace("Add", "add")


@pytest.mark.parametrize(
    ("more", "subject", "words"),
    [
        ("[web]\nport = 8081\n[modbus]\nport = 8081\n", "web.port", "which [modbus] uses too"),
        ('[web]\naddress = "0.0.0.0"\n', "web.address", "which other machines reach"),
        ('[modbus]\naddress = "192.168.0.2"\n', "modbus.address", "clients"),
        ('[opcua]\naddress = "::"\nencryption = "none"\n', "opcua.address", "sign-and-encrypt"),
        (SOURCE, "source.delivers", "which 'simulated' delivers too"),
        (SOURCE, "source.name", "which another source has too"),
        ('[[source]]\nkind = "push"\n', "source.kind", "no other source"),
        ("[web]\nport = 8081\nprt = 1\n[modbus]\nport = 8081\n", "web.port", "which [modbus] uses too"),
    ],
)
def test_mistake_between_sections(tmp_path, more, subject, words):
    assert words in str(mistakes(tmp_path, station_text(more=more))[subject])


def test_push_needs_a_server(tmp_path):
    text = station_text(source='[[source]]\nkind = "push"\ndelivers = "both"\n')
    assert "[web]" in str(mistakes(tmp_path, text)["source.kind"])
    assert read_station(write(tmp_path, text.replace('"state"', '"/tmp/s"') + "[web]\n")).pushes
    long = text.replace('"state"', f'"{"s" * 90}"') + "[web]\n"
    assert "shorter state folder" in str(mistakes(tmp_path, long)["source.kind"])


def test_bundle_needs_a_sensor_that_no_source_delivers(tmp_path):
    mistake = mistakes(tmp_path, station_text(source='[[source]]\nkind = "simulated"\ndelivers = "rgb"\n'))
    assert "no source that delivers xyz" in str(mistake["source.delivers"])
    text = station_text(source='[[source]]\nkind = "simulated"\ndelivers = "xyz"\n').replace(str(BOTH), str(XYZ))
    assert read_station(write(tmp_path, text)).recipe.id == "xyz-points"


def test_two_servers_on_free_ports_are_no_mistake(tmp_path):
    station = read_station(write(tmp_path, station_text(more="[web]\nport = 0\n[modbus]\nport = 0\n")))
    assert [name for name, _ in station.outside] == ["modbus", "web"]


def test_damaged_bundle(tmp_path):
    bundle = Path(shutil.copytree(XYZ, tmp_path / "own.cmdiad"))
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"xyz", b"xyy", 1))
    text = station_text().replace(str(BOTH), "own.cmdiad")
    assert "line 5: recipe.bundle" in str(mistakes(tmp_path, text)["recipe.bundle"])


def test_a_running_station_reads_its_file_after_the_bundle_was_moved(tmp_path):
    text = station_text().replace(str(BOTH), "own.cmdiad")
    (tmp_path / "run").mkdir()
    station = read_station(write(tmp_path / "run", text), folder=tmp_path, running=True)
    assert station.recipe.bundle == tmp_path / "own.cmdiad"
    with pytest.raises(StationFileError, match="does not exist"):
        read_station(tmp_path / "run" / "station.toml", folder=tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"#" * (LARGEST_FILE + 1), b"a = " + b"9" * 5000, b"a = " + b"[" * 100_000, None]
)
def test_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "station.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StationFileError, match=r"station\.toml"):
        read_station(path)


def test_message_names_the_command_that_checks_the_file(tmp_path):
    path = write(tmp_path, HEAD)
    with pytest.raises(StationFileError) as caught:
        read_station(path)
    assert f"cmdiad-line check {path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 10


def test_every_section_has_a_description_for_each_key():
    for kind in (Station, *OUTSIDE.values(), *INSIDE.values(), *SOURCE_KINDS.values()):
        described = " ".join(parent.__doc__ or "" for parent in kind.__mro__)
        assert [entry.name for entry in fields(kind) if f" {entry.name}: " not in described] == []


def test_lines_of_keys_and_repeated_sections():
    lines = Lines('a = 1\n[[source]] # first\nkind = "x"\n\n[[source]]\n "kind" = 2\n')
    assert lines.of("", "a") == 1
    assert (lines.of("source", "kind"), lines.of("source", "kind", index=1)) == (3, 6)
    assert lines.of("source", "other", index=1) == 5
    assert lines.of("nowhere", "key") == 0


@pytest.mark.parametrize(("delivers", "per_pixel"), [(["rgb"], 3), (["xyz"], 12), (["both"], 15), (["rgb", "xyz"], 15)])
def test_slots_have_room_for_what_the_sources_deliver(tmp_path, delivers, per_pixel):
    sources = [f'[[source]]\nkind = "simulated"\nname = "{name}"\ndelivers = "{name}"\n' for name in delivers]
    text = station_text(head=HEAD + "frame_megapixels = 2\n", source="".join(sources))
    path = write(tmp_path, text.replace(str(BOTH), str(XYZ)))
    station = read_station(path, running=True)
    assert station.slot_bytes == 2_000_000 * per_pixel


@pytest.mark.parametrize(
    "output",
    [
        "[gpio]\ninputs = {trigger = 2}\noutputs = {job_pass = 3}\n",
        '[modbus]\naddress = "10.0.0.2"\nclients = ["10.0.0.5"]\n',
    ],
)
def test_simulated_sensor_must_not_drive_a_plant_by_mistake(tmp_path, output):
    assert "simulation = true" in str(mistakes(tmp_path, station_text(more=output))["source.kind"])
    assert read_station(write(tmp_path, station_text(head=HEAD + "simulation = true\n", more=output))).simulation


@pytest.mark.parametrize("state", ["taken", "taken/below"])
def test_file_in_the_place_of_the_state_folder(tmp_path, state):
    (tmp_path / "taken").write_text("a file")
    text = station_text(head=HEAD.replace('"state"', f'"{state}"'))
    mistake = mistakes(tmp_path, text)["station.state"]
    assert (mistake.line, mistake.problem) == (3, f"{tmp_path / 'taken'}, which is no folder")


def test_state_folder_with_a_path_that_is_too_long_for_its_socket(tmp_path):
    text = station_text(
        head=HEAD.replace('"state"', f'"{"s" * 120}"'),
        source='[[source]]\nkind = "push"\ndelivers = "both"\n',
        more="[web]\n",
    )
    assert "bytes in its path" in str(mistakes(tmp_path, text)["source.kind"])


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two certificates with their keys, a key with a password, and a file with other content."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("one", "other"):
        own_certificate(folder / name, name, "127.0.0.1")
    key = load_pem_private_key((folder / "one" / "server.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "text").write_text("no key")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "subject", "problem"),
    [
        ("one/server.pem", "one/server.key", "", ""),
        ("text", "one/server.key", "certificate", "no certificate"),
        ("one/server.pem", "text", "key", "no private key"),
        ("one/server.pem", "locked.key", "key", "with a password"),
        ("one/server.pem", "other/server.key", "key", "of another certificate"),
    ],
)
@pytest.mark.parametrize("section", ["web", "opcua", "mqtt"])
def test_certificate_or_key_that_cannot_be_used(tmp_path, keys, section, certificate, key, subject, problem):
    name = "key" if section == "mqtt" else "private_key"
    tls = "tls = true\n" if section == "mqtt" else ""
    more = f'[{section}]\n{tls}certificate = "{keys / certificate}"\n{name} = "{keys / key}"\n'
    if not problem:
        read_station(write(tmp_path, station_text(more=more)))
        return
    subject = f"{section}.{name if subject == 'key' else subject}"
    (mistake,) = mistakes(tmp_path, station_text(more=more)).values()
    assert mistake.subject == subject
    assert problem in mistake.problem
