"""The status page of a real worker, looked at in a real browser."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import store
from tests.cli.harness import HALT, HOSTILE, NOTIFICATIONS, STREAM, Cli
from tests.report.browser import Browser
from tests.report.test_report import CONTRAST, EVIL, NAMELESS
from tests.servers import free_port
from tests.sidecar.harness import eventually

pytestmark = pytest.mark.server

RUN = ("run", "--lease", "1", "--retry-budget", "600", "--log-level", "error")


@contextmanager
def served(sidecar: Cli, *args: str) -> Iterator[str]:
    """Run a worker with the page; yield the URL, and kill the worker."""
    sidecar.lay_out()
    port = free_port()
    http = ("--http", f"127.0.0.1:{port}", "--http-status-page")
    with sidecar.running(*RUN, *http, *args) as process:
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGKILL)


def look(browser: Browser, url: str) -> None:
    """Open the page once the worker answers, and wait until it is drawn."""
    eventually(lambda: _answers(url))
    browser.open(url)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}livez", timeout=60):
        return True
    return False


def until(browser: Browser, selector: str, said: str) -> None:
    """Wait until an element says something."""
    script = "return document.querySelector(arguments[0]).textContent.includes(arguments[1])"
    browser.until(script, selector, said)


def held_event(sidecar: Cli, tenant: str) -> None:
    """Append an event whose artifact is not there."""
    event = {
        "event_id": f"held-{tenant}", "type": "key.changed", "tenant_id": tenant,
        "artifact_ref": "ref/a", "checksum": store.checksum_of(b"never put"),
    }  # fmt: skip
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})


def quiet(browser: Browser, url: str) -> None:
    """Assert that the page asked nobody else, and that nothing complained."""
    assert not browser.log()
    asked = {one for one in browser.requests() if not one.startswith(("about:", "data:"))}
    assert asked == {url, f"{url}page.css", f"{url}page.js", f"{url}status.json"}
    assert browser.run("return document.title") == "artifact-sidecar"


def test_a_healthy_fleet(sidecar: Cli, browser: Browser) -> None:
    """Nothing is wrong: owner, lag, readers and store are there, and nobody else is asked."""
    sidecar.bring("a", "rows/a", b"data", "--tenant", "t_1")
    with served(sidecar) as url:
        look(browser, url)
        until(browser, "#summary", "all streams run")
        until(browser, "#notifications", "UTC")
        until(browser, "#stores", "deduplication indexunder")
        until(browser, "#workers", browser.text("#streams tbody td:nth-child(2)"))
        lag = "#streams tbody td:nth-child(3)"
        browser.until("return document.querySelector(arguments[0]).textContent === '0'", lag)
        assert "this one" in browser.text("#workers")
        assert str(sidecar.directory) in browser.text("#stores")
        assert browser.text("#held") == "nothing is"
        assert "as of" in browser.text("#as-of")
        assert browser.run(NAMELESS) == 0
        quiet(browser, url)


@pytest.mark.proof
def test_a_troubled_fleet(sidecar: Cli, browser: Browser) -> None:
    """What is held, dead, halted or silent is named, with tenant and reason, as it comes."""
    with served(sidecar) as url:
        look(browser, url)
        until(browser, "#summary", "all streams run")
        held_event(sidecar, "t_held")
        sidecar.client.xadd(STREAM, {"event": "no JSON"})
        sidecar("emit", "--type", "moon.phase")
        reader = f"{{{NOTIFICATIONS}}}:reader:ctl-1"
        sidecar.client.set(reader, f"1790000000000000 {10**15} 60")
        sidecar.client.sadd(f"{{{NOTIFICATIONS}}}:registered", "ctl-1")
        until(browser, "#held", "t_held")
        until(browser, "#held", "NotFound")
        until(browser, "#dead", "malformed")
        until(browser, "#dead", "unknown_type")
        until(browser, "#readers", "expired")
        assert sidecar("pause", "--reason", "bad deploy").code == 0
        until(browser, "#summary", "is halted: bad deploy")
        until(browser, "#streams", "bad deploy")
        assert browser.run("return document.querySelector('#summary').className") == "bad"
        quiet(browser, url)


def test_a_takeover_shows_both_workers(sidecar: Cli, browser: Browser) -> None:
    """Who owns the stream now, and who did before."""
    with ExitStack() as stack:
        sidecar.lay_out()
        first = stack.enter_context(sidecar.running(*RUN))
        eventually(lambda: sidecar("status", "--json").object()["streams"][0]["owner_alive"])
        url = stack.enter_context(served(sidecar))
        look(browser, url)
        until(browser, "#workers", f":{first.pid}")
        first.kill()
        until(browser, "#takeovers", f":{first.pid}")


def test_what_is_seen_stays_when_the_worker_goes(sidecar: Cli, browser: Browser) -> None:
    """With its time, and that the worker does not answer."""
    with served(sidecar) as url:
        look(browser, url)
        until(browser, "#streams", STREAM)
    until(browser, "#as-of", "the worker does not answer")
    assert "as of 20" in browser.text("#as-of")
    assert STREAM in browser.text("#streams")
    assert browser.run("return document.body.classList.contains('stale')")


def test_a_worker_whose_redis_is_away_says_so(tmp_path: Path) -> None:
    """From the start: the page is there, and says why it has nothing."""
    nobody: Any = None
    sidecar = Cli(f"redis://127.0.0.1:{free_port()}", tmp_path, nobody)
    with served(sidecar) as url:
        eventually(lambda: _answers(url))
        eventually(lambda: sidecar.url in _status(url)["error"])
        assert _status(url)["status"] is None
        eventually(lambda: _status(url)["worker"]["states"][STREAM]["state"] == "waiting")


def _status(url: str) -> Any:
    with urllib.request.urlopen(f"{url}status.json", timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("hostile", [EVIL, HOSTILE], ids=["markup", "control"])
def test_hostile_text_is_text(sidecar: Cli, browser: Browser, hostile: str) -> None:
    """Markup and control characters of a tenant, a reason or a reader do nothing."""
    held_event(sidecar, hostile)
    letter: dict[Any, Any] = {"reason": hostile}
    with served(sidecar) as url:
        look(browser, url)
        if hostile.isprintable():  # else it is refused as no tenant's name
            until(browser, "#held", "NotFound")
        sidecar.client.xadd(f"{{{NOTIFICATIONS}}}:dead", letter)
        sidecar.client.set(f"{{{NOTIFICATIONS}}}:reader:{hostile}", f"1 {10**15} 60")
        sidecar.client.sadd(f"{{{NOTIFICATIONS}}}:registered", hostile)
        sidecar.client.hset(HALT, mapping={"reason": hostile, "since": "s", "by": hostile})
        until(browser, "#summary", "is halted")
        until(browser, "#readers", "expired")
        assert browser.run("return document.images.length") == 0
        assert browser.run("return document.scripts.length") == 1
        shown = browser.text("main")
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        quiet(browser, url)


def test_it_can_be_read_in_light_and_dark(sidecar: Cli, browser: Browser) -> None:
    """It follows what the person prefers; text has the contrast that WCAG asks for (4.5)."""
    inks = ("ink", "soft", "good", "bad", "warn")
    texts = [(ink, on) for ink in inks for on in ("paper", "card")]
    with served(sidecar) as url:
        for scheme in ("light", "dark"):
            browser.color_scheme(scheme)
            look(browser, url)
            paper = browser.run("return getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (scheme == "dark")
            for ink, on, contrast in browser.run(CONTRAST, texts):
                assert contrast >= 4.5, (scheme, ink, on)


def test_it_fits_a_telephone(sidecar: Cli, browser: Browser) -> None:
    """Tables scroll by themselves; the page does not, sideways."""
    held_event(sidecar, "t" * 200)
    with served(sidecar) as url:
        browser.resize(390, 800)
        look(browser, url)
        until(browser, "#held", "NotFound")
        assert browser.run("return document.documentElement.scrollWidth") <= 390
