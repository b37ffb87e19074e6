"""A real browser, headless, through its own driver: what a person sees of a page."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.servers import free_port, missing, started

TIMEOUT_S: Final = 60.0
_ARGUMENTS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
_ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
KEYS: Final = {"ArrowDown": "\ue015", "ArrowRight": "\ue014", "Enter": "\ue007", "Escape": "\ue00c",
               "Tab": "\ue004"}  # fmt: skip


class Browser:
    """One window of a browser."""

    def __init__(self, driver: str, *, width: int, height: int) -> None:
        self._driver = driver
        options = {"args": [*_ARGUMENTS, f"--window-size={width},{height}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}  # fmt: skip
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{answer['sessionId']}"

    def afresh(self) -> Browser:
        """Forget what was opened, said and asked for so far; return the window."""
        self._call("POST", f"{self._session}/url", {"url": "about:blank"})
        self._devtools("Emulation.clearDeviceMetricsOverride", {})
        self._devtools("Emulation.setEmulatedMedia", {"features": []})
        self.log()
        self.requests()
        return self

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Open a report, or what is at a URL, and wait until it is drawn."""
        self._call("POST", f"{self._session}/url", {"url": "about:blank"})
        url = page.as_uri() if isinstance(page, Path) else page
        url += f"#{fragment}" if fragment else ""
        self._call("POST", f"{self._session}/url", {"url": url})
        self.until("return document.documentElement.dataset.ready === 'true'")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; return what it returns."""
        return self._call(
            "POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)}
        )

    def run_async(self, script: str) -> Any:
        """Run a script that calls its last argument with what is to be returned."""
        body = {"script": script, "args": []}
        return self._call("POST", f"{self._session}/execute/async", body)

    def until(self, script: str, *arguments: Any) -> None:
        """Wait until a script returns something true."""
        ends = time.monotonic() + TIMEOUT_S
        while not self.run(script, *arguments):
            assert time.monotonic() < ends, f"it never came to: {script}; {self.log()}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Return what an element says."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def click(self, selector: str) -> None:
        """Click on an element, as a mouse does."""
        self._act(selector, "click", {})

    def type(self, selector: str, *keys: str) -> None:
        """Type into an element; names of `KEYS` are keys."""
        value = "".join(KEYS.get(key, key) for key in keys)
        self._act(selector, "value", {"text": value})

    def press(self, key: str) -> None:
        """Press a key of `KEYS`, wherever the focus is."""
        presses = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": presses}]
        self._call("POST", f"{self._session}/actions", {"actions": actions})

    def color_scheme(self, scheme: str) -> None:
        """Say what the person prefers: light or dark."""
        self._devtools(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    def resize(self, width: int, height: int) -> None:
        """Give the page so much room."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def screenshot(self, path: Path) -> None:
        """Keep what is seen."""
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def log(self) -> list[str]:
        """Return what the console said since it was last asked."""
        said = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [one["message"] for one in said]

    def requests(self) -> list[str]:
        """Return the URLs that were asked for since that was last asked."""
        said = self._call("POST", f"{self._session}/se/log", {"type": "performance"})
        messages = [json.loads(one["message"])["message"] for one in said]
        return [
            one["params"]["request"]["url"]
            for one in messages
            if one["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        """Close the window."""
        self._call("DELETE", self._session)

    def _act(self, selector: str, action: str, body: dict[str, Any]) -> None:
        """Do something to an element; to its successor, if the page is drawn anew just then."""
        ends = time.monotonic() + TIMEOUT_S
        while not self._acted(self._find(selector), action, body):
            assert time.monotonic() < ends, f"{selector} is drawn anew again and again"

    def _acted(self, element: str, action: str, body: dict[str, Any]) -> bool:
        """Do something to an element; tell whether it was still there."""
        try:
            self._call("POST", f"{self._session}/element/{element}/{action}", body)
        except AssertionError as error:
            if "stale element reference" in str(error):
                return False
            raise
        return True

    def _find(self, selector: str) -> str:
        found = self._call(
            "POST", f"{self._session}/element", {"using": "css selector", "value": selector}
        )
        return str(found[_ELEMENT])

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._call(
            "POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters}
        )

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._driver + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


@contextmanager
def driver() -> Iterator[Callable[..., Browser]]:
    """Yield what opens windows of one browser's driver; skip, or fail in CI, without one."""
    command = shutil.which("chromedriver") or missing("chromedriver (Debian: chromium-driver)")
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        missing("chromium")
    port = free_port()
    with started(
        command, f"--port={port}", "--log-level=OFF",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        windows: list[Browser] = []
        try:
            _wait_for(url)

            def window(*, width: int = 1280, height: int = 1000) -> Browser:
                windows.append(Browser(url, width=width, height=height))
                return windows[-1]

            yield window
        finally:
            for one in windows:
                one.close()
            process.terminate()


def _wait_for(url: str) -> None:
    ends = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/status", timeout=TIMEOUT_S):
                return
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < ends, "the driver does not answer"
            time.sleep(0.05)
