"""An MQTT broker for tests: mosquitto as a process that can be killed and come back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from clients.demo.run import free_port
from clients.mqtt.broker import BrokerAddress
from tests.conftest import SEARCH_PATH

MOSQUITTO = shutil.which("mosquitto", path=SEARCH_PATH) or "mosquitto"
START_SECONDS = 10


class Mosquitto:
    """A real broker on a port of its own, which keeps its sessions over restarts."""

    def __init__(self, folder: Path, settings: Sequence[str] = ("allow_anonymous true",)) -> None:
        self.port = free_port()
        self.address = BrokerAddress("127.0.0.1", self.port)
        self._config = folder / "mosquitto.conf"
        lines = [
            "user root",  # else it could not write into the folder
            "persistence true",
            f"persistence_location {folder}/",
            f"listener {self.port} 127.0.0.1",
            *settings,
        ]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(self._config), stderr=asyncio.subprocess.PIPE
        )
        assert self._process.stderr is not None
        said = b""
        async with asyncio.timeout(START_SECONDS):
            while b" running" not in said:
                line = await self._process.stderr.readline()
                assert line, f"mosquitto ended: {said.decode()}"
                said += line

    async def stop(self, *, kill: bool = False) -> None:
        """End it: in good order, so that it writes down what it holds, or not."""
        assert self._process is not None
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        await self._process.communicate()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mosquitto]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()
