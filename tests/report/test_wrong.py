"""What the report tells of what went wrong, looked at in a real browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.wire.event import Reason
from tests.cli.harness import DEAD, HOSTILE, STREAM, Cli
from tests.report.browser import Browser
from tests.report.test_report import BASE_MS, made, quiet

HALTS = "{control:notifications}:halts"
REDRIVEN = "{control:notifications}:redriven"
WAITS_MS = 5000
DRAWN = """
const done = arguments[arguments.length - 1], told = [];
const draw = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  told.push([this.canvas.closest('[id]').id, text]);
  return draw.call(this, text, ...rest);
};
document.querySelector('#timeline').dispatchEvent(new KeyboardEvent('keydown', { key: '0' }));
setTimeout(() => requestAnimationFrame(() => done(told)), 300);
"""


def published(sidecar: Cli, event_id: str, at_ms: int, *, took_ms: int = 5, **more: Any) -> None:
    """Plant a notification that took so long."""
    event = {"id": 0, "event_id": event_id, "type": "stack.activated", **more}
    origin = f"{STREAM}/{BASE_MS + at_ms - took_ms}-0"
    sidecar.notification(event, f"{BASE_MS + at_ms}-1", origin)


def plant(sidecar: Cli, stream: str, fields: dict[Any, Any], at_ms: int) -> None:
    """Add the next entry of a millisecond: Redis 6.2 does not count in one that is given."""
    at = BASE_MS + at_ms
    before: Any = sidecar.client.xrange(stream, str(at), str(at))
    sidecar.client.xadd(stream, fields, id=f"{at}-{len(before)}")


def dead(sidecar: Cli, event_id: str, at_ms: int, reason: str, **more: Any) -> None:
    """Plant a dead letter."""
    event = {"event_id": event_id, "type": "stack.activated", **more}
    fields: dict[Any, Any] = {
        "event": json.dumps(event), "origin": f"{STREAM}/{BASE_MS + at_ms - 5}-0",
        "reason": reason, "detail": "it is so",
    }  # fmt: skip
    plant(sidecar, DEAD, fields, at_ms)


def stack(version: int) -> dict[str, Any]:
    """Return what an event tells of the victim's stack."""
    return {
        "tenant_id": "t_acme", "stack_id": "web", "version": version,
        "artifact_ref": f"stacks/t_acme/web/{version}", "checksum": "sha256:" + "ab" * 32,
    }  # fmt: skip


def incident(sidecar: Cli) -> None:
    """A row of one tenant's letters, a stall, a dead version 7, and a version 8."""
    published(sidecar, "acme-6", 0, **stack(6))
    for n in range(25):
        dead(sidecar, f"krill-{n}", 1000, Reason.INVALID_EVENT, tenant_id="t_krill")
    published(sidecar, "juno-1", 6000, took_ms=WAITS_MS - 100, tenant_id="t_juno")
    dead(sidecar, "acme-7", 6010, Reason.CHECKSUM_MISMATCH, **stack(7))
    published(sidecar, "acme-8", 6500, **stack(8))
    published(sidecar, "acme-9", 6600, **stack(9))


def data_of(path: Path) -> dict[str, Any]:
    """Return the data of a report."""
    found = re.search(rb'id="data">([^<]*)<', path.read_bytes())
    assert found
    told: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return told


def drawn(browser: Browser, place: str) -> list[str]:
    """Return what a chart says in letters and figures."""
    return [text for chart, text in browser.run_async(DRAWN) if chart == place]


# --- halts ---------------------------------------------------------------------------------------


def halted(sidecar: Cli, from_ms: int, to_ms: int, reason: str, stream: str = STREAM) -> None:
    """Plant the record of a halt and of its end."""
    for what, at_ms, why in (("halted", from_ms, reason), ("resumed", to_ms, "it is known")):
        record: dict[Any, Any] = {"what": what, "stream": stream, "reason": why, "by": "op@node"}
        plant(sidecar, HALTS, record, at_ms)


def test_a_halt_is_told_first_of_what_went_wrong(sidecar: Cli, browser: Browser) -> None:
    """With its reason and how it ended; a click leads there, and the stall names it."""
    incident(sidecar)
    halted(sidecar, 1001, 5900, "25 dead letters in a row")
    browser.open(made(sidecar, "--tenant", "t_acme"))
    first = browser.text("#wrong li")
    assert 'was halted by op@node, reason given: "25 dead letters in a row' in first
    assert re.search('resumed after 4.9s, at .*Z, by op@node, reason given: "it is known', first)
    assert "while control:events was halted, right after 25 dead letters" in browser.text("#quiet")
    browser.click("#wrong button")
    address = browser.run("return location.hash")
    assert f"from={(BASE_MS + 1) * 1000}" in address
    quiet(browser)


def test_the_panel_tells_the_halts_that_an_event_waited_through(
    sidecar: Cli, browser: Browser
) -> None:
    """Those of its own stream between its entry and its end, and no others."""
    incident(sidecar)
    halted(sidecar, 1001, 1400, "its own")
    halted(sidecar, 1500, 5800, "of another stream", "other:events")
    halted(sidecar, 6700, 6800, "later")
    browser.open(made(sidecar), "event=juno-1")
    hops = browser.text("#hops")
    assert "its own" in hops
    assert "of another stream" not in hops
    assert "later" not in hops
    browser.open(made(sidecar), "event=acme-9")
    assert "halt" not in browser.text("#hops")


def test_a_hostile_reason_of_a_halt_stays_text(sidecar: Cli, browser: Browser) -> None:
    """Whoever pauses writes what they want; the page shows it and runs nothing."""
    incident(sidecar)
    halted(sidecar, 1001, 5900, f"<img src=x onerror=alert(1)>{HOSTILE}")
    browser.open(made(sidecar))
    assert "<img src=x onerror=alert(1)>" in browser.text("#wrong li")
    assert browser.run("return document.querySelectorAll('#wrong img').length") == 0
    quiet(browser)


# --- a dead letter and what came after it --------------------------------------------------------


def test_a_letter_that_was_overtaken_is_to_be_left_dead(sidecar: Cli, browser: Browser) -> None:
    """The panel names what overtook it, with a link, what to do with it, and with its cause."""
    incident(sidecar)
    browser.open(made(sidecar), "event=acme-7")
    hops = browser.text("#hops")
    assert "by acme-8, t_acme/web@8" in hops
    assert re.findall("Fix: [^;:,]*", hops) == [
        "Fix: Nobody writes to a ref again that an event names", "Fix: leave it dead",
    ]  # fmt: skip
    browser.click("#hops button")
    assert browser.text("#detail-title") == "acme-8"
    assert "overtaken" not in browser.text("#hops")
    quiet(browser)


def test_the_panel_says_what_trace_says(sidecar: Cli, browser: Browser) -> None:
    """Report and `sidecar trace` name the same overtaker, or none."""
    incident(sidecar)
    path = made(sidecar)
    for event_id, overtaker in (("acme-7", "acme-8"), ("krill-3", "")):
        browser.open(path, f"event={event_id}")
        hop = sidecar("trace", event_id, "--json").object()["hops"][-1]
        assert (hop["hop"] == "overtaken") == bool(overtaker)
        assert overtaker in hop["detail"]
        assert ("overtaken" in browser.text("#hops")) == bool(overtaker)
        assert overtaker in browser.text("#hops")


def test_what_the_filters_left_out_overtakes_too(sidecar: Cli, browser: Browser) -> None:
    """The panel names an overtaker that has no row in the report; there is nothing to click."""
    incident(sidecar)
    browser.open(made(sidecar, "--ref", "stacks/t_acme/web/7"), "event=acme-7")
    assert "by acme-8, t_acme/web@8, which the filters left out" in browser.text("#hops")
    assert browser.run("return document.querySelectorAll('#hops button').length") == 0


def test_events_of_the_same_stack_are_listed(sidecar: Cli, browser: Browser) -> None:
    """Beside a dead version stand the others of its stack, whatever their refs, and no others."""
    incident(sidecar)
    browser.open(made(sidecar), "event=acme-7")
    listed = browser.run("return [...document.querySelectorAll('#stack li')].map(one => "
                         "one.textContent.slice(26))")  # fmt: skip
    assert listed == [
        "acme-6 @6 published", "acme-7 @7 dead (this one)", "acme-8 @8 published",
        "acme-9 @9 published",
    ]  # fmt: skip
    browser.open(made(sidecar), "event=krill-3")
    assert "names no stack" in browser.text("#stack")


def test_a_long_list_shows_what_is_around(sidecar: Cli, browser: Browser) -> None:
    """Of a stack with many events the panel lists fifty, this one among them, and says that."""
    for n in range(120):
        published(sidecar, f"e{n}", 10 * n, **stack(n + 1))
    browser.open(made(sidecar), "event=e40")
    listed = browser.text("#stack")
    assert "(this one)" in listed
    assert "50 of 120 events" in listed
    assert browser.run("return document.querySelectorAll('#stack li').length") == 50


# --- what went wrong, at a glance ----------------------------------------------------------------


def test_dead_letters_are_summed_up(sidecar: Cli, browser: Browser) -> None:
    """By reason and tenant, the most first, with when; the place is above the charts."""
    incident(sidecar)
    browser.open(made(sidecar))
    first, second = browser.run(
        "return [...document.querySelectorAll('#wrong li')].map(one => one.textContent)"
    )
    assert first.startswith("25 dead letters: invalid_event, t_krill 2026-")
    assert ".000Z to 2026-" in first
    assert second.startswith("1 dead letter: checksum_mismatch, t_acme 2026-")
    order = "return wrong.compareDocumentPosition(timeline) & Node.DOCUMENT_POSITION_FOLLOWING"
    assert browser.run(order)


def test_a_group_of_letters_leads_to_them(sidecar: Cli, browser: Browser) -> None:
    """By keyboard: its button chooses them, whatever was chosen, zooms, and is a link."""
    incident(sidecar)
    path = made(sidecar)
    browser.open(path, "search=acme&without=dead")
    browser.type("#wrong button", "Enter")
    assert browser.text("#chosen") == "25 of 30 events"
    fragment = browser.run("return location.hash.slice(1)")
    assert f"from={(BASE_MS + 1000) * 1000 - 1_000_000}" in fragment
    browser.open(path, fragment)
    assert browser.text("#chosen") == "25 of 30 events"
    quiet(browser)


def test_a_hostile_group_is_inert_and_can_be_chosen(sidecar: Cli, browser: Browser) -> None:
    """Reason and tenant of a letter are text, and lead to the letter as they are shown."""
    dead(sidecar, "evil", 0, f"<img src=x>{HOSTILE}", tenant_id=HOSTILE)
    published(sidecar, "good", 1, tenant_id="t_1")
    browser.open(made(sidecar))
    assert "<img src=x>\\u{1b}[31mred" in browser.text("#wrong")
    browser.click("#wrong button")
    assert browser.text("#chosen") == "1 of 2 events"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    quiet(browser)


def test_many_groups_stay_a_short_list(sidecar: Cli, browser: Browser) -> None:
    """Of letters of very many tenants the biggest groups are listed, and the rest is counted."""
    for n in range(60):
        dead(sidecar, f"e{n}", n, Reason.UNKNOWN_TYPE, tenant_id=f"t_{n}")
    browser.open(made(sidecar))
    assert browser.run("return document.querySelectorAll('#wrong button').length") == 50
    assert "And 10 dead letters of 10 smaller groups." in browser.text("#wrong")


def test_where_nothing_died_it_says_so(sidecar: Cli, browser: Browser) -> None:
    """Without dead letters there is no list, but a word; and one event is no `1 events`."""
    published(sidecar, "good", 0, tenant_id="t_1")
    browser.open(made(sidecar))
    assert browser.text("#wrong") == "No event is a dead letter, and nothing was halted."
    assert browser.text("#chosen") == "1 of 1 event"


# --- stalls --------------------------------------------------------------------------------------


def test_a_stall_tells_what_came_right_before_it(sidecar: Cli, browser: Browser) -> None:
    """How long, how many waited and what that means, and the row of letters that led to it."""
    incident(sidecar)
    browser.open(made(sidecar))
    told = browser.text("#quiet li")
    assert "for 5.0 s while 1 event waited, right after 25 dead letters in a row, all of" in told
    assert told.endswith("t_krill")
    assert "had come at least a second before" in browser.text("#quiet-hint")
    assert "all events of the window" not in browser.text("#quiet-hint")


@pytest.mark.parametrize("asked", ["--tenant=t_acme", "--stack=web", "--ref=stacks/t_acme"])
def test_a_filter_leaves_the_stalls_as_they_are(sidecar: Cli, asked: str) -> None:
    """Stalls are those of all tenants, whatever the report is asked for."""
    incident(sidecar)
    whole = data_of(made(sidecar))
    chosen = data_of(made(sidecar, asked))
    assert chosen["quiet"] == whole["quiet"] != []
    assert len(chosen["columns"]["end"]) < len(whole["columns"]["end"])


def test_a_filtered_report_says_whose_the_stalls_are(sidecar: Cli, browser: Browser) -> None:
    """Beside the stalls stands that they are not only of what was asked for."""
    incident(sidecar)
    browser.open(made(sidecar, "--tenant", "t_acme"))
    assert "all events of the window, not only tenant t_acme" in browser.text("#quiet-hint")
    assert "all of t_krill" in browser.text("#quiet")


# --- charts and list -----------------------------------------------------------------------------


def test_a_heap_of_dead_marks_has_its_number(sidecar: Cli, browser: Browser) -> None:
    """Where dead letters fall on each other the timeline says how many; one by itself has none."""
    incident(sidecar)
    browser.open(made(sidecar))
    assert [one for one in drawn(browser, "timeline") if one.isdecimal()] == ["25"]
    assert not [one for one in drawn(browser, "delay") if one.isdecimal()]


@pytest.mark.parametrize("longest_ms", [1, 10_000, 7_200_000, 864_000_000])
def test_delays_have_a_readable_scale(sidecar: Cli, browser: Browser, longest_ms: int) -> None:
    """From a millisecond to ten days, four to seven ticks are labelled, as a person says them."""
    published(sidecar, "slow", 0, took_ms=longest_ms)
    browser.open(made(sidecar))
    ticks = [one for one in drawn(browser, "delay") if ":" not in one and "-" not in one]
    assert 4 <= len(ticks) <= 7
    assert all(re.fullmatch("10{0,2} (µs|ms|s|min|h)", one) for one in ticks)
    assert ticks[0] == "100 µs"


@pytest.mark.parametrize("reason", list(Reason))
def test_a_dead_row_shows_its_reason_whole(sidecar: Cli, browser: Browser, reason: Reason) -> None:
    """In the list, on a window of 1400 pixels, no reason is cut."""
    dead(sidecar, "e" * 60, 0, reason, **stack(7))
    browser.resize(1400, 900)
    browser.open(made(sidecar))
    cells = "[...document.querySelectorAll('.row > span')]"
    browser.until(f"return {cells}.filter(one => one.textContent.includes(arguments[0])"
                  " && one.scrollWidth <= one.clientWidth).length === 1", reason)  # fmt: skip


# --- links ---------------------------------------------------------------------------------------


def test_what_can_be_linked_is_told_and_works(sidecar: Cli, browser: Browser) -> None:
    """The page's foot and the help name the parts of a link, and each does what it says."""
    incident(sidecar)
    path = made(sidecar)
    since, until = (BASE_MS + 900) * 1000, (BASE_MS + 1100) * 1000
    links = {
        "#event=EVENT_ID": ("event=acme-7", "#detail-title", "acme-7"),
        "#search=TEXT": ("search=krill-1", "#chosen", "11 of 30 events"),
        "#tenant=TENANT": ("tenant=t_krill", "#chosen", "25 of 30 events"),
        "#from=US&to=US": (f"from={since}&to={until}", "#chosen", "30 of 30 events"),
    }
    told = " ".join(sidecar("replay", "report", "--help").out.split())
    for name, (fragment, place, shown) in links.items():
        browser.open(path, fragment)
        assert name in browser.text("footer")
        assert name in told
        assert browser.text(place) == shown
        assert browser.run("return location.hash.slice(1)").startswith(fragment[:5])
    quiet(browser)


# --- sentences -----------------------------------------------------------------------------------


def set_back(sidecar: Cli, event_id: str = "acme-5") -> None:
    """Plant version 6, and version 5 that was redriven over it by force."""
    published(sidecar, "acme-6", 1000, **stack(6))
    published(sidecar, event_id, 2000, **stack(5))
    record: dict[Any, Any] = {
        "letter": f"{BASE_MS + 500}-0", "origin": f"{STREAM}/{BASE_MS + 100}-0",
        "dead_reason": "artifact_missing", "event_id": event_id, "reason": "ticket 7",
        "entry": f"{STREAM}/{BASE_MS + 1995}-0",
        "by": "ann", "forced": "overtaken", "overrode": "acme-6",
    }  # fmt: skip
    plant(sidecar, REDRIVEN, record, 1990)


def test_the_report_opens_with_why(sidecar: Cli, browser: Browser) -> None:
    """In three lines, then the gravest first; a click leads to the event, and that says so, too."""
    set_back(sidecar)
    browser.open(made(sidecar))
    told = browser.text("#summary")
    assert re.match(
        r"Wrong now \(\S+Z\): t_acme/web went back from @6 to @5: its dead letter was", told
    )
    assert "Hit: dead or lost: 1 event of t_acme; published wrongly: 1 event of t_acme." in told
    first = browser.text("#causes li")
    assert first.startswith("error went_back t_acme/web went back from @6 to @5")
    assert 'redriven by force by ann, reason given: "ticket 7", behind acme-6' in first
    assert "because t_acme/web@5" in first
    assert "↩ back" in drawn(browser, "timeline")
    browser.click("#causes li button")
    assert browser.text("#detail-title") == "acme-5"
    assert "went back" in browser.text("#hops")
    assert f"from={(BASE_MS + 2000) * 1000 - 999_999}" in browser.run("return location.hash")
    quiet(browser)


def test_what_the_report_is_not_about_is_not_among_its_sentences(sidecar: Cli) -> None:
    """A report of one tenant says why of that; each sentence has the row that it is about."""
    set_back(sidecar)
    dead(sidecar, "krill", 3000, Reason.INVALID_EVENT, tenant_id="t_krill")
    assert {one["kind"] for one in data_of(made(sidecar))["causes"]} == {
        "went_back", "malformed",
    }  # fmt: skip
    (one,) = data_of(made(sidecar, "--tenant", "t_acme"))["causes"]
    assert (one["kind"], one["row"]) == ("went_back", 1)
    one, *others = data_of(made(sidecar, "--ref", "stacks/t_acme/web/5"))["causes"]
    assert one["kind"] == "went_back"
    assert "malformed" not in {each["kind"] for each in others}


def test_a_report_of_refs_says_why_of_all_under_them(sidecar: Cli) -> None:
    """Never that nothing was found where something went wrong with one of them."""
    set_back(sidecar)
    for under in ("stacks", "stacks/t_acme/web", "stacks/t_acme/"):
        assert data_of(made(sidecar, "--ref", under))["causes"][0]["kind"] == "went_back"


def test_hostile_sentences_stay_text(sidecar: Cli, browser: Browser) -> None:
    """What events say goes into sentences; the page shows it and runs nothing."""
    set_back(sidecar, f"<img src=x onerror=alert(1)>{HOSTILE}")
    dead(sidecar, f"<script>{HOSTILE}", 3000, Reason.POISON, tenant_id=HOSTILE)
    browser.open(made(sidecar))
    assert "\\u{1b}" in browser.text("#causes")
    assert browser.run("return document.querySelectorAll('#causes img').length") == 0
    quiet(browser)


def test_where_no_rule_has_found_anything_it_says_so(sidecar: Cli, browser: Browser) -> None:
    """In a word."""
    published(sidecar, "good", 0, tenant_id="t_1")
    browser.open(made(sidecar))
    assert browser.text("#causes") == "No rule has found anything."
