"""`sidecar demo`: the whole path, with nothing to install or start beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.options import Json


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Play it in this directory, new or empty, and leave everything there."
            " Default: a temporary one, removed at the end.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The same seed makes the same tenants, rows and changes.")
    ] = 1,
    *,
    as_json: Json = False,
) -> None:
    """Play the whole path on a real control plane, and prove that it held.

    Makes a SQLite control plane and changes it, relays its snapshots, stacks and rows to a fleet
    controller, kills the worker on the way, and reads Redis and the store afterwards. Exits with
    1 when anything did not hold.

    Examples:
      sidecar demo

      sidecar demo --keep demo   (then look around in it)

      sidecar demo --json | jq 'select(.step == "claim")'

    """
    from sidecar.demo import stage, theatre

    try:
        held = theatre.run(stage.make(as_json=as_json), keep, seed)
    except KeyboardInterrupt:
        typer.echo("sidecar: interrupted; everything it started has ended", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if held else 1)
