"""docs/doctor.md, made from the checks themselves: `make pages` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.ops.doctor.examine import KINDS

PAGE: Final = Path(__file__).parents[1] / "docs/doctor.md"
_HEAD: Final = """\
# What `sidecar doctor` finds

<!-- Made by `make pages` from the checks themselves. Do not edit it. -->

`sidecar doctor` looks for everything that can be wrong with a deployment. It takes the options and
variables of `sidecar run`, and asks as its user. `sidecar run --check` looks at the same before a
start, and relays nothing; that the embedded server does not run yet is nothing wrong then.

Each finding has a kind, what exactly is wrong, why that matters, and the fix. With `--json` each is
one object a line: `kind`, `level`, `what`, `why`, `fix`.

- An **error** says that something does not work, or that a guarantee does not hold: exit 1.
- A **warning** says that all works now, but something is at risk, or is not as it was probably
  meant: exit 0 where there are no errors.
- Exit 4 says that something could not be asked, and that nothing else is wrong.

With `--role ROLE` it asks as the user of another role (`producer`, `controller`, `operator`,
`halter`, `redriver`, `repairer`, `collector`: those of `deploy/redis/users.acl`), and shows which
commands on which keys that lacks: exit 1 where any do. `--role any` shows what each role lacks, and
so what a login may do. Of a Cluster each node is looked at.

What the user may not ask (`CONFIG GET`, `ACL GETUSER`) is not looked at: ask as a user who may, now
and then. Doctor changes nothing, but it puts a few bytes at the ref `.sidecar/doctor` of the fleet
store, writes and removes a file beside it, and makes and removes the key `{N}:doctor`.
Of a bucket it rewrites `STORE` with the same content, to see which conditions the service keeps.

| kind | level | why it matters |
| --- | --- | --- |
"""


def page() -> str:
    """Return the page as it should be."""
    rows = sorted((kind, level, why) for kind, (level, why) in KINDS.items())
    return _HEAD + "".join(f"| `{kind}` | {level} | {why} |\n" for kind, level, why in rows)


if __name__ == "__main__":
    PAGE.write_text(page())
