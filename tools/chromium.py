"""A headless Chromium, driven over its DevTools protocol: just what a test of a page needs.

The protocol's messages are JSON over a WebSocket, for which the client that comes with Jupyter
does; no driver has to be installed. https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --mute-audio "
         "--disable-background-networking --disable-component-update --disable-sync "
         "--disable-extensions --disable-dev-shm-usage --hide-scrollbars --remote-debugging-port=0 "
         "--password-store=basic --force-color-profile=srgb").split()
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # nothing but loopback
KEYS = {  # name -> code of the key, and the text it types
    "Enter": (13, "\r"), "a": (65, ""),
}
CONTROL, SHIFT = 2, 8


class BrowserError(Exception):
    """What did not happen in the browser, in one line."""


def find_chromium():
    """Path of the browser: $BROWSER, or what is installed under a name it goes by."""
    named = os.environ.get("BROWSER")
    found = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if not found:
        raise BrowserError(f"no Chromium found{f' at BROWSER={named!r}' if named else ''}: install "
                           "one (Debian, Ubuntu: apt install chromium), or name one with "
                           "BROWSER=/path/to/chromium")
    return found


def wait_until(holds, seconds, what, pause=0.2):
    """The first true value of holds(), asked again and again; BrowserError after `seconds`.

    The pauses are counted, not the clock: a machine that is busy or asleep is waited for.
    """
    for _ in range(round(seconds / pause)):
        if value := holds():
            return value
        time.sleep(pause)
    raise BrowserError(f"after {seconds} s still not: {what}")


def end_group(process, seconds=5):
    """Ends a process that leads a group, and the group; by force where it does not listen."""
    for how, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


class Chromium:
    """One browser with one page; a context manager. profile: an empty folder for its files."""

    def __init__(self, profile, width=1400, height=1000):
        profile = Path(profile)
        with open(profile / "chromium.log", "w") as log:
            self.process = subprocess.Popen(
                [find_chromium(), *FLAGS, OFFLINE, f"--user-data-dir={profile}", "about:blank"],
                env=os.environ | {"HOME": str(profile), "TMPDIR": str(profile)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        try:
            self.socket, self.sent = self.connect(profile / "DevToolsActivePort"), 0
            self.session = None
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target,
                                     flatten=True)["sessionId"]
            self.call("Page.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def connect(self, told, seconds=30):
        """A WebSocket to the browser, once it has written where into the file `told`."""
        def where():
            if self.process.poll() is not None:
                said = (told.parent / "chromium.log").read_text().strip().splitlines()[-1:]
                raise BrowserError(f"Chromium ended at once: {said or 'it said nothing'}")
            return told.is_file() and len(lines := told.read_text().split()) == 2 and lines

        port, path = wait_until(where, seconds, "Chromium has started")
        return websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=300, suppress_origin=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if hasattr(self, "socket"):
            self.socket.close()
        end_group(self.process)

    def call(self, method, **parameters):
        """The result of one call of the protocol; events on the way are passed over."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | {"sessionId": self.session} if self.session
                                    else message))
        while True:
            try:
                answer = json.loads(self.socket.recv())
            except (OSError, websocket.WebSocketException) as error:
                raise BrowserError(f"{method}: no answer from Chromium ({error})") from None
            if answer.get("id") == self.sent:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    # Looking

    def evaluate(self, script):
        """The value of a JavaScript expression in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True, userGesture=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            raise BrowserError(f"{text.splitlines()[0]} in `{script.strip()[:80]}`")
        return result["result"].get("value")

    def wait_for(self, script, seconds, what):
        """Waits until the expression is true, and returns it; what: the same in words."""
        return wait_until(lambda: self.evaluate(script), seconds, what)

    def screenshot(self, path, whole=False):
        """A PNG of what is seen, or of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(picture["data"]))

    # Acting

    def go(self, address, seconds=60):
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState == 'complete' && location.href != 'about:blank'",
                      seconds, f"{address.split('?')[0]} is loaded")

    def resize(self, width, height, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)

    def click(self, script):
        """Clicks in the middle of the element that the expression gives."""
        x, y = self.evaluate(
            f"(() => {{const e = {script}; e.scrollIntoView({{block: 'nearest'}});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                      clickCount=1)

    def press(self, key, modifiers=0):
        """Presses one key of KEYS, with CONTROL or SHIFT held."""
        code, text = KEYS[key]
        down = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **down)

    def type(self, text):
        self.call("Input.insertText", text=text)
