"""The rules of a worker and of the commands that judge as one."""

from __future__ import annotations

from dataclasses import fields

from sidecar.cli.rules import WorkerRules
from sidecar.worker.pipeline import Rules
from sidecar.worker.settings import options

GIVEN = WorkerRules(
    allow_type=["mine"], tenant_scope=["{tenant}/*"], event_id_scope=["{tenant}/*"],
    max_artifact_size=1, sign_key="key",
)  # fmt: skip


def test_every_rule_is_an_option_of_the_commands_that_judge() -> None:
    """With a rule that only workers have, `dead show` and `replay check` predict the wrong end."""
    rules = GIVEN.rules()
    missing = [
        one.name for one in fields(Rules) if getattr(rules, one.name) == getattr(Rules(), one.name)
    ]
    assert not missing, f"sidecar/cli/rules.py: no option of WorkerRules sets {missing}"
    assert {one.name for one in fields(WorkerRules)} <= {one.name for one in options()}


def test_without_options_they_are_a_workers_own() -> None:
    """What is not given is as a worker has it without options."""
    assert WorkerRules().rules() == Rules()
