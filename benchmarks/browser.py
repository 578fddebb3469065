"""A headless Chromium, driven over its DevTools protocol, for what only a browser can tell.

Messages are JSON, each ended by a NUL, through two pipes that the browser finds as its descriptors 3 and 4
(--remote-debugging-pipe): no port, and no package for WebSockets.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which a container has no means for; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """Path of a Chromium or Chrome; None where PATH has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_browser(program: str, timeout: float = 30.0) -> Iterator[Tab]:
    """An empty tab of a new browser, which ends with the block. TimeoutError where it says nothing for so long."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        ours_in, theirs_out = _pipe()
        theirs_in, ours_out = _pipe()
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
        wires = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        arguments = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        environment = {**os.environ, "TMPDIR": profile}  # it leaves things there when it is killed
        process = os.posix_spawn(program, arguments, environment, file_actions=[*null, *wires], setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Tab(ours_in, ours_out, timeout)
        finally:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(ours_in)
            os.close(ours_out)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are not 3 or 4, so that neither is overwritten while they are laid there."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]


class Tab:
    """One page. `events` collects what the browser told of its own accord, as (method, params)."""

    def __init__(self, read: int, write: int, timeout: float) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._read, self._write, self._timeout = read, write, timeout
        self._received = b""
        self._sent = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command and wait for its result; RuntimeError where the browser refuses it."""
        self._sent += 1
        number = self._sent
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(time.monotonic() + self._timeout, method)
            if answer.get("id") == number:
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self, end: float, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser does not answer: {waiting_for}")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError(f"the browser has ended: {waiting_for}")
            self._received += part
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def goto(self, path: Path) -> None:
        """Open a file and wait until it has loaded."""
        before = len(self.events)
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + self._timeout
        while not any(method == "Page.loadEventFired" for method, _ in self.events[before:]):
            self._next(end, f"loading {path}")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise; RuntimeError where it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of a JavaScript expression as soon as it is true."""
        return self._until(lambda: self.evaluate(script), script)

    def _until(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + self._timeout
        while not (value := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {what}")
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """Press and release a key by its DOM name, such as Enter or ArrowRight."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=_KEYS[key], **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def click(self, selector: str) -> None:
        """Click where the first element that a CSS selector finds is, as a mouse does."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def look(self, width: int, height: int, scale: float = 1.0, dark: bool = False) -> None:
        """Size of the window in CSS pixels, device pixels a CSS pixel, and what the system prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        preferred = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=preferred)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of what the window shows, or of the whole page."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, uncaught exceptions, and what the security policy refused."""
        found = []
        for method, params in self.events:
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
        return found

    def requested(self) -> list[str]:
        """Every address that the page asked for."""
        sent = [params for method, params in self.events if method == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]


_KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
