"""A real browser without a window, told what to do over its own debugging protocol; a sound file is its microphone."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
POLL_MS = 50
BLANK = "about:blank"


class Browser:
    """One page that is open."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._asked = 0
        self.complaints: list[str] = []  # errors of scripts, and what the page was forbidden

    async def tell(self, method: str, **params: Any) -> Any:
        """Send one command; returns its result."""
        self._asked += 1
        await self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while (message := await self._next()).get("id") != self._asked:
            pass
        return message["result"]

    async def open(self, url: str) -> None:
        """Go to a page; returns when its scripts have begun."""
        for domain in ("Runtime", "Log", "Page"):
            await self.tell(f"{domain}.enable")
        await self.tell("Page.navigate", url=url)
        while (await self._next()).get("method") != "Page.loadEventFired":
            pass

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self._socket.recv())
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(message["params"]["exceptionDetails"]["exception"]["description"])
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])
        return message

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        """The first true value of an expression; the time limit of the test is the only one."""
        look = f"const look = () => ({script}) ? found({script}) : setTimeout(look, {POLL_MS}); look()"
        return await self.run(f"new Promise(found => {{ {look} }})")


@asynccontextmanager
async def browsing(program: str, url: str, microphone: Path | None = None) -> AsyncIterator[Browser]:
    """A browser at a page."""
    heard = [f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program, *FLAGS, *heard, f"--user-data-dir={profile}", BLANK, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stderr
            while b"DevTools listening on" not in (line := await process.stderr.readline()):
                assert line, "the browser ended"
            port = int(line.split(b"127.0.0.1:")[1].split(b"/")[0])
            async with asyncio.TaskGroup() as tasks:
                drain = tasks.create_task(process.stderr.read(), name="what else it says")
                async with connect(await _find_page(port), max_size=None, proxy=None) as socket:
                    browser = Browser(socket)
                    await browser.open(url)
                    yield browser
                drain.cancel()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _find_page(port: int) -> str:
    while True:
        for target in await asyncio.to_thread(_targets, port):
            if target["url"] == BLANK:
                return str(target["webSocketDebuggerUrl"])
        await asyncio.sleep(POLL_MS / 1000)


def _targets(port: int) -> list[dict[str, Any]]:
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/json/list")
        targets: list[dict[str, Any]] = json.load(connection.getresponse())
        return targets
