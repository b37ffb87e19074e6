"""docs/explain.md, made from the rules themselves: `make pages` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.replay.explain.explaining import KINDS

PAGE: Final = Path(__file__).parents[1] / "docs/explain.md"
_HEAD: Final = """\
# What `sidecar explain` finds

<!-- Made by `make pages` from the rules themselves. Do not edit it. -->

`sidecar explain` says what went wrong in a window: live, with the archive, or in a bundle
(`--bundle`). Named a tenant, a stack, a version, a ref, or an event, it tells what concerns that
alone, and what led to it.

```sh
sidecar explain --since 2h
sidecar explain t_1/web@7 --bundle incident.zip
```

It begins with a **summary** of one to four lines: what is wrong now, with what led to it, when,
and by whom; what to look at, as it may do no harm; what is over; whom it hit; what is not on
record any more, of which it can say nothing. The numbers in it are those of the findings below.
Of a bundle, *now* is when it was taken.

- *died*: an event ended as a dead letter. *Arrived*: it was published after all.
- *lost*: a worker had finished it, and it was neither published nor dead.
- *published wrongly*: what readers got is not what they should have. *Without their artifact*: it
  cannot be resolved.
- *waiting* and *delayed*: nothing but time is lost. An event is counted under the gravest alone.
- *unknown*: what came in that time may be lost, and nobody knows how much that was.

Each finding is one sentence: what came of it, to whom, when, why, by whom. The gravest come first.
What led to one thing alone stands in its sentence, behind *because*; an error, or what led to
more, stands before them, and they name its number. Below the sentence are commands that show it,
and the fix, or that there is nothing to do. What a person wrote is always in quotation marks.
*By whom: not on record* is said where somebody must have done it, and no record says who.

With `--json` the first line is the summary (`summary`: its lines; `wrong`, `look`, `over`;
`hit` and `still`: how many `tenants`, `subjects` and `events`, and how many events came to each
harm; `also`, `unrecorded`), and each finding is an object on a
line of its own (`because` has what is told inside of it); `--markdown` is for a ticket.

- An **error** is still wrong: nothing on record has set it right. Exit 1.
- A **warning** is over, or has to be looked at, as it may do no harm. Exit 1.
- A **note** is what somebody meant, and is over. Exit 0 where there is nothing else.

A finding comes of a rule over what is on record. Where no rule fits, nothing is said: `trace` and
`replay report` show the events themselves. What has expired is said to be so, and nothing is made
up of it. What more than five tenants died of is one finding, unless one of them is asked about. The
newest 200,000 events of the window are looked at, and artifacts of 500 subjects.

| kind | what has happened | what cannot be known |
| --- | --- | --- |
"""


def page() -> str:
    """Return the page as it should be."""
    rows = sorted(KINDS, key=lambda kind: kind.name)
    return _HEAD + "".join(f"| `{one.name}` | {one.means} | {one.unless} |\n" for one in rows)


if __name__ == "__main__":
    PAGE.write_text(page())
