"""The server without a model: whatever it costs is socket, decoding, resampling, detector and turns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from agent.config import AgentConfig, ServerConfig
from agent.transport.server import serve
from wavllm_core.engine.api import Exchange, Heard, Sampling, Written
from wavllm_core.engine.load import Load


class DeafUtterance:
    def push(self, waveform: np.ndarray) -> None:
        pass

    async def hear(self) -> Heard:
        return Heard(np.zeros((1, 1), np.float32), np.eye(1, 128, dtype=np.float32)[0], 1.0)

    def cancel(self) -> None:
        pass


class MuteEngine:
    """Hears nothing, says nothing. Is its own context."""

    def open_context(self) -> MuteEngine:
        return self

    def open_utterance(self) -> DeafUtterance:
        return DeafUtterance()

    def prepare(self, instructions: str, history: Sequence[Exchange]) -> None:
        pass

    def speculate(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> None:
        pass

    async def reply(self, *_: object) -> AsyncGenerator[str, None]:
        yield "yes"

    async def transcribe(self, heard: Heard) -> AsyncGenerator[Written, None]:
        yield Written("something")

    def prompt_usage(self) -> None:
        return None

    def count_tokens(self, text: str) -> int:
        return 1

    async def load_figures(self) -> Load:
        raise NotImplementedError

    def close(self) -> None:
        pass


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    config = AgentConfig(server=ServerConfig(port=0, max_sessions=256, max_connections=512))
    parts = {"on_ready": lambda port: print(port, flush=True), "make_voice": lambda _: None}
    asyncio.run(serve(config, MuteEngine(), make_judge=lambda _: None, **parts))


if __name__ == "__main__":
    main()
