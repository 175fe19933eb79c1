"""OpenAI's unmodified Agents SDK: its sessions, with agents, tools, handoffs and guardrails, over its websocket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import GuardrailFunctionOutput, OutputGuardrail, function_tool
from agents.realtime import RealtimeAgent, RealtimeModelSendRawMessage, RealtimePlaybackTracker, RealtimeRunner
from agents.realtime.session import RealtimeSession

from agent.config import AgentConfig
from agent.hearing.audio import compress
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.test_tools import CALL, calling_config

HANDOFF = '<tool_call>{"name": "transfer_to_cashier", "arguments": {}}</tool_call>'
TEXT: Any = {"modalities": ["text"]}
PUSH_TO_TALK: Any = {"turn_detection": None}
TELEPHONE: Any = {"input_audio_format": "g711_ulaw", "output_audio_format": "g711_ulaw"}


@function_tool
def brew(cups: int) -> str:
    """Makes coffee."""
    return f"{cups} cups are ready"


class Application:
    """What is written around a session; an error that it does not wait for fails it."""

    def __init__(self, session: RealtimeSession, player: RealtimePlaybackTracker) -> None:
        self.session, self.player = session, player
        self.seen: list[Any] = []

    async def until(self, kind: str, count: int = 1) -> Any:
        async for event in self.session:
            self.seen.append(event)
            assert event.type != "error" or kind == "error", event.error
            count -= event.type == kind
            if not count:
                return event
        raise AssertionError(f"the session is over, without {kind}")

    async def until_sent(self, kind: str) -> dict[str, Any]:
        """An event of the server, as it came."""
        while True:
            data = (await self.until("raw_model_event")).data
            if data.type == "raw_server_event" and data.data["type"] == kind:
                event: dict[str, Any] = data.data
                return event

    async def reply(self) -> str:
        """The next one that has words, when it is over."""
        while True:
            for item in (await self.until_sent("response.done"))["response"]["output"]:
                if item["type"] == "message":
                    part = item["content"][0]
                    return str(part.get("text") or part.get("transcript"))

    async def say(self, pcm: bytes) -> None:
        for start in range(0, len(pcm), 4_800):
            await self.session.send_audio(pcm[start : start + 4_800])

    async def send(self, kind: str, **fields: Any) -> None:
        await self.session.model.send_event(RealtimeModelSendRawMessage(message={"type": kind, "other_data": fields}))

    async def history(self) -> list[Any]:
        """What the conversation is known to be, once all that was asked for has come."""
        await self.send("session.update", session={"type": "realtime"})
        await self.until_sent("session.updated")
        return [event for event in self.seen if event.type == "history_updated"][-1].history

    def audio(self) -> bytes:
        return b"".join(event.audio.data for event in self.seen if event.type == "audio")


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@asynccontextmanager
async def application(
    engine: ScriptedEngine,
    agent: RealtimeAgent[Any],
    settings: Any = None,
    config: AgentConfig | None = None,
    voice: ScriptedVoice | None = None,
) -> AsyncIterator[Application]:
    server = running(engine, config, voice=voice or ScriptedVoice(), judge=lambda heard: 1.0)
    async with server as port:
        player = RealtimePlaybackTracker()
        session = await RealtimeRunner(agent).run(
            model_config={
                "url": f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime",
                "api_key": "none",
                "initial_model_settings": settings or {},
                "playback_tracker": player,
            }
        )
        async with session:
            application = Application(session, player)
            assert (await application.until_sent("session.created"))["wavllm"]
            for _ in range(2):  # the SDK configures a session when it has connected, and its tracing when greeted
                await application.until_sent("session.updated")
            yield application


def texts(history: list[Any]) -> list[tuple[str, str | None]]:
    return [
        (item.role, getattr(item.content[0], "text", None) or getattr(item.content[0], "transcript", None))
        for item in history
        if item.type == "message"
    ]


async def test_a_text_turn() -> None:
    engine = ScriptedEngine()
    async with application(engine, RealtimeAgent(name="clerk", instructions="Be brief."), TEXT) as client:
        await client.session.send_message("hello")
        ended = await client.until("agent_end")
        assert ended.info.context.usage.output_tokens == 4
        assert texts(await client.history()) == [("user", "hello"), ("assistant", "answer 1 to hello")]
        await client.session.update_agent(RealtimeAgent(name="poet", instructions="Rhyme."))
        await client.session.send_message("again")
        assert await client.reply() == "answer 2 to again"
    assert [instructions for instructions, *_ in engine.asked] == ["Be brief.", "Rhyme."]


async def test_a_spoken_turn() -> None:
    engine = ScriptedEngine()
    async with application(engine, RealtimeAgent(name="clerk")) as client:
        await client.say(silence(400, 24_000) + speech(400, 2, 24_000) + silence(800, 24_000))
        await client.until("agent_end")
        reply = "answer 1 to speech"
        assert client.audio() == ScriptedVoice.sound(reply)
        assert texts(await client.history()) == [("user", "voice 2 for 800 ms"), ("assistant", reply)]


async def test_push_to_talk() -> None:
    async with application(ScriptedEngine(), RealtimeAgent(name="clerk"), {**TEXT, **PUSH_TO_TALK}) as client:
        await client.session.send_audio(speech(500, 2, 24_000), commit=True)
        await client.send("response.create")
        await client.until("agent_end")
        assert texts(await client.history())[-1] == ("assistant", "answer 1 to speech")


async def test_a_telephone_call() -> None:
    """As behind the SDK's example for Twilio: µ law both ways."""
    async with application(ScriptedEngine(), RealtimeAgent(name="clerk"), TELEPHONE) as client:
        pcm = silence(400, 8_000) + speech(400, 2, 8_000) + silence(800, 8_000)
        await client.say(compress("audio/pcmu", pcm))
        item_id = (await client.until("audio_end")).item_id
        heard = client.audio()
        assert len(heard) == len(ScriptedVoice.sound("answer 1 to speech")) // 6
        whole = {"item_id": item_id, "content_index": 0, "audio_end_ms": math.ceil(len(heard) / 8)}  # as the SDK rounds
        await client.send("conversation.item.truncate", **whole)
        await client.until_sent("conversation.item.truncated")


async def test_a_tool_and_a_handoff(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.replies = [["Well. ", CALL], ["There."], [HANDOFF], ["Four fifty."]]
    cashier = RealtimeAgent[Any](name="cashier", instructions="Take the money.")
    agent = RealtimeAgent[Any](name="barista", instructions="Make coffee.", tools=[brew], handoffs=[cashier])
    async with application(engine, agent, config=calling_config(tmp_path)) as client:
        await client.session.send_message("two cups")
        assert (await client.until("tool_end")).output == "2 cups are ready"
        assert await client.reply() == "There."
        await client.session.send_message("the bill")
        handoff = await client.until("handoff")
        assert (handoff.from_agent, handoff.to_agent) == (agent, cashier)
        assert await client.reply() == "Four fifty."
        history = await client.history()
        calls = [(item.name, item.output) for item in history if item.type == "function_call"]
        assert (calls[0], calls[1][0]) == (("brew", "2 cups are ready"), "transfer_to_cashier")
        assert texts(history)[-1] == ("assistant", "Four fifty.")
    assert [asked[0].partition("\n")[0] for asked in engine.asked] == ["Make coffee."] * 3 + ["Take the money."]
    assert "brew" in engine.asked[0][0] and "brew" not in engine.asked[3][0]


async def test_speech_cuts_a_reply_to_what_was_played() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    engine.replies = [["One two three. Four", "."]]
    async with application(engine, RealtimeAgent(name="clerk")) as client:
        await client.session.send_message("count")
        begun = await client.until("audio", 2)
        client.player.on_play_ms(begun.item_id, 0, 75)  # 10 ms a character
        await client.say(silence(400, 24_000) + speech(400, 2, 24_000))
        await client.until("audio_interrupted")
        truncated = await client.until_sent("conversation.item.truncated")
        assert (truncated["item_id"], truncated["audio_end_ms"]) == (begun.item_id, 75)
        engine.go_on.set()
        await client.say(silence(800, 24_000))
        assert (await client.reply()).startswith("answer 2 to ")
        assert (await client.history())[1].content[0].transcript.startswith("One two")
    assert engine.asked[-1][1][0].reply == "One two"


async def test_an_application_interrupts() -> None:
    """The SDK truncates, and cancels in the same breath where it finds the turns itself."""
    engine = ScriptedEngine()
    engine.go_on.clear()
    engine.replies = [["One two three. Four", "."]]
    async with application(engine, RealtimeAgent(name="clerk"), PUSH_TO_TALK) as client:
        await client.session.send_message("count")
        begun = await client.until("audio", 2)
        client.player.on_play_ms(begun.item_id, 0, 75)
        await client.session.interrupt()
        await client.until("agent_end")
        assert (await client.until_sent("conversation.item.truncated"))["audio_end_ms"] == 75
        assert texts(await client.history())[-1] == ("assistant", "One two")
        engine.go_on.set()
        await client.session.send_message("go on")
        assert await client.reply() == "answer 2 to go on"


async def test_a_guardrail_stops_a_reply() -> None:
    async def judge(context: Any, agent: Any, output: str) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered="secret" in output)

    engine = ScriptedEngine()
    engine.go_on.clear()
    engine.replies = [["It is a secret. " + "It is nobody's business. " * 5, "."], ["No."]]
    guardrail = OutputGuardrail[Any](guardrail_function=judge)
    async with application(engine, RealtimeAgent(name="clerk", output_guardrails=[guardrail])) as client:
        await client.session.send_message("tell me")
        await client.until("guardrail_tripped")
        assert (await client.reply()).startswith("It is a secret.")  # as far as it came
        engine.go_on.set()
        assert await client.reply() == "No."


async def test_an_error_and_the_session_goes_on() -> None:
    async with application(ScriptedEngine(), RealtimeAgent(name="clerk"), TEXT) as client:
        await client.send("conversation.item.delete", item_id="nobody", event_id="mine")
        error = (await client.until("error")).error
        assert (error.code, error.param, error.event_id) == ("item_not_found", "item_id", "mine")
        await client.session.send_message("hello")
        await client.until("agent_end")
