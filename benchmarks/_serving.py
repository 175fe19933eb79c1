"""A real server in this process, its clients in another one: what benchmarks with many conversations share."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from agent.config import AgentConfig
from agent.transport.server import serve
from clients.realtime import SAMPLE_RATE
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.load import Load

CLIPS = Path(__file__).parent.parent / "clients" / "demo" / "clips"
CHUNK_S = 0.04
QUIET = np.zeros(round(CHUNK_S * SAMPLE_RATE), np.float32)
SPOKEN_S = (0.5, 5.0)  # of the clips that are used


def recorded_people() -> list[np.ndarray]:
    """The demo's clips that are long enough to be a turn and short enough to be one of many."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(CLIPS.glob("*.flac"))]
    return [clip for clip in clips if SPOKEN_S[0] <= len(clip) / SAMPLE_RATE <= SPOKEN_S[1]]


async def serve_clients(
    engine: LiveEngine, people: int, seconds: float, look: Callable[[Load], None], every_s: float
) -> Any:
    """Serve `people` sessions to this very script, run once more as `--play PORT PEOPLE SECONDS`.

    look: told the engine's figures every so often
    returns: what the clients printed, read as JSON
    """
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig()
    config = replace(config, server=replace(config.server, port=0, max_sessions=people))
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(config, engine, on_ready=ready.set_result))
        command = [sys.executable, sys.argv[0], "--play", str(await ready), str(people), str(seconds)]
        clients = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        printed = tasks.create_task(clients.communicate())
        while not printed.done():
            look(await engine.load_figures())
            await asyncio.wait([printed], timeout=every_s)
        server.cancel()
    return json.loads(printed.result()[0])


def run_as(play: Callable[[int, int, float], Coroutine[Any, Any, None]], main: Callable[[], None]) -> None:
    """Be the clients, where `serve_clients` has started this script; else the benchmark itself."""
    if sys.argv[1:2] != ["--play"]:
        main()
        return
    torch.set_num_threads(1)
    port, people, seconds = sys.argv[2:]
    asyncio.run(play(int(port), int(people), float(seconds)))
