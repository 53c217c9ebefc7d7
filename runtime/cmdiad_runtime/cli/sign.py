"""`cmdiad-sign`: sign a bundle, so that a line can refuse all others."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

HELP = """Sign BUNDLE with a private key, or create a pair of keys.

The signature (Ed25519) is written next to the manifest as manifest.sig and covers every file of the bundle: a file that
the manifest does not list is refused. `cmdiad-run --require-signature KEY.pub` then refuses bundles without a valid
signature. Changing a threshold (cmdiad-threshold) rewrites the manifest: sign the bundle again. A bundle for whichever
sensors arrive gets one signature for each pattern and one that holds them together.
"""

EXAMPLES = (
    "# writes line7.key (keep this file off the line) and line7.key.pub",
    "cmdiad-sign --new-key line7.key",
    "cmdiad-sign cable.cmdiad --key line7.key",
)

EXIT_CODES = {4: "bundle or key unusable", 5: "package for signatures missing", 6: "output not writable"}


@click.command("cmdiad-sign", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@option_group(
    "Keys",
    click.option("--key", type=click.Path(path_type=Path), help="Private key that signs BUNDLE."),
    click.option(
        "--new-key",
        type=click.Path(path_type=Path),
        help="Path of a new private key. The public key is written next to the private one, with the suffix .pub.",
    ),
)
def cli(bundle: Path | None, key: Path | None, new_key: Path | None) -> None:
    """See HELP."""
    if new_key is not None and bundle is None and key is None:
        _new_key(new_key)
    elif new_key is None and bundle is not None and key is not None:
        _sign(bundle, key)
    else:
        raise click.UsageError("pass BUNDLE and --key, or --new-key alone")


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-sign")


def _new_key(path: Path) -> None:
    from cmdiad_runtime.bundle.signature import new_key

    public = new_key(path)
    click.echo(f"private key: {path} (readable by you only)\npublic key: {public}")


def _sign(bundle: Path, key: Path) -> None:
    from cmdiad_runtime.bundle.change import sign_bundle, sign_pattern_bundle

    signatures = sign_pattern_bundle(bundle, key) if is_pattern_bundle(bundle) else [sign_bundle(bundle, key)]
    for signature in signatures:
        click.echo(f"signature: {signature}")
