"""The shipped model behind the server, for tests of clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agent.config import AgentConfig
from agent.transport.server import serve
from wavllm_core.engine.live import LiveEngine


@asynccontextmanager
async def server_running(engine: LiveEngine, config: AgentConfig | None = None) -> AsyncIterator[str]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = config or AgentConfig()
    config = replace(config, server=replace(config.server, port=0))
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(config, engine, on_ready=port.set_result))
        try:
            yield f"ws://127.0.0.1:{await port}/v1/realtime"
        finally:
            server.cancel()
    await engine.close()
