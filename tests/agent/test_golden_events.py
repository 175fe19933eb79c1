"""Who says what, in which order: one file a scenario in golden_events, to be read like a script.

`>` is the client, `<` the server; deltas of one kind in a row are one line. REWRITE=1 writes the files anew.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig, FunctionsConfig
from agent.protocol.catalogue import SERVER
from tests.agent.harness import Client, Event, running, talking
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.test_items import message
from tests.agent.test_tools import BREW, CALL, calling_config

FOLDER = Path(__file__).parent / "golden_events"
COMPLETED = "conversation.item.input_audio_transcription.completed"
SHOWN = ("role", "status", "reason", "transcript", "text", "name", "code", "speaker")


class Script:
    """A client that writes down what is said."""

    def __init__(self, client: Client, engine: ScriptedEngine) -> None:
        self.client, self.engine = client, engine
        self.lines: list[str] = []

    async def say(self, kind: str, **fields: Any) -> None:
        self._write(f"> {kind}")
        await self.client.send(kind, **fields)

    async def sound(self, *parts: bytes) -> None:
        self._write("> input_audio_buffer.append")
        await self.client.append(b"".join(parts))

    async def hear(self, *kinds: str) -> Event:
        """Everything up to one of these."""
        while True:
            event = await self.client.receive()
            told = [f"{name}={value}" for name, value in _facts(event) if value]
            self._write(" ".join([f"< {event['type']}", *told]))
            if event["type"] in kinds:
                return event

    def _write(self, line: str) -> None:
        if not (line.endswith((".delta", ".append")) and self.lines[-1:] == [line]):
            self.lines.append(line)


def _facts(event: Event) -> list[tuple[str, Any]]:
    if event["type"].endswith(".delta"):
        return []
    inside = [event, event.get("item", {}), event.get("response", {}), event.get("error", {})]
    details = event.get("response", {}).get("status_details") or {}
    return [(name, part[name]) for part in [*inside, details] for name in SHOWN if name in part]


async def text_turn(script: Script) -> None:
    await script.say("conversation.item.create", item=message("what time is it"))
    await script.say("response.create")
    await script.hear("response.done")


async def audio_turn(script: Script) -> None:
    script.engine.pencil.clear()
    await script.say("session.update", session={"type": "realtime", "output_modalities": ["audio"]})
    await script.hear("session.updated")
    await script.sound(silence(400), speech(400), silence(600))
    await script.hear("response.done")
    script.engine.pencil.set()
    await script.hear(COMPLETED)


async def push_to_talk(script: Script) -> None:
    session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    await script.say("session.update", session=session)
    await script.hear("session.updated")
    await script.sound(speech(300))
    await script.say("input_audio_buffer.clear")
    await script.hear("input_audio_buffer.cleared")
    await script.say("input_audio_buffer.commit")
    await script.hear("error")
    await script.sound(speech(300))
    await script.say("input_audio_buffer.commit")
    await script.hear(COMPLETED)
    await script.say("response.create")
    await script.hear("response.done")


async def barge_in(script: Script) -> None:
    script.engine.words = ["One. Two", " and more."]
    script.engine.go_on.clear()
    session = {"type": "realtime", "output_modalities": ["audio"], "audio": {"input": {"transcription": None}}}
    await script.say("session.update", session=session)
    await script.hear("session.updated")
    await script.say("response.create")
    await script.hear("response.output_audio.delta")
    await script.sound(speech(400))
    done = await script.hear("response.done")
    item_id = done["response"]["output"][0]["id"]
    await script.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=10)
    await script.hear("conversation.item.truncated")
    script.engine.go_on.set()
    script.engine.words = ["Yes?"]
    await script.sound(silence(600))
    await script.hear("response.done")


async def playback(script: Script) -> None:
    script.engine.words = ["One two three."]
    await script.say("response.create", response={"output_modalities": ["audio"]})
    item_id = (await script.hear("response.done"))["response"]["output"][0]["id"]
    await script.say("wavllm.playback.ack", item_id=item_id, played_ms=30)
    await script.hear("wavllm.playback")
    await script.sound(speech(400))
    await script.hear("conversation.item.truncated")


async def false_interruption(script: Script) -> None:
    script.engine.words, script.engine.written = ["One. Two", " and more."], ""
    script.engine.go_on.clear()
    await script.say("session.update", session={"type": "realtime", "output_modalities": ["audio"]})
    await script.hear("session.updated")
    await script.say("response.create")
    await script.hear("response.output_audio.delta")
    await script.sound(speech(200))
    await script.hear("response.done")
    script.engine.go_on.set()
    script.engine.pencil.clear()
    await script.sound(silence(600))
    await script.hear("wavllm.speaker")
    script.engine.pencil.set()
    await script.hear("response.done")


async def back_channel(script: Script) -> None:
    script.engine.words, script.engine.written = ["One. Two", " and more."], "Mm-hmm."
    script.engine.go_on.clear()
    extension = {"interruption": {"hold_ms": 500}}
    session = {"type": "realtime", "output_modalities": ["audio"], "wavllm": extension}
    await script.say("session.update", session=session)
    await script.hear("session.updated")
    await script.say("response.create")
    await script.hear("response.output_audio.delta")
    await script.sound(speech(200), silence(200))
    for _ in range(4):  # until it was heard and written down
        await script.client.configure()
    await script.sound(silence(400))
    await script.hear("wavllm.speech_ignored")
    script.engine.go_on.set()
    await script.hear("response.done")


async def tools(script: Script) -> None:
    await script.say("session.update", session={"type": "realtime", "tools": [BREW]})
    await script.hear("session.updated")
    await script.say("conversation.item.create", item=message("two cups"))
    script.engine.words = ["Right away. ", CALL]
    await script.say("response.create")
    call = (await script.hear("response.done"))["response"]["output"][1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "ready"}
    await script.say("conversation.item.create", item=output)
    script.engine.words = ["Here they are."]
    await script.say("response.create")
    await script.hear("response.done")


async def functions(script: Script) -> None:
    call = '<tool_call>{"name": "set_timer", "arguments": {"seconds": 600}}</tool_call>'
    script.engine.replies = [["Right away. ", call], ["Done."]]
    await script.say("response.create")
    await script.hear("response.done")


async def out_of_band(script: Script) -> None:
    script.engine.go_on.clear()
    await script.say("response.create")
    await script.hear("response.output_text.delta")
    await script.say("response.create", response={"conversation": "none", "input": [message("sum up")]})
    await script.hear("response.output_text.delta")
    await script.say("response.create")
    await script.hear("error")
    await script.say("response.cancel")
    await script.hear("response.done")
    script.engine.go_on.set()
    await script.hear("response.done")


async def transcription(script: Script) -> None:
    await script.say("session.update", session={"type": "transcription"})
    await script.hear("session.updated")
    await script.sound(silence(400), speech(400), silence(600))
    await script.hear(COMPLETED)
    await script.say("response.create")
    await script.hear("error")


async def idle(script: Script) -> None:
    detection = {"type": "server_vad", "idle_timeout_ms": 5_000}
    session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
    await script.say("session.update", session=session)
    await script.hear("session.updated")
    await script.say("response.create")
    await script.hear("response.done")
    await script.sound(silence(5_000))
    await script.hear("response.done")


async def naming(script: Script) -> None:
    script.engine.pencil.clear()
    await script.sound(silence(400), speech(400), silence(600))
    await script.hear("response.done")
    await script.say("wavllm.speaker.name", number=1, name="Ada")
    await script.hear("wavllm.speaker.named")
    await script.say("wavllm.speaker.name", number=2, name="Bob")
    await script.hear("error")
    script.engine.pencil.set()
    await script.hear(COMPLETED)


async def semantic_turn(script: Script) -> None:
    """To a model that cannot tell a finished turn."""
    turn_detection = {"type": "semantic_vad", "create_response": False}
    await script.say(
        "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": turn_detection}}}
    )
    await script.hear("session.updated")
    await script.sound(silence(400), speech(400), silence(600))
    await script.hear(COMPLETED)


async def items(script: Script) -> None:
    for role in ("system", "user", "assistant"):
        await script.say("conversation.item.create", item=message("words", role, id=role))
        await script.hear("conversation.item.done")
    for kind in ("retrieve", "delete", "retrieve"):
        await script.say(f"conversation.item.{kind}", item_id="user")
        await script.hear("conversation.item.retrieved", "conversation.item.deleted", "error")


async def failures(script: Script) -> None:
    script.engine.mute = script.engine.cannot_write = True
    script.engine.pencil.clear()
    await script.sound(silence(400), speech(400), silence(600))
    await script.hear("response.done")
    script.engine.pencil.set()
    await script.hear("conversation.item.input_audio_transcription.failed")


SCENARIOS: list[Callable[[Script], Awaitable[None]]] = [
    text_turn,
    audio_turn,
    push_to_talk,
    barge_in,
    playback,
    false_interruption,
    back_channel,
    tools,
    functions,
    out_of_band,
    transcription,
    idle,
    semantic_turn,
    naming,
    items,
    failures,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_events_come_in_the_order_that_is_written_down(
    scenario: Callable[[Script], Awaitable[None]], tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    config = calling_config(tmp_path) if scenario in (tools, functions) else AgentConfig()
    config = replace(config, functions=FunctionsConfig(own=("timers",)))
    async with running(engine, config, voice=ScriptedVoice()) as port, talking(port) as client:
        script = Script(client, engine)
        await scenario(script)
    found = "\n".join(script.lines) + "\n"
    file = FOLDER / f"{scenario.__name__}.txt"
    if os.environ.get("REWRITE") == "1":
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


def test_together_they_say_everything_that_the_server_can_say() -> None:
    """But for the greeting, and what is said of connections."""
    said = {
        line.split()[1]
        for file in FOLDER.glob("*.txt")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("<")
    }
    can_be_said = {entry.name for entry in SERVER if entry.support in ("yes", "extension")}
    assert can_be_said - {"session.created"} == said
