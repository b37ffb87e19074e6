"""`sidecar dead show`: everything about one dead letter."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any, Final

import typer

from sidecar.cli.dead import checked_id
from sidecar.cli.histories import archive_for
from sidecar.cli.options import Json, LiveOnly
from sidecar.cli.rules import WorkerRules
from sidecar.cli.servers import LettersOf
from sidecar.errors import SidecarError
from sidecar.ops.explaining import Explained, explained
from sidecar.ops.predictions import Predictions
from sidecar.redis.errors import translated
from sidecar.redis.letters import DeadLetter, DeadLetters
from sidecar.terminal import output
from sidecar.wire.urls import redact

_HOPEFUL: Final = "nothing is known that would make it end here again"


def show(
    where: LettersOf, rules: WorkerRules,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dead ls` shows it.")], *,
    json: Json = False, _bundle: LiveOnly = None,
) -> None:  # fmt: skip
    """Show everything about one dead letter: what its reason means, how to fix it, whether it
    would end here again now, whether its event is published meanwhile, and what has overtaken it.

    Exit code 1: there is no such dead letter.

    Examples:
      sidecar dead show 1791234567890-0

      sidecar dead show 1791234567890-0 --json | jq -r .event

    """
    url, keys = where.notify_url, where.keys
    letters = DeadLetters(where.notify.client, keys)
    with translated(url):
        letter = letters.get(checked_id(letter_id))
    if letter is None:
        raise SidecarError(
            f"there is no dead letter {letter_id} in {keys.dead} on {redact(url)};"
            " `sidecar dead ls` lists them"
        )
    predictions = Predictions.looking_into(where, letters.client, keys, rules.rules())
    with translated(url):
        told = explained(
            letter, predictions, letters.client, keys, lambda: where.control_url,
            archive_for(where, keys, where.notify),
        )  # fmt: skip
    fields = output.jsonable(dict(letter.fields))
    if json:
        output.json_line({"id": letter.id, **fields, **told.to_json()})
    else:
        _print_letter(letter, fields, told)


def _print_letter(letter: DeadLetter, fields: dict[str, Any], told: Explained) -> None:
    published, overtaken = told.published, told.overtaken
    rows: list[tuple[str, str]] = [("id", letter.id)]
    rows += [(name, value) for name, value in fields.items() if name != "event"]
    rows += [("meaning", told.meaning), ("fix", told.fix)]
    rows += [("now", f"it would end here again: {told.again}" if told.again else _HOPEFUL)]
    rows += [("unseen", told.unseen)] if told.unseen else []
    rows += [("published", f"as control_version {published}")] if published else []
    rows += [("overtaken", overtaken)] if overtaken else []
    rows += [("event", _pretty(letter.raw_event))]
    hopeful = "yellow" if told.unseen or published or overtaken else "green"
    output.pairs(rows, {letter.reason: "bold red", told.fix: "green", _HOPEFUL: hopeful})


def _pretty(raw: bytes) -> str:
    """Return an event for a person: JSON laid out, or what there is of it."""
    try:
        return output.to_json(json_module.loads(raw), indent=2)
    except (ValueError, RecursionError):
        return raw.decode(errors="backslashreplace")
