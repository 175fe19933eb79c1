"""From a recorded order to the reply: device, broker, gateway, server and the shipped model."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from clients.demo.home import be_at_home
from clients.demo.run import FOLDER, free_port, read_script
from tests.clients.nano import server_running
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.live import LiveEngine


@pytest.fixture
def engine() -> LiveEngine:
    """Loaded before there is an event loop that it would block."""
    return LiveEngine.load(NANO)


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
