"""`sidecar sign-key`: keys that notifications are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidecar.errors import UsageError
from sidecar.terminal import output
from sidecar.wire.keyfiles import new_pair


def new(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where the private key goes; the public: FILE.pub."),
    ],
) -> None:
    """Make an Ed25519 key to sign notifications with, and print its id.

    FILE is for `sidecar run --sign-key`, and for nobody else: mode 600, not encrypted. FILE.pub is
    for the directory that `Feed(trust=…)` and `--verify` read. No file is overwritten.

    Examples:
      sidecar sign-key new fleet-2026

    """
    try:
        public, key_id = new_pair(file)
    except UsageError as error:
        raise UsageError(f"FILE: {error}") from None
    output.line(key_id)
    output.hint(
        f"made {file} and {public}. Give {public.name} to all who verify, and only then start"
        " workers with --sign-key"
    )
