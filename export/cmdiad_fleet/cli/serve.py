"""`cmdiad-fleet serve`: inspect files over HTTP with Ray Serve, for sites without containers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.cli.options import require_signature
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.loopback import is_loopback
from cmdiad_runtime.support.output import say

if TYPE_CHECKING:
    from cmdiad_runtime.engines import EngineName

TOKEN = "CMDIAD_SERVE_TOKEN"  # noqa: S105 - the name of the variable
_SHORTEST_TOKEN = 20
_LONGEST_TOKEN = 4096

HELP = """Inspect files over HTTP with each BUNDLE, until Ctrl-C or SIGTERM.

POST /bundles/DIGEST takes the files of one sample as multipart/form-data, in the fields rgb and xyz, and answers with
the line of results.jsonl. GET /bundles lists the digests. Every process runs the self-test of a bundle before the
first verdict. Only the status 200 with the verdict OK means OK.

Listens on this machine only, unless --host names another address. Then a token is needed, from --token-file or from
CMDIAD_SERVE_TOKEN in the environment. Put a proxy with TLS in front of the service on any other network.
"""
EXAMPLES = (
    "cmdiad-fleet serve cable.cmdiad gear.cmdiad --replicas 2",
    "# for other machines, behind a proxy with TLS",
    "cmdiad-fleet serve cable.cmdiad --host 10.0.0.7 --token-file /etc/cmdiad/serve.token",
)
EXIT_CODES = {4: "bundle unusable", 5: "a package is missing, the port is in use, or a self-test failed"}


@click.command("serve", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@option_group(
    "Network",
    click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address that the service listens on."),
    click.option("--port", type=click.IntRange(1, 65535), default=8000, help="TCP port."),
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="File with the token that every request must contain.  [default: CMDIAD_SERVE_TOKEN in the environment]",
    ),
    click.option(
        "--largest-upload",
        metavar="MIB",
        type=click.IntRange(1, 2048),
        default=128,
        help="Largest size of a request in MiB.",
    ),
)
@option_group(
    "Inspection",
    click.option("--engine", type=click.Choice(ENGINE_NAMES), default="cpu", help="Engine, as in cmdiad-run."),
    click.option("--replicas", type=click.IntRange(1, 256), default=1, help="Processes that inspect."),
    require_signature("the bundles"),
)
def serve(  # noqa: PLR0913 - one parameter for each option
    bundles: tuple[Path, ...],
    host: str,
    port: int,
    token_file: Path | None,
    largest_upload: int,
    engine: EngineName,
    replicas: int,
    require_signature: Path | None,
) -> int:
    """See HELP."""
    token = _token(token_file)
    if not token and not is_loopback(host):
        raise click.UsageError(f"--host {host} is reachable by other machines: pass --token-file, or set {TOKEN}")
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.manifest import manifest_hash

    opened = [Bundle.open(path, require_signature=require_signature) for path in bundles]
    by_digest = {manifest_hash(bundle.manifest): bundle for bundle in opened}

    from cmdiad_fleet.cluster import ray_cluster

    with ray_cluster():
        from cmdiad_fleet.serving.ray_application import PREFIX, Service, hash_of
        from cmdiad_fleet.serving.run_service import running_service, serve_until_signal

        service = Service(
            bundles={digest: bundle.path.resolve() for digest, bundle in by_digest.items()},
            names={digest: bundle.name for digest, bundle in by_digest.items()},
            engine=engine,
            replicas=replicas,
            largest=largest_upload << 20,
            token_sha256=hash_of(token) if token else "",
        )
        with running_service(service, host, port):
            for digest, name in service.names.items():
                click.echo(f"{printable(name)}\thttp://{host}:{port}{PREFIX}/{digest}")
            say("all self-tests passed; serving until Ctrl-C")
            serve_until_signal()
    return 0


def _token(file: Path | None) -> str:
    """Return the token of the file or the environment, or "" without one."""
    text = os.environ.get(TOKEN, "")
    if file is not None:
        try:
            text = file.read_bytes()[: _LONGEST_TOKEN + 1].decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token-file cannot be read: {cause_of(error)}") from error
    token = text.strip()
    if (token or file is not None) and not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        raise click.UsageError(f"a token needs at least {_SHORTEST_TOKEN} characters: openssl rand -hex 32")
    return token
