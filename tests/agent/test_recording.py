"""Sessions on disk, and the same sessions once more, to the last byte."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig, ServerConfig
from agent.errors import RecordingError
from agent.protocol.handshake import Handshake
from agent.sessions.recording import Recorder, Recording
from agent.sessions.replay import replay
from agent.transport.server import build_options
from tests.agent.harness import Client, running, talking, turn
from tests.agent.scripted import LoudnessVad, ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.test_golden_events import Script, back_channel, barge_in, false_interruption, out_of_band, playback
from tests.agent.test_items import create, message

SENTENCES = ["One two three. Four five six. ", "Seven " * 300]
Scenario = Callable[[Client, ScriptedEngine], Awaitable[None]]


def configured(folder: Path, **server: Any) -> AgentConfig:
    return AgentConfig(server=ServerConfig(recordings=folder, **server))


async def spoken_turns(client: Client, engine: ScriptedEngine) -> None:
    for voice in (1, 2):
        await client.append(turn(400, voice), chunk_bytes=3_000)
        await client.until("response.done")
    await client.configure(instructions="be brief")
    await create(client, message("and now"))
    await client.send("response.create")
    await client.until("response.done")


async def interruptions(client: Client, engine: ScriptedEngine) -> None:
    engine.words = SENTENCES
    await client.configure(output_modalities=["audio"])
    await client.append(turn())
    await client.until("response.output_audio.delta")
    await client.append(speech(400))
    await client.until("response.done")
    await client.socket.send(silence(700))  # a binary frame
    await client.until("response.output_audio.delta")
    await client.send("response.cancel")
    await client.until("response.done")


async def mistakes(client: Client, engine: ScriptedEngine) -> None:
    for nonsense in ("{", "[]", '{"type": 7}', '{"type": "response.cancel"}'):
        await client.socket.send(nonsense)
        await client.complaint()


async def failures(client: Client, engine: ScriptedEngine) -> None:
    engine.mute = engine.cannot_write = True
    await client.append(turn())
    await client.until("response.done")


class Remembering(ScriptedEngine):
    """Knows what it said each time, and can say it again."""

    def __init__(self, again: list[list[str] | None] | None = None) -> None:
        super().__init__()
        self.said: list[list[str] | None] = []
        self.again = again

    def reply(self, *asked: Any) -> Any:
        if self.again:
            self.words = self.again.pop(0)
        self.said.append(self.words)
        return super().reply(*asked)


def scripted(scenario: Any) -> Scenario:
    return lambda client, engine: scenario(Script(client, engine))


async def record(folder: Path, engine: ScriptedEngine, scenario: Scenario, **server: Any) -> Path:
    async with running(engine, configured(folder, **server), voice=ScriptedVoice()) as port, talking(port) as client:
        await scenario(client, engine)
        await client.configure()
    return recorded(folder)


def recorded(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def options(config: AgentConfig | None = None) -> Any:
    return build_options(config or AgentConfig(), LoudnessVad, lambda _: ScriptedVoice())


@pytest.mark.parametrize(
    "scenario",
    [
        *[spoken_turns, interruptions, mistakes, failures],
        *map(scripted, [barge_in, out_of_band, playback, false_interruption, back_channel]),
    ],
)
async def test_a_replay_says_the_same_to_the_last_byte(tmp_path: Path, scenario: Scenario) -> None:
    engine = Remembering()
    recording = Recording.read(await record(tmp_path, engine, scenario))
    again = Remembering(engine.said)
    again.mute, again.cannot_write, again.written = engine.mute, engine.cannot_write, engine.written
    async with asyncio.timeout(15):
        assert await replay(recording, again, options()) is None
    assert sum("out" in line for line in recording.lines) > 5
    assert len(again.asked) == len(engine.asked)


async def test_a_model_that_says_something_else_is_found_out(tmp_path: Path) -> None:
    recording = Recording.read(await record(tmp_path, ScriptedEngine(), spoken_turns))
    engine = ScriptedEngine()
    engine.words = ["something ", "else"]
    different = await replay(recording, engine, options())
    assert different is not None
    assert '"delta":"something "' in (different.replayed or "")
    assert '"delta":"answer 1"' in (different.recorded or "")
    assert recording.lines[different.line - 2]["out"] == different.recorded


async def test_a_model_that_says_nothing_is_found_out(tmp_path: Path) -> None:
    recording = Recording.read(await record(tmp_path, ScriptedEngine(), spoken_turns))
    engine = ScriptedEngine()
    engine.go_on.clear()
    different = await replay(recording, engine, options(), patience_s=0.2)
    assert different is not None
    assert different.replayed is None
    assert (different.recorded or "").startswith("ReplyPiece resp_")


async def test_other_settings_are_found_out(tmp_path: Path) -> None:
    recording = Recording.read(await record(tmp_path, ScriptedEngine(), spoken_turns))
    changed = options()
    changed = replace(changed, settings=replace(changed.settings, instructions="other"))
    different = await replay(recording, ScriptedEngine(), changed)
    assert different is not None
    assert "session.created" in (different.recorded or "")


async def test_a_session_that_ended_in_time_ends_again(tmp_path: Path) -> None:
    config = configured(tmp_path, session_s=0.3)
    async with running(ScriptedEngine(), config) as port, talking(port) as client:
        assert (await client.complaint())["code"] == "session_expired"
    file = recorded(tmp_path)
    again = build_options(config, LoudnessVad, lambda _: None)
    assert await replay(Recording.read(file), ScriptedEngine(), again) is None


async def test_the_file_is_for_its_owner_and_can_be_read(tmp_path: Path) -> None:
    file = await record(tmp_path, ScriptedEngine(), spoken_turns)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    times = [line["at"] for line in lines[1:] if "out" not in line]
    assert times == sorted(times)
    sent = [json.loads(line["in"]) for line in lines if "in" in line]
    audio = b"".join(base64.b64decode(one["audio"]) for one in sent if "audio" in one)
    assert audio == turn(400, 1) + turn(400, 2)


async def test_a_folder_that_is_not_there_costs_the_recording_only(tmp_path: Path) -> None:
    async with running(ScriptedEngine(), configured(tmp_path / "no")) as port, talking(port) as client:
        await client.send("response.create")
        assert (await client.until("response.done"))["response"]["status"] == "completed"


def test_a_recording_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sessions.recording.MAX_RECORDING_BYTES", 300)
    recorder = Recorder(tmp_path, Handshake())
    for _ in range(50):
        recorder.took("x" * 20, 1.0)
    recorder.close()
    recorder.took("late", 2.0)
    recorder.close()
    assert recorder.path.stat().st_size < 400
    assert Recording.read(recorder.path).lines[-1] == {"cut": True}


@pytest.mark.parametrize("text", ["", "{}\n", "nonsense\n", '{"wavllm_recording": 2}\n', "[]\n"])
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text(text)
    with pytest.raises(RecordingError, match=r"file\.jsonl, line 1"):
        Recording.read(file)


def test_a_line_that_is_broken_is_named_and_one_that_was_never_finished_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Handshake(model="mine"))
    recorder.took("one", 1.0)
    recorder.close()
    whole = recorder.path.read_text()
    recorder.path.write_text(whole + '{"at": 2, "in')
    recording = Recording.read(recorder.path)
    assert (recording.handshake.model, recording.lines) == ("mine", [{"at": 1.0, "in": "one"}])
    recorder.path.write_text(whole + '{"at": 2, "in\n')
    with pytest.raises(RecordingError, match="line 3"):
        Recording.read(recorder.path)
    with pytest.raises(RecordingError, match="nowhere"):
        Recording.read(tmp_path / "nowhere")
