"""The adapters for non-commercial use, served: asked over the protocol how somebody feels."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.__main__ import load_engine
from agent.config import AgentConfig, load_config
from clients.demo.run import FOLDER
from clients.file import read_sound
from clients.realtime import to_pcm
from tests.agent.harness import talking
from tests.agent.scripted import silence
from tests.clients.nano import server_running
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.live import LiveEngine
from wavllm_core.tasks import EMOTIONS, TASKS
from wavllm_core.train.speakers import emotion_answer

EMOTIONS_FOLDER = NANO.parent / "emotions-noncommercial"


@pytest.fixture
def served(tmp_path: Path) -> tuple[AgentConfig, LiveEngine]:
    """As `serve --config` loads them, before there is an event loop that it would block."""
    file = tmp_path / "emotions.yaml"
    file.write_text(f"model: {{checkpoint: {EMOTIONS_FOLDER}}}\n")
    settings = load_config(file)
    return settings, load_engine(settings)


async def test_how_somebody_feels_is_told_in_the_words_of_the_training(served: tuple[AgentConfig, LiveEngine]) -> None:
    settings, engine = served
    sound = silence(400) + to_pcm(read_sound(FOLDER / "clips" / "s2i_540a38c2.flac")) + silence(700)
    async with server_running(engine, settings) as url, talking(urlsplit(url).port or 0) as client:
        updated = await client.configure(instructions=TASKS["er"].prompt)
        assert updated["session"]["model"] == "wavllm"
        await client.append(sound)
        (content,) = (await client.until("response.done"))["response"]["output"][0]["content"]
    assert content["text"] in map(emotion_answer, EMOTIONS)
