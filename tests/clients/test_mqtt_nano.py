"""From a recorded order to the reply: device, broker, gateway, server and the shipped model."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from rich.console import Console

from agent.config import AgentConfig
from agent.server import serve
from clients.demo.run import FOLDER
from clients.device import run_device
from clients.file import Line, read_sound
from clients.realtime import SAMPLE_RATE
from tests.clients.brokers import amqtt_running
from tests.clients.gateways import gateway_running
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.live import LiveEngine


@pytest.fixture
def engine() -> LiveEngine:
    """Loaded before there is an event loop that it would block."""
    return LiveEngine.load(NANO)


@asynccontextmanager
async def server_running(engine: LiveEngine) -> AsyncIterator[str]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig()
    config = replace(config, server=replace(config.server, port=0))
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(config, engine, on_ready=port.set_result))
        try:
            yield f"ws://127.0.0.1:{await port}/v1/realtime"
        finally:
            server.cancel()
    await engine.close()


async def test_a_recorded_order_goes_in_and_coffee_comes_out(engine: LiveEngine) -> None:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    order, three = (read_sound(FOLDER / "clips" / clip) for clip in ("s2i_540a38c2.flac", "fsdd_3_jackson_2.flac"))
    order = order[round(1.6 * SAMPLE_RATE) : round(4.8 * SAMPLE_RATE)]  # the rest is silence
    lines = [
        Line(waveform=order, caption="order"),
        Line(waveform=three, caption="three"),
        Line(text="what did i order"),
    ]
    async with (
        server_running(engine) as url,
        amqtt_running() as broker,
        gateway_running(broker, url, limits={"stall_s": 1.0}),
    ):
        assert await run_device("kitchen", lines, console, broker)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "speaker 1: get me a dark roast mocha" in printed
    assert "speaker 2: three" in printed
    assert "machine  brews 3 × dark roast mocha" in printed
    assert printed.count("reply  ") == 3
