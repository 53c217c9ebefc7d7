"""A pull leaves a complete and proven bundle or nothing, whatever a registry, mirror or archive does."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import shutil
import tarfile
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cmdiad_fleet.artefact.artefact import build_artefact
from cmdiad_fleet.artefact.describe import KEY_FINGERPRINT, describe
from cmdiad_fleet.artefact.place import PASSWORD, TOKEN, USER, Access, RegistryError, open_place
from cmdiad_fleet.artefact.proof import Proof
from cmdiad_fleet.artefact.publish import open_bundle_to_publish, publish
from cmdiad_fleet.artefact.pull import Source, pull
from cmdiad_fleet.artefact.reference import Reference
from cmdiad_fleet.cli.fleet import cli
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.change import sign_bundle
from cmdiad_runtime.bundle.golden import read_golden, write_golden
from cmdiad_runtime.bundle.manifest import write_manifest
from cmdiad_runtime.bundle.signature import fingerprint_of, new_key
from cmdiad_runtime.errors import BundleError, CertificateError, OutputError
from cmdiad_runtime.support.reporter import SILENT
from graphs import tiny_bundle
from helpers import RecordingReporter, assert_refused, command, flip_byte
from oci_stand_in import send, stand_in

UNSIGNED = Proof(public_key=None)
NOBODY = {"DOCKER_CONFIG": "/nowhere"}


def access(**environment):
    return Access(environment={**NOBODY, **environment}, attempts=3, wait_s=0)


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "tiny.cmdiad")


@pytest.fixture
def described(bundle):
    return describe(Bundle.open(bundle), None)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "line" / "gear.cmdiad"


@pytest.fixture(autouse=True)
def line(tmp_path):
    folder = tmp_path / "line"
    folder.mkdir()
    return folder


@contextmanager
def serving(folder, artefact=None):
    """Serve a bundle under the tag 7, as the artefact that follows from the bundle or as another one."""
    own = describe(Bundle.open(folder), None).artefact
    artefact = artefact or own
    with stand_in() as state:
        state.manifests |= {"7": artefact.content, artefact.digest: artefact.content}
        state.blobs |= {layer.digest: (folder / layer.title).read_bytes() for layer in own.layers}
        yield state


def fetch(state, target, *mirrors, name="parts/gear:7", proof=UNSIGNED, reporter=SILENT, **environment):
    source = Source(
        reference=Reference.parse(name if name.startswith("oci:") else f"{state.host}/{name}"),
        mirrors=tuple(map(Reference.parse, mirrors)),
        access=access(**environment),
    )
    return pull(source, target, proof, reporter)


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def graph_of(described):
    return next(layer for layer in described.artefact.layers if layer.title == "graph.onnx")


def test_a_pulled_bundle_is_the_published_one_and_nothing_else_is_left(bundle, described, target, line):
    with serving(bundle) as state:
        pulled = fetch(state, target)
        assert str(pulled.address) == f"{state.host}/parts/gear@{described.artefact.digest}"
    assert pulled.test.comparison.passed
    assert content_of(target) == content_of(bundle)
    assert [path.name for path in line.iterdir()] == ["gear.cmdiad"]


def test_a_transfer_that_breaks_off_again_and_again_continues_by_ranges(bundle, target):
    large = with_file(bundle, "notes.bin", bytes(range(256)) * (5 << 12))
    with serving(large) as state:
        state.cut = 1 << 20  # An attempt that brings a megabyte does not count as a failure.
        fetch(state, target)
        assert [extent for extent in state.header("Range") if extent] == [f"bytes={n << 20}-" for n in range(1, 5)]
    assert content_of(target) == content_of(large)


def with_file(bundle, name, content):
    """Add a file to a bundle, listed in the manifest."""
    manifest = dict(Bundle.open(bundle).manifest)
    (bundle / name).write_bytes(content)
    write_manifest(bundle, manifest)
    return bundle


def test_a_registry_that_breaks_off_for_good_is_given_up_and_the_next_pull_continues(bundle, target, line):
    large = with_file(bundle, "notes.bin", bytes(range(256)) * (5 << 12))
    reporter = RecordingReporter()
    with serving(large) as state:
        state.cut = 600_000
        with pytest.raises(RegistryError, match="broke off"):
            fetch(state, target, reporter=reporter)
        attempts = [line.partition(". ")[2] for line in reporter.lines if "broke off" in line]
        assert attempts == ["Attempt 2 of 3 follows in 0 s.", "Attempt 3 of 3 follows in 0 s."]
        assert not target.exists()
        (partial,) = (line / ".gear.cmdiad.pull").glob("*.partial")
        received = partial.stat().st_size
        assert received > 500_000
        state.cut, state.seen = None, []
        fetch(state, target)
        assert [extent for extent in state.header("Range") if extent] == [f"bytes={received}-"]
    assert content_of(target) == content_of(large)
    assert [path.name for path in line.iterdir()] == ["gear.cmdiad"]


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_partial_file_of_other_bytes_is_received_again_from_its_start(bundle, described, target, line, ignore_range):
    staging = line / ".gear.cmdiad.pull"
    staging.mkdir()
    graph = graph_of(described)
    (staging / f"{graph.sha256}.partial").write_bytes(b"?" * 10)
    (staging / ("0" * 64)).write_bytes(b"a blob of an older artefact")
    with serving(bundle) as state:
        state.ignore_range = ignore_range
        fetch(state, target)
    assert content_of(target) == content_of(bundle)
    assert [path.name for path in line.iterdir()] == ["gear.cmdiad"]


def test_a_received_blob_is_verified_again_before_it_is_used(bundle, described, target, line):
    staging = line / ".gear.cmdiad.pull"
    staging.mkdir()
    graph = graph_of(described)
    content = (bundle / "graph.onnx").read_bytes()
    (staging / graph.sha256).write_bytes(b"?" + content[1:])
    with serving(bundle) as state:
        fetch(state, target)
    assert content_of(target) == content_of(bundle)


def wrong_bytes(state, digest):
    state.blobs[digest] = b"?" + state.blobs[digest][1:]


def wrong_size(state, digest):
    state.blobs[digest] += b"more"


def endless(state, digest):
    def answer(handler):
        if not handler.path.endswith(digest):
            return False
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            handler.close_connection = True
        return True

    state.answer = answer


def wrong_range(state, digest):
    state.cut = 100

    def answer(handler):
        if not handler.path.endswith(digest) or "Range" not in handler.headers:
            return False
        return send(handler, 206, state.blobs[digest][100:], Content_Range=f"bytes 0-1/{1 << 40}")

    state.answer = answer


@pytest.mark.parametrize("lie", [wrong_bytes, wrong_size, endless, wrong_range])
@pytest.mark.failure_mode("A registry that sends other bytes, more bytes or no end of bytes")
def test_a_registry_that_lies_is_refused_and_a_mirror_with_the_right_bytes_helps(lie, bundle, described, target, line):
    digest = graph_of(described).digest
    with serving(bundle) as liar, serving(bundle) as mirror:
        lie(liar, digest)
        with pytest.raises(RegistryError, match=liar.host):
            fetch(liar, target)
        assert not target.exists()
        fetch(liar, target, f"{mirror.host}/copy/gear")
    assert content_of(target) == content_of(bundle)


def test_an_endless_manifest_is_refused(bundle, target):
    with serving(bundle) as state:
        endless(state, "7")
        with pytest.raises(RegistryError, match="more than 4194304 bytes"):
            fetch(state, target)


def test_a_moved_tag_is_refused_where_a_digest_is_pinned(bundle, described, target, tmp_path):
    other = describe(Bundle.open(tiny_bundle(tmp_path / "other.cmdiad", name="other")), None).artefact
    digest = described.artefact.digest
    with serving(bundle) as state:
        state.manifests = {"7": other.content, digest: other.content}
        with pytest.raises(RegistryError, match=f"Expected the digest {digest}"):
            fetch(state, target, name=f"parts/gear:7@{digest}")
    assert not target.exists()


def test_mirrors_are_tried_in_their_order(bundle, target, tmp_path):
    archive = tmp_path / "gear.tar"
    publish(Bundle.open(bundle), None, open_place(Reference.parse(f"oci:{archive}"), access()), "7", SILENT)
    with stand_in() as empty:
        pulled = fetch(empty, target, f"oci:{tmp_path}/nowhere", f"oci:{archive}")
        with pytest.raises(RegistryError, match="no such artefact"):
            fetch(empty, target.with_name("x"), f"oci:{tmp_path}/nowhere")
    assert pulled.place == f"oci:{archive}"
    assert content_of(target) == content_of(bundle)


# --- credentials ----------------------------------------------------------------------------------------------------


def asks_for(challenge):
    def answer(handler):
        return "Authorization" not in handler.headers and send(handler, 401, WWW_Authenticate=challenge)

    return answer


SECRET = {USER: "line7", PASSWORD: "line7-secret"}
BASIC = "Basic " + base64.b64encode(b"line7:line7-secret").decode()


def test_credentials_are_sent_when_the_registry_asks_and_never_to_a_mirror_or_another_host(bundle, described, target):
    digest = graph_of(described).digest
    with serving(bundle) as state, serving(bundle) as elsewhere:

        def answer(handler):
            if asks_for('Basic realm="plant"')(handler):
                return True
            if handler.path.endswith(digest):
                return send(handler, 307, Location=f"http://{elsewhere.host}{handler.path}")
            return False

        state.answer = answer
        elsewhere.answer = lambda handler: handler.path.endswith("manifests/7") and send(handler, 404)
        fetch(state, target, f"{elsewhere.host}/parts/gear", **SECRET)
        assert {*state.header("Authorization")} == {"", BASIC}
        assert elsewhere.seen and {*elsewhere.header("Authorization")} == {""}
        asking = asks_for('Basic realm="plant"')
        elsewhere.answer = asking
        state.answer = lambda handler: send(handler, 404)
        with pytest.raises(RegistryError, match="no credentials"):
            fetch(state, target.with_name("second.cmdiad"), f"{elsewhere.host}/parts/gear", **SECRET)
        assert {*elsewhere.header("Authorization")} == {""}


def test_a_registry_that_sends_the_credentials_elsewhere_is_refused(bundle, target):
    with serving(bundle) as state, stand_in() as thief:
        state.answer = asks_for(f'Bearer realm="http://{thief.host}/token",service="x"')
        with pytest.raises(RegistryError, match="a request to send the credentials to"):
            fetch(state, target, **SECRET)
        assert thief.seen == []


def test_a_token_is_fetched_from_the_registry_itself(bundle, target):
    with serving(bundle) as state:
        asking = asks_for(f'Bearer realm="http://{state.host}/token",service="x",scope="pull"')

        def answer(handler):
            if not handler.path.startswith("/token"):
                return asking(handler)
            assert handler.path == "/token?service=x&scope=pull"
            return send(handler, 200, b'{"token": "abc"}')

        state.answer = answer
        fetch(state, target, **SECRET)
        assert {*state.header("Authorization")} == {"", BASIC, "Bearer abc"}


def test_a_token_of_the_environment_is_used_as_it_is(bundle, target):
    with serving(bundle) as state:
        fetch(state, target, **{TOKEN: "given-token"})
        assert {*state.header("Authorization")} == {"Bearer given-token"}


def test_refused_credentials_are_one_line_without_the_credentials(bundle, target, monkeypatch):
    for name, value in (SECRET | NOBODY).items():
        monkeypatch.setenv(name, value)
    with serving(bundle) as state:
        state.answer = lambda handler: send(handler, 401, WWW_Authenticate='Basic realm="plant"')
        ended = command(cli, "pull", f"{state.host}/parts/gear:7", "--out", target, "--allow-unsigned")
    assert_refused(ended, 1, state.host, "credentials that the registry refuses")
    assert "line7-secret" not in ended.out + ended.err
    assert BASIC.removeprefix("Basic ") not in ended.out + ended.err


@pytest.mark.parametrize("place", ["http://example.com/x", "file:///etc/passwd", "http://[", "//user:secret@h/x"])
def test_a_redirect_without_tls_to_another_machine_is_refused(place, bundle, target):
    with serving(bundle) as state:
        state.answer = lambda handler: send(handler, 302, Location=place)
        with pytest.raises(RegistryError, match="a redirect to"):
            fetch(state, target)


def test_the_body_of_a_redirect_is_not_read(bundle, target):
    def answer(handler):
        if not handler.path.endswith("/manifests/7"):
            return False
        handler.send_response(302)
        handler.send_header("Location", handler.path.replace("/7", "/8"))
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(bytes(1 << 16))
        handler.close_connection = True
        return True

    with serving(bundle) as state:
        state.answer = answer
        state.manifests["8"] = state.manifests["7"]
        fetch(state, target)
    assert content_of(target) == content_of(bundle)


def test_endless_redirects_end(bundle, target):
    with serving(bundle) as state:
        state.answer = lambda handler: send(handler, 302, Location=handler.path)
        with pytest.raises(RegistryError, match="redirects"):
            fetch(state, target)


# --- uploads --------------------------------------------------------------------------------------------------------


def send_to(state, bundle, **environment):
    place = open_place(Reference.parse(f"{state.host}/parts/gear"), access(**environment))
    with closing(place):
        return publish(Bundle.open(bundle), None, place, "7", SILENT)


def test_uploads_that_fail_are_tried_again_and_the_tag_comes_last(bundle, described, target):
    failed = set()
    order = []

    def answer(handler):
        """Fail once for each upload, in three ways."""
        if handler.command != "PUT":
            return False
        order.append(handler.path)
        if handler.path in failed:
            return False
        failed.add(handler.path)
        handler.close_connection = True
        return len(failed) % 2 == 0 or send(handler, 503)  # No answer at all, or a status that passes.

    with stand_in() as state:
        state.answer = answer
        assert send_to(state, bundle).digest == described.artefact.digest
        assert order[-1].endswith("/manifests/7")
        state.answer = lambda handler: False
        fetch(state, target)
    assert content_of(target) == content_of(bundle)


def test_a_registry_that_keeps_another_manifest_is_refused(bundle, described):
    with stand_in() as state:
        state.answer = lambda handler: handler.command == "GET" and send(handler, 200, b"{}")
        with pytest.raises(RegistryError, match="another manifest"):
            send_to(state, bundle)


def test_a_password_is_not_sent_to_the_place_of_an_upload_on_another_host(bundle):
    heard = []
    with stand_in() as state, stand_in() as storage:
        asking = asks_for('Basic realm="plant"')
        storage.answer = lambda handler: heard.append(handler.headers.get("Authorization")) or False

        def answer(handler):
            if asking(handler):
                return True
            if handler.command == "POST":
                return send(handler, 202, Location=f"http://{storage.host}/v2/x/blobs/uploads/1?state=a")
            return False

        state.answer = answer
        send_to(state, bundle, **SECRET)
    assert heard and {*heard} == {None}


# --- trust ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "line.key", new_key(tmp_path / "line.key")


def signed(bundle, keys):
    sign_bundle(bundle, keys[0])
    return describe(open_bundle_to_publish(bundle, keys[1]), keys[1]).artefact


def test_a_signed_bundle_passes_with_its_key_and_states_the_key(bundle, target, keys):
    artefact = signed(bundle, keys)
    assert artefact.annotations[KEY_FINGERPRINT] == fingerprint_of(keys[1])
    with serving(bundle, artefact) as state:
        fetch(state, target, proof=Proof(public_key=keys[1]))
    assert content_of(target) == content_of(bundle)


@pytest.mark.failure_mode("A bundle in a registry without the required signature")
def test_an_unsigned_bundle_is_refused_before_its_large_files_are_received(bundle, target, keys):
    with serving(bundle) as state:
        with pytest.raises(BundleError, match="no signature"):
            fetch(state, target, proof=Proof(public_key=keys[1]))
        assert len(state.seen) == 2  # the manifest of the artefact, and that of the bundle
    assert not target.exists()


def test_a_bundle_of_another_key_is_refused(bundle, target, keys, tmp_path):
    artefact = signed(bundle, keys)
    other = new_key(tmp_path / "other.key")
    with serving(bundle, artefact) as state, pytest.raises(BundleError, match="not this key's"):
        fetch(state, target, proof=Proof(public_key=other))
    assert not target.exists()


def test_neither_key_nor_consent_is_a_wrong_command_line(target, keys):
    for options in ([], ["--allow-unsigned", "--public-key", keys[1]]):
        ended = command(cli, "pull", "reg.plant/gear:7", "--out", target, *options)
        assert ended.code == 2
        assert "--public-key KEY.pub" in ended.err


def test_figures_that_the_bundle_does_not_have_are_refused(bundle, described, target):
    own = described.artefact
    annotations = {**own.annotations, "vnd.cmdiad.certificate.score.difference": "0.5"}
    forged = build_artefact(own.config, own.layers, annotations)
    with serving(bundle, forged) as state, pytest.raises(BundleError, match="score.difference"):
        fetch(state, target)
    assert not target.exists()


def test_layers_that_the_manifest_does_not_list_are_refused(bundle, described, target):
    own = described.artefact
    fewer = build_artefact(own.config, [layer for layer in own.layers if layer.title != "golden.npz"], own.annotations)
    with serving(bundle, fewer) as state, pytest.raises(BundleError, match=r"golden\.npz"):
        fetch(state, target)


@pytest.mark.failure_mode("A pulled bundle whose self-test fails on this machine")
def test_a_bundle_whose_self_test_fails_here_gets_no_name(bundle, target, line):
    manifest = dict(Bundle.open(bundle).manifest)
    golden = [replace(sample, score=sample.score + 1) for sample in read_golden(bundle / "golden.npz")]
    write_golden(bundle / "golden.npz", golden)
    write_manifest(bundle, manifest)
    with serving(bundle) as state, pytest.raises(CertificateError) as raised:
        fetch(state, target)
    assert str(line) not in str(raised.value)  # The temporary folder is gone.
    assert not target.exists()


# --- targets --------------------------------------------------------------------------------------------------------


def test_the_same_bundle_again_is_proven_again_and_another_one_is_not_replaced(bundle, target, tmp_path):
    with serving(bundle) as state:
        assert fetch(state, target).received
        state.seen = []
        assert not fetch(state, target).received
        assert len(state.seen) == 1
    other = tiny_bundle(tmp_path / "other.cmdiad", name="other")
    before = content_of(target)
    with serving(other) as state, pytest.raises(OutputError, match="gear-2.cmdiad is free"):
        fetch(state, target)
    assert content_of(target) == before


def test_a_damaged_target_is_not_called_the_same(bundle, target):
    with serving(bundle) as state:
        fetch(state, target)
        flip_byte(target / "graph.onnx")
        with pytest.raises(OutputError):
            fetch(state, target)


def test_a_full_disk_is_refused_before_anything_is_received(bundle, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with serving(bundle) as state, pytest.raises(OutputError, match="0 MiB free"):
        fetch(state, target)


@pytest.mark.failure_mode("A disk that becomes full during a pull")
def test_a_disk_that_becomes_full_is_an_error_about_the_target(bundle, target, tmp_path, monkeypatch):
    published(bundle, f"oci:{tmp_path}/a.tar")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmdiad_fleet.artefact.download._transfer", full)
    ended = command(cli, "pull", f"oci:{tmp_path}/a.tar:7", "--out", target, "--allow-unsigned")
    assert_refused(ended, 6, str(target), "no space left on device", "Free some space")
    assert not target.exists()


# --- layouts and archives -------------------------------------------------------------------------------------------


def published(bundle, name, tag="7"):
    reference = Reference.parse(name)
    return publish(Bundle.open(bundle), None, open_place(reference, access()), tag, SILENT)


def test_archives_of_one_bundle_are_equal_byte_by_byte(bundle, tmp_path):
    published(bundle, f"oci:{tmp_path}/a.tar")
    (bundle / "graph.onnx").touch()
    published(bundle, f"oci:{tmp_path}/b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with pytest.raises(OutputError, match="which holds one artefact"):
        published(bundle, f"oci:{tmp_path}/a.tar")


def test_a_layout_holds_many_artefacts_and_a_tag_moves(bundle, target, tmp_path):
    other = tiny_bundle(tmp_path / "other.cmdiad", name="other")
    name = f"oci:{tmp_path}/layout"
    first, second = published(bundle, name), published(other, name)
    assert first.present == 0
    assert second.present > 0  # The same graph and golden samples.
    assert fetch(None, target, name=f"{name}:7").artefact.digest == second.digest
    assert fetch(None, target.with_name("old"), name=f"{name}@{first.digest}").artefact.digest == first.digest
    again = published(bundle, name, tag="8")
    assert (again.sent, again.digest) == (0, first.digest)
    with pytest.raises(RegistryError, match="2 artefacts and no tag|no tag or digest"):
        fetch(None, target.with_name("third"), name=name)
    with pytest.raises(RegistryError, match="no tag 9"):
        fetch(None, target.with_name("third"), name=f"{name}:9")


def repacked(archive, change):
    """Write an archive again with changed members."""
    with tarfile.open(archive) as source:
        members = [(member, source.extractfile(member).read()) for member in source]
    with tarfile.open(archive, "w") as out:
        for member, content in members:
            change(member)
            out.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return archive


def as_link(member):
    if member.size > 2000:
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"


def outside(member):
    if member.size > 2000:
        member.name = f"../../{member.name}"


@pytest.mark.parametrize("change", [as_link, outside])
@pytest.mark.failure_mode("An archive with links or paths that lead elsewhere")
def test_nothing_of_a_malicious_archive_reaches_the_disk(change, bundle, target, line, tmp_path):
    archive = tmp_path / "gear.tar"
    published(bundle, f"oci:{archive}")
    repacked(archive, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RegistryError, match="no readable blobs"):
        fetch(None, target, name=f"oci:{archive}:7")
    shutil.rmtree(line / ".gear.cmdiad.pull", ignore_errors=True)
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path.exists()]


@pytest.mark.parametrize("kept", [0, 1000, 0.5])
def test_a_cut_archive_is_one_error(kept, bundle, target, tmp_path):
    archive = tmp_path / "gear.tar"
    published(bundle, f"oci:{archive}")
    content = archive.read_bytes()
    archive.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(RegistryError):
        fetch(None, target, name=f"oci:{archive}:7")
    assert not target.exists()


def test_a_layout_with_wrong_bytes_is_refused(bundle, described, target, tmp_path):
    published(bundle, f"oci:{tmp_path}/layout")
    flip_byte(tmp_path / "layout/blobs/sha256" / graph_of(described).sha256)
    with pytest.raises(RegistryError, match="other bytes"):
        fetch(None, target, name=f"oci:{tmp_path}/layout:7")
    published(bundle, f"oci:{tmp_path}/layout")  # Publishing again repairs the blob.
    fetch(None, target, name=f"oci:{tmp_path}/layout:7")


def test_an_archive_that_is_a_pipe_is_refused_at_once(target, tmp_path):
    os.mkfifo(tmp_path / "gear.tar")
    with pytest.raises(RegistryError, match="a pipe, not a file"):
        fetch(None, target, name=f"oci:{tmp_path}/gear.tar:7")


def test_verify_prints_figures_and_keeps_nothing(bundle, described, tmp_path):
    published(bundle, f"oci:{tmp_path}/gear.tar")
    before = sorted(tmp_path.rglob("*"))
    ended = command(cli, "verify", f"oci:{tmp_path}/gear.tar:7", "--allow-unsigned")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == described.artefact.digest
    assert "vnd.cmdiad.certificate.samples: 3" in ended.out
    folder = command(cli, "verify", bundle, "--allow-unsigned", "--digest", described.artefact.digest)
    assert folder.out == ended.out
    assert sorted(tmp_path.rglob("*")) == before
    assert_refused(
        command(cli, "verify", bundle, "--allow-unsigned", "--digest", f"sha256:{'0' * 64}"), 4, "the digest"
    )
    flip_byte(bundle / "graph.onnx")
    assert_refused(command(cli, "verify", bundle, "--allow-unsigned"), 4, "hash")


def test_a_layout_is_verified_by_its_path_too(bundle, described, tmp_path):
    for name in ("layout", "gear.tar"):
        published(bundle, f"oci:{tmp_path / name}")
        ended = command(cli, "verify", tmp_path / name, "--allow-unsigned")
        assert ended.out.startswith(described.artefact.digest), ended.err


@pytest.mark.parametrize("digest", ["sha256:12", "sha256:../../x", "md5:" + "0" * 32, 5, None])
def test_a_layout_with_a_damaged_index_is_left_for_a_mirror(digest, bundle, target, tmp_path):
    published(bundle, f"oci:{tmp_path}/layout")
    published(bundle, f"oci:{tmp_path}/gear.tar")
    (tmp_path / "layout/index.json").write_text(json.dumps({"manifests": [{"digest": digest}]}))
    with pytest.raises(RegistryError, match="damaged index"):
        fetch(None, target, name=f"oci:{tmp_path}/layout:7")
    fetch(None, target, f"oci:{tmp_path}/gear.tar", name=f"oci:{tmp_path}/layout:7")
    assert content_of(target) == content_of(bundle)


@pytest.mark.parametrize("place", ["/", "."])
def test_a_target_without_a_name_or_in_use_is_refused(place, bundle, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with serving(bundle) as state, pytest.raises(OutputError):
        fetch(state, Path(place))


def test_nothing_is_written_into_a_bundle(bundle, tmp_path):
    published(bundle, f"oci:{tmp_path}/gear.tar")
    before = content_of(bundle)
    for words in (
        ("publish", bundle, f"oci:{bundle}/layout:7"),
        ("publish", bundle, f"oci:{bundle}/gear.tar:7"),
        ("pull", f"oci:{tmp_path}/gear.tar:7", "--out", bundle / "gear.cmdiad", "--allow-unsigned"),
    ):
        assert_refused(command(cli, *words), 6, "a place outside of bundles")
    assert content_of(bundle) == before


def test_a_proxy_is_not_used_for_a_registry_of_this_machine(bundle, target, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(bundle) as state:
        fetch(state, target)
