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
from clients.demo.home import be_at_home
from clients.demo.run import FOLDER, free_port, read_script
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
    """The conversation of `wavllm demo --home`, with a quicker machine."""
    console = Console(file=io.StringIO(), width=200, highlight=False)
    async with server_running(engine) as url:
        assert await be_at_home(read_script(FOLDER / "home.json"), console, url, free_port(), False, cup_s=0)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "speaker 1: " in printed
    assert "speaker 2: three" in printed
    assert "coffee  brewing: dark roast espresso with lots of almond milk, cup 3 of 3" in printed
    assert 'wavllm/1/kitchen/coffee  {"state":"ready","drink":"dark roast espresso' in printed
    assert "config  state, transcript, reply, speaker, latency, first_token, listening, mute, say, ask" in printed
    assert "3 of 3 lines answered" in printed
