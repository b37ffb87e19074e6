"""`sidecar replay report`, looked at in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.wire.moments import rfc3339
from tests.cli.harness import HOSTILE, NOTIFICATIONS, STREAM, Cli
from tests.report.browser import Browser

BASE_MS = 1_790_000_000_000
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
NOBODY = {"SIDECAR_REDIS": ""}


def everything(sidecar: Cli) -> None:
    """Let events end in every way."""
    sidecar.bring("a1", "rows/a", b'{"n":1}', "--tenant", "t_1")
    sidecar.bring("a1", "rows/a", b'{"n":1}', "--tenant", "t_1")
    sidecar.work()
    sidecar.bring("a2", "rows/a", b'{"n":2}', "--tenant", "t_2")
    event = {"event_id": "odd", "type": "nobody.knows", "tenant_id": "t_2"}
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    late = {"event_id": "clock", "type": "run.abort", "created_at": rfc3339(4e15)}
    sidecar.client.xadd(STREAM, {"event": json.dumps(late)})
    sidecar.work()
    sidecar.emit("late", "--tenant", "t_3")


def made(sidecar: Cli, *args: str) -> Path:
    """Make a report."""
    path = sidecar.directory / "report.html"
    ran = sidecar("replay", "report", path, *args)
    assert ran.code == 0, ran.err
    return path


def plant(sidecar: Cli, count: int, **fields: Callable[[int], str]) -> None:
    """Publish many notifications by hand."""
    pipeline = sidecar.client.pipeline(transaction=False)
    for n in range(count):
        event: dict[str, Any] = {"id": 0, "event_id": f"e{n}", "type": "key.changed"}
        event |= {name: make(n) for name, make in fields.items()}
        values: Any = {"event": json.dumps(event), "origin": f"{STREAM}/{BASE_MS + n * 7}-0"}
        pipeline.xadd(NOTIFICATIONS, values, id=f"{BASE_MS + n * 7 + n % 6}-1")
    pipeline.execute()


def quiet(browser: Browser) -> None:
    """Assert that the page did nothing but show itself."""
    assert not browser.log()
    assert all(url.startswith(("file:", "about:", "data:")) for url in browser.requests())
    assert browser.run("return document.title").startswith("Replay")


def test_it_shows_what_happened(sidecar: Cli, browser: Browser) -> None:
    """Counts, window and events are those of the streams; nothing is fetched, nothing complains."""
    everything(sidecar)
    browser.open(made(sidecar))
    assert browser.text("#chosen") == "6 of 6 events"
    ends = browser.text("#ends")
    assert all(f"{how} {n}" in ends for how, n in (
        ("published", 3), ("a repeat", 1), ("dead", 1), ("waits", 1),
    ))  # fmt: skip
    assert "unknown_type 1" in browser.text("#reasons")
    assert STREAM in browser.text("#covered")
    assert browser.run("return document.querySelectorAll('canvas').length") == 2
    assert len(browser.run("return [...document.querySelectorAll('.row')].map(r => r.id)")) == 6
    quiet(browser)


def test_an_event_opens_with_each_hop(sidecar: Cli, browser: Browser) -> None:
    """By keyboard alone: from the table to the hops, and back with Escape."""
    everything(sidecar)
    browser.open(made(sidecar, "--type", "nobody.knows"))
    browser.run("document.querySelector('#table').focus()")
    browser.type("#table", "ArrowDown", "Enter")
    assert browser.text("#detail-title") == "odd"
    hops = browser.text("#hops")
    assert "entry" in hops
    assert "unknown_type" in hops
    assert "--allow-type" in hops
    assert browser.run("return document.activeElement.id") == "detail-title"
    browser.type("#detail-title", "Escape")
    assert browser.run("return document.activeElement.id") == "table"
    quiet(browser)


def test_a_click_on_the_timeline_opens_what_lies_there(sidecar: Cli, browser: Browser) -> None:
    """A mark can be clicked."""
    everything(sidecar)
    browser.open(made(sidecar, "--tenant", "t_3"))
    browser.click("#timeline .u-over")
    assert browser.text("#detail-title") == "late"


def test_versions_of_a_ref_are_compared(sidecar: Cli, browser: Browser) -> None:
    """The panel lists the events of the same ref, and what the newer one changed."""
    everything(sidecar)
    browser.open(made(sidecar), "event=a2")
    assert "a1" in browser.text("#versions")
    assert '"n": 2' in browser.text("#versions pre .came")
    assert '"n": 1' in browser.text("#versions pre .went")


def test_a_lying_clock_is_marked(sidecar: Cli, browser: Browser) -> None:
    """A producer's clock that cannot be right is said to be wrong."""
    everything(sidecar)
    browser.open(made(sidecar), "event=clock")
    assert "cannot be right" in browser.text("#hops .bad, #hops")


def test_search_and_filters_choose_events(sidecar: Cli, browser: Browser) -> None:
    """Text, tenant, end and reason leave what they name, and `Show all` brings the rest back."""
    everything(sidecar)
    browser.open(made(sidecar))
    browser.type("#search", "ROWS/A")
    browser.until("return document.querySelector('#chosen').textContent === '3 of 6 events'")
    browser.type("#tenant", "t_2")
    browser.until("return document.querySelector('#chosen').textContent === '1 of 6 events'")
    browser.click("#clear")
    assert browser.text("#chosen") == "6 of 6 events"
    browser.click("#reasons button")
    assert browser.text("#chosen") == "5 of 6 events"
    assert browser.run("return document.querySelector('#reasons button').ariaPressed") == "false"


def test_a_link_restores_the_view(sidecar: Cli, browser: Browser) -> None:
    """What is on the screen lies in the address; opened again, it is the same."""
    everything(sidecar)
    path = made(sidecar)
    browser.open(path)
    browser.type("#search", "odd")
    browser.until("return document.querySelector('#chosen').textContent === '1 of 6 events'")
    browser.type("#timeline", "+")
    browser.click("#rows .row")
    fragment = browser.run("return location.hash.slice(1)")
    browser.open(path, fragment)
    assert browser.text("#chosen") == "1 of 6 events"
    assert browser.text("#detail-title") == "odd"
    assert browser.run("return location.hash.slice(1)") == fragment
    assert "from=" in fragment


def test_hostile_strings_are_inert(sidecar: Cli, browser: Browser) -> None:
    """Markup, control and bidi characters of an event are shown as text, everywhere."""
    event = {
        "event_id": EVIL, "type": "run.abort", "tenant_id": HOSTILE, "stack_id": EVIL, "version": 1,
        "created_at": "",
    }  # fmt: skip
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    other = json.dumps(event | {"event_id": "x" * 200, "type": EVIL})
    sidecar.client.xadd(STREAM, {"event": other})
    sidecar.client.xadd(STREAM, {"event": '{"event_id":"\\ud800\u2028","type":3}'})
    sidecar.work()
    path = made(sidecar)
    assert EVIL.encode() not in path.read_bytes()
    browser.open(path, "event=" + EVIL.replace("<", "%3C").replace(">", "%3E"))
    assert browser.text("#detail-title") == EVIL
    browser.until("return document.querySelector('#rows').textContent.includes(arguments[0])", EVIL)
    shown = browser.text("body")
    assert not set("\x1b\x07\u202e\u2028") & set(shown)
    assert "\\u{202e}" in shown
    assert browser.run("return document.querySelectorAll('img').length") == 0
    quiet(browser)


def test_ten_thousand_tenants_fit(sidecar: Cli, browser: Browser) -> None:
    """Their lanes scroll by keyboard; one can be asked for by name."""
    plant(sidecar, 10_000, tenant_id=lambda n: f"t_{n:05}")
    browser.open(made(sidecar))
    assert browser.text("#chosen") == "10,000 of 10,000 events"
    browser.type("#timeline", "ArrowDown")
    browser.type("#tenant", "t_07777")
    browser.until("return document.querySelector('#chosen').textContent.startsWith('1 of')")
    browser.click("#rows .row")
    assert browser.text("#detail-title") == "e7777"
    quiet(browser)


def test_nothing_runs_over_the_edge(sidecar: Cli, browser: Browser) -> None:
    """On a wide screen and on a narrow one, with long names, the page is as wide as the window."""
    plant(sidecar, 50, tenant_id=("t" * 200 + "{}").format, stack_id=("s" * 200 + "{}").format)
    path = made(sidecar)
    for width in (1280, 400):
        browser.resize(width, 900)
        browser.open(path, "event=e7")
        assert browser.run("return document.documentElement.scrollWidth") <= width


CONTRAST = """
const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const probe = document.body.appendChild(document.createElement('i'));
const value = (name) => {
  probe.style.color = `var(--${name})`;
  return light(getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number));
};
return arguments[0].map(([ink, paper]) => {
  const [a, b] = [value(ink), value(paper)].sort((x, y) => y - x);
  return [ink, paper, (a + .05) / (b + .05)];
});
"""
NAMELESS = """
const named = (e) => {
  const by = e.getAttribute('aria-labelledby');
  if (by) return document.getElementById(by);
  return e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length;
};
const all = document.querySelectorAll('button, input, [tabindex="0"], section, aside');
return [...all].filter((e) => !named(e)).length;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(sidecar: Cli, browser: Browser, scheme: str) -> None:
    """Text has the contrast that WCAG asks for (4.5), marks at least 3, in either scheme."""
    everything(sidecar)
    browser.color_scheme(scheme)
    browser.open(made(sidecar))
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", paper))) < 200
    assert dark == (scheme == "dark")
    texts = [(ink, on) for ink in ("ink", "soft", "mark") for on in ("paper", "card")]
    texts += [("ink", "came"), ("ink", "went"), ("dead", "card")]
    marks = [(end, "card") for end in ("published", "duplicate", "redriven", "waiting", "unknown")]
    for ink, on, contrast in browser.run(CONTRAST, texts):
        assert contrast >= 4.5, (ink, on)
    for ink, on, contrast in browser.run(CONTRAST, marks):
        assert contrast >= 3, (ink, on)
    browser.click("#theme")
    paper_after = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper_after != paper


def test_every_control_has_a_name_and_can_be_reached(sidecar: Cli, browser: Browser) -> None:
    """Buttons, fields and regions have names for who does not see them, and Tab gets to each."""
    everything(sidecar)
    browser.open(made(sidecar))
    assert browser.run(NAMELESS) == 0
    controls = "main button, main input, main [tabindex='0']"
    wanted = browser.run("return document.querySelectorAll(arguments[0]).length", controls)
    reached = set()
    browser.run("document.querySelector('#theme').focus()")
    for _ in range(wanted + 3):
        browser.press("Tab")
        reached.add(browser.run("const e = document.activeElement; return e.id || e.textContent"))
    assert {"search", "tenant", "clear", "timeline", "table"} <= reached


def test_a_window_partly_expired_says_so(sidecar: Cli, browser: Browser) -> None:
    """What is gone stands on the page, too."""
    everything(sidecar)
    sidecar.trim(NOTIFICATIONS, 1)
    path = sidecar.directory / "report.html"
    assert sidecar("replay", "report", path).code == 3
    browser.open(path)
    assert "is gone" in browser.text("#covered .bad")


def test_no_report_of_nothing_or_of_too_much(sidecar: Cli, tmp_path: Path) -> None:
    """An empty window, filters that leave nothing, too many events, a place that is none."""
    path = tmp_path / "report.html"
    assert sidecar("replay", "report", path).code == 5
    everything(sidecar)
    assert sidecar("replay", "report", path, "--tenant", "nobody").code == 6
    ran = sidecar("replay", "report", path, "--max-events", "2")
    assert (ran.code, "narrow it" in ran.err) == (2, True)
    assert sidecar("replay", "report", tmp_path / "none" / "r.html").code == 2
    assert not path.exists()
