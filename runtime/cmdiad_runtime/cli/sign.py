"""`cmdiad-sign`: sign a bundle, so that a line can refuse all others."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_runtime.support.command_line import run_command

HELP = """Sign BUNDLE with a private key, or make a pair of keys.

The signature (Ed25519) is written beside the manifest as manifest.sig. It covers every file that the manifest lists.
`cmdiad-run --require-signature KEY.pub` then refuses bundles without it. Changing a threshold (cmdiad-threshold)
rewrites the manifest: sign again.

\b
cmdiad-sign --new-key line7.key          writes line7.key (keep it off the line) and line7.key.pub
cmdiad-sign BUNDLE --key line7.key

\b
Exit codes: 0 done, 2 wrong command line, 4 bundle or key unusable, 5 package missing, 6 output not writable,
130 interrupted.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Private key to sign BUNDLE with.")
@click.option(
    "--new-key", type=click.Path(path_type=Path), help="Write a new private key here, its public half beside."
)
def cli(bundle: Path | None, key: Path | None, new_key: Path | None) -> None:
    """See HELP."""
    if new_key is not None and bundle is None and key is None:
        _new_key(new_key)
    elif new_key is None and bundle is not None and key is not None:
        _sign(bundle, key)
    else:
        raise click.UsageError("give BUNDLE and --key, or --new-key alone")


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-sign")


def _new_key(path: Path) -> None:
    from cmdiad_runtime.bundle.signature import new_key

    public = new_key(path)
    click.echo(f"private key: {path} (readable by you only)\npublic key: {public}")


def _sign(bundle: Path, key: Path) -> None:
    """Sign only what is whole."""
    from cmdiad_runtime.bundle.manifest import MANIFEST, Bundle
    from cmdiad_runtime.bundle.signature import SIGNATURE, sign
    from cmdiad_runtime.support.files import atomic_write

    Bundle.open(bundle)
    signature = sign((bundle / MANIFEST).read_bytes(), key)
    with atomic_write(bundle / SIGNATURE) as temporary:
        temporary.write_bytes(signature)
    click.echo(f"signature: {bundle / SIGNATURE}")
