"""The alerts: each fires on what it is for, alone, and none on a healthy day. By promtool."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.telemetry import catalogue
from tests.deploy.harness import DEPLOY
from tests.deploy.prometheus import RULES, hurried, rules, tool
from tests.proofs import sampled

DOCS: Final = DEPLOY.parent / "docs"
MINUTES: Final = 480
Series = dict[str, str]


def _of(name: str, **labels: str) -> str:
    given = {"job": "sidecar", "instance": "w", **labels}
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in given.items()) + "}"


def _still(value: float) -> str:
    return f"{value}x{MINUTES}"


def healthy() -> Series:
    """Return a healthy day: a sample a minute, looked at every fourth."""
    s, active = "control:events", {"active": 1}
    found = {
        _of("sidecar_build_info", version="0", python="3"): 1,
        _of("sidecar_owner", stream=s): 1,
        _of("sidecar_lag_entries", stream=s): 3,
        _of("sidecar_unread_age_seconds", stream=s): 1,
        _of("sidecar_redis_full", stream=s): 0,
        _of("sidecar_held_tenants", stream=s): 0,
        _of("sidecar_paused_tenants", stream=s): 0,
        _of("sidecar_retries_total", stream=s, error_type="Unavailable"): 4,
        _of("sidecar_dead_letters_total", stream=s, reason="malformed"): 9,
        _of("sidecar_redis_memory_used_bytes", server="control"): 70,
        _of("sidecar_redis_memory_max_bytes", server="control"): 100,
        _of("sidecar_redis_memory_used_bytes", server="notify"): 70,
        _of("sidecar_redis_memory_max_bytes", server="notify"): 0,
        _of("sidecar_store_free_bytes", store="fleet"): 60,
        _of("sidecar_store_size_bytes", store="fleet"): 100,
        _of("sidecar_store_free_inodes", store="fleet"): 60,
        _of("sidecar_store_inodes", store="fleet"): 100,
        _of("sidecar_reader_lag_seconds", reader="r"): 10,
        _of("sidecar_archive_lag_seconds", stream=s): 3000,
        _of("sidecar_archive_interval_seconds"): 3600,
        _of("sidecar_trim_blocked", stream=s, by="group"): 0,
        _of("sidecar_trim_blocked", stream=s, by="window"): 1,
        _of("sidecar_redis_clock_skew_seconds", server="control"): 0.2,
        _of("sidecar_store_logs"): 1,
        _of("sidecar_stream_without_room", stream=s): 0,
        _of("sidecar_background_failing", work="trimming"): 0,
        _of("sidecar_redis_forgot_total", stream=s, part="notes"): 0,
        _of("sidecar_takeovers_total", stream=s): 2,
        _of("sidecar_log_lines_dropped_total"): 0,
    }  # fmt: skip
    states = {_of("sidecar_state", stream=s, state=one): active.get(one, 0)
              for one in catalogue.STATES}  # fmt: skip
    return {name: _still(value) for name, value in (found | states).items()}


def _with(**changes: str) -> Series:
    """Return a day in which the first series of each name goes another way."""
    day = healthy()
    for start, values in changes.items():
        name = next(one for one in day if one.startswith(start + "{"))
        day[name] = values
    return day


def _in_state(state: str, **changes: str) -> Series:
    day = _with(**changes)
    for one in catalogue.STATES:
        day[_of("sidecar_state", stream="control:events", state=one)] = _still(int(one == state))
    return day


UP: Final = f"0+1x{MINUTES}"
AGEING: Final = f"0+60x{MINUTES}"
FAULTS: Final[dict[str, list[Series]]] = {
    "SidecarAbsent": [{}],
    "SidecarHalted": [_in_state("halted", sidecar_unread_age_seconds=AGEING)],
    "SidecarTenantPaused": [_with(sidecar_paused_tenants=_still(1))],
    "SidecarWaiting": [_in_state("waiting", sidecar_owner=_still(0),
                                 sidecar_background_failing=_still(1))],
    "SidecarNoOwner": [_in_state("standby", sidecar_owner=_still(0),
                                 sidecar_unread_age_seconds=AGEING)],
    "SidecarLagRising": [_with(sidecar_lag_entries=f"0+100x{MINUTES}")],
    "SidecarBehind": [_with(sidecar_unread_age_seconds=AGEING)],
    "SidecarDeadLettersGrowing": [_with(sidecar_dead_letters_total=UP)],
    "SidecarStoreFailing": [_with(sidecar_retries_total=UP, sidecar_held_tenants=_still(1))],
    "SidecarRedisFull": [_in_state("waiting", sidecar_redis_full=_still(1)),
                         _with(sidecar_redis_memory_used_bytes=_still(100))],
    "SidecarRedisFilling": [
        _with(sidecar_redis_memory_used_bytes=_still(90)),
        _with(sidecar_redis_memory_used_bytes=f"51+0.05x{MINUTES}"),
    ],
    "SidecarDiskFilling": [
        _with(sidecar_store_free_bytes=_still(9)), _with(sidecar_store_free_inodes=_still(9)),
        _with(sidecar_store_free_bytes=f"39-0.02x{MINUTES}"),
    ],
    "SidecarReaderStuck": [_with(sidecar_reader_lag_seconds=AGEING)],
    "SidecarArchiveBehind": [_with(sidecar_archive_lag_seconds=_still(11000))],
    "SidecarTrimBlocked": [_with(sidecar_trim_blocked=_still(1))],
    "SidecarClockSkew": [_with(sidecar_redis_clock_skew_seconds=_still(-9))],
    "SidecarTwoFleets": [_with(sidecar_store_logs=_still(2))],
    "SidecarOutOfIds": [_with(sidecar_stream_without_room=_still(1))
                        | {_of("sidecar_background_failing", work="room"): _still(1)}],
    "SidecarBackgroundFailing": [_with(sidecar_background_failing=_still(1))],
    "SidecarRedisForgot": [_with(sidecar_redis_forgot_total=UP)],
    "SidecarTakeovers": [_with(sidecar_takeovers_total=UP)],
    "SidecarLogDropping": [_with(sidecar_log_lines_dropped_total=UP)],
}  # fmt: skip
"""By alert, days on which it fires and no other does."""

BURSTS: Final = [
    *(_with(sidecar_store_free_bytes=free) for free in (
        "39x20 39-0.1x100 29x360", "39x200 39-0.1x100 29x180",
        "39x40 39-0.4x20 31x220 31-0.4x20 23x180", "39x60 " + "39-0.5x20 39x90 " * 4)),
    *(_with(sidecar_redis_memory_used_bytes=used) for used in (
        "55x20 55+0.1x100 65x360", "55x200 55+0.1x100 65x180",
        "55x40 55+0.4x20 63x220 63+0.4x20 71x180", "55x60 " + "55+0.5x20 55x90 " * 4)),
]  # fmt: skip
"""Days on which much is written for less than two hours, or soon goes again."""


def _test(name: str, day: Series, fires: set[str], when: str = "") -> dict[str, Any]:
    """Return a test of promtool's: which alerts fire at the end of a day, or have `when`."""
    seen = 'ALERTS{alertstate="firing"}'
    samples = [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(fires)]
    return {
        "name": name, "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in day.items()],
        "promql_expr_test": [{
            "expr": f"count by (alertname) ({when and 'max_over_time'}({seen}{when}))",
            "eval_time": f"{MINUTES}m", "exp_samples": samples,
        }],
    }  # fmt: skip


def _run(where: Path, tests: list[dict[str, Any]], rule_text: str = "") -> str:
    """Run promtool's tests; return what it says against them."""
    (where / "rules.yml").write_text(rule_text or RULES.read_text())
    (where / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "4m", "tests": tests})
    )
    command = [tool("promtool"), "test", "rules", str(where / "tests.yml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_are_rules(tmp_path: Path) -> None:
    """Promtool finds nothing wrong with the rules, as shipped and as tests hurry them."""
    for name, text in (("shipped", RULES.read_text()), ("hurried", hurried(RULES.read_text()))):
        (tmp_path / f"{name}.yml").write_text(text)
        command = [tool("promtool"), "check", "rules", str(tmp_path / f"{name}.yml")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    config = str(DEPLOY / "prometheus/prometheus.yml")
    subprocess.run([tool("promtool"), "check", "config", config], check=True)


@pytest.mark.proof
def test_a_healthy_day_has_no_alert(tmp_path: Path) -> None:
    """Nothing fires where nothing is wrong, nor for a burst of writes, all day long."""
    days = [_test(f"quiet {number}", day, set(), f"[{MINUTES}m]")
            for number, day in enumerate([healthy(), *BURSTS])]  # fmt: skip
    assert not _run(tmp_path, days)


def test_each_alert_has_a_fault() -> None:
    """No alert is without a day that is made for it."""
    assert FAULTS.keys() == {one["alert"] for one in rules()}


@pytest.mark.parametrize("alert", sampled(FAULTS, ("SidecarHalted", "SidecarNoOwner")))
def test_each_fault_has_its_alert_and_no_other(tmp_path: Path, alert: str) -> None:
    """Each alert fires on the days made for it, and nothing else does."""
    days = [_test(f"{alert} {n}", day, {alert}) for n, day in enumerate(FAULTS[alert])]
    assert not _run(tmp_path, days)


@pytest.mark.parametrize(("used", "said"), [
    (f"51+0.05x{MINUTES}", "At the rate of the last six hours 0.3 days are left."),
    (_still(90), "It has not grown in the last six hours."),
])  # fmt: skip
def test_a_redis_that_fills_has_so_many_days_left(tmp_path: Path, used: str, said: str) -> None:
    """The alert says in how many days it is full, and which part is the largest, if known."""
    (rule,) = [one for one in rules() if one["alert"] == "SidecarRedisFilling"]
    parts = {_of("sidecar_redis_memory_part_bytes", part=name): _still(size)
             for name, size in (("index", 3 << 20), ("own", 9))}  # fmt: skip
    tests = [
        {"interval": "1m",
         "input_series": [{"series": one, "values": values} for one, values in day.items()],
         "alert_rule_test": [{
             "alertname": rule["alert"], "eval_time": f"{MINUTES}m", "exp_alerts": [{
                 "exp_labels": {"server": "control", "severity": "warning"},
                 "exp_annotations": {
                     "summary": rule["annotations"]["summary"].replace(
                         "{{ $labels.server }}", "control"),
                     "runbook": rule["annotations"]["runbook"], "description": said + more,
                 }}]}]}
        for day, more in (
            (_with(sidecar_redis_memory_used_bytes=used), ""),
            (_with(sidecar_redis_memory_used_bytes=used) | parts,
             " The largest part, of all servers: index, 3MiB."))
    ]  # fmt: skip
    assert not _run(tmp_path, tests)


def test_rules_ask_for_what_there_is() -> None:
    """Each metric that a rule names is in the catalogue, with the labels by which it is picked."""
    known = {one.name: one for one in catalogue.ALL}
    for rule in rules():
        asked = rule["expr"] + rule["annotations"].get("description", "")
        for name, picked in re.findall(r"(sidecar_\w+)(?:\{([^}]*)\})?", asked):
            assert name in known, rule["alert"]
            assert set(re.findall(r"(\w+)!?=", picked)) <= set(known[name].labels), rule["alert"]


# --- the runbook ---------------------------------------------------------------------------------


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (\w+)\n", (DOCS / "runbook.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_alert_has_its_section_in_the_runbook() -> None:
    """The runbook has the alerts in their order: symptom, commands, fix. Each alert names its."""
    sections = _sections()
    assert list(sections) == [rule["alert"] for rule in rules()]
    for alert, text in sections.items():
        parts = [text.index(one) for one in ("**Symptom.**", "```sh", "**Fix.**")]
        assert parts == sorted(parts), alert
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["labels"]["severity"] in ("critical", "warning")


def _commands() -> list[str]:
    text = (DOCS / "runbook.md").read_text()
    fenced = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    inline = re.findall(r"`(sidecar [^`]*)`", text)
    found = [line.partition("#")[0].strip() for line in fenced.splitlines()]
    return sorted({one for one in (*found, *inline) if one.startswith("sidecar ")})


@pytest.mark.parametrize("command", _commands())
def test_the_runbooks_commands_are_commands(command: str) -> None:
    """Each command of the sidecar that the runbook has exists, with its options."""
    import typer

    from sidecar import cli

    found: Any = typer.main.get_command(cli.app)
    words = shlex.split(command)[1:]
    while words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words.pop(0)]
    assert not hasattr(found, "commands"), command
    options = {name for param in found.params for name in param.opts}
    assert {word for word in words if word.startswith("-")} <= options, command
