"""One device and the server: what is lost and found, refused, interrupted or forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clients.mqtt.bridge import Bridge, BridgeLimits
from clients.mqtt.topics import AudioChunk, Line
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, silence, speech
from tests.clients.gateways import QUICK, Log
from tests.clients.scripted_server import ScriptedServer


@asynccontextmanager
async def bridge_running(url: str, **limits: Any) -> AsyncIterator[tuple[Bridge, Log]]:
    log = Log()

    async def publish(channel: str, values: Any) -> None:
        log(channel, values)

    wanted = BridgeLimits(**{"backoff": QUICK, "stall_s": 0.1, **limits})
    bridge = Bridge(url, wanted, publish, asyncio.get_running_loop().time)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bridge.run())
        yield bridge, log
        task.cancel()


async def test_lines_are_asked_in_turn_and_each_is_answered() -> None:
    async with running(ScriptedEngine()) as port, bridge_running(f"ws://127.0.0.1:{port}/v1/realtime") as (bridge, log):
        for number in range(5):
            bridge.say(Line(f"line {number}", f"text {number}"))
        await log.until("reply", 5)
    assert [(reply["id"], reply["text"]) for reply in log.of("reply")] == [
        (f"line {number}", f"answer {number + 1} to text {number}") for number in range(5)
    ]


async def test_a_line_typed_while_a_spoken_turn_is_answered_waits_for_it() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, bridge_running(f"ws://127.0.0.1:{port}/v1/realtime") as (bridge, log):
        bridge.hear(AudioChunk(0, silence(400) + speech(400) + silence(100)))
        await log.until("speaker")
        bridge.say(Line("typed", "and then"))
        engine.go_on.set()
        await log.until("reply", 2)
        assert [reply["text"][:8] for reply in log.of("reply")] == ["answer 1", "answer 2"]
        assert log.of("reply")[1]["id"] == "typed"
        assert (await log.until("transcript"))["text"].startswith("voice 1 for")
    assert log.of("error") == []


async def test_a_line_that_crosses_the_end_of_a_spoken_turn_is_asked_again() -> None:
    """The server refuses it, because it has begun to answer what the bridge does not know of yet."""
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, bridge_running(f"ws://127.0.0.1:{port}/v1/realtime") as (bridge, log):
        bridge.hear(AudioChunk(0, silence(100)))
        await log.until("state", 2)
        bridge.hear(AudioChunk(1_600, speech(400) + silence(600)))
        for _ in range(3):  # enough to be sent, not enough to be answered
            await asyncio.sleep(0)
        bridge.say(Line("typed", "and then"))
        await log.until("speaker")
        engine.go_on.set()
        await log.until("reply", 2)
    spoken, typed = log.of("reply")
    assert (spoken["text"], typed["id"], typed["text"]) == ("answer 1 to speech", "typed", "answer 2 to and then")
    assert log.of("error") == []


class TellingEngine(ScriptedEngine):
    """Says when it begins with a reply."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    def reply(self, *question: Any) -> AsyncGenerator[str, None]:
        self.begun.set()
        return super().reply(*question)


async def test_somebody_who_speaks_interrupts_the_reply_to_a_line() -> None:
    engine = TellingEngine()
    engine.go_on.clear()
    async with running(engine) as port, bridge_running(f"ws://127.0.0.1:{port}/v1/realtime") as (bridge, log):
        bridge.say(Line("typed", "a long story"))
        async with asyncio.timeout(5):
            await engine.begun.wait()
        bridge.hear(AudioChunk(0, silence(400) + speech(400)))
        reply = await log.until("reply")
        engine.go_on.set()
        assert (reply["id"], reply["status"]) == ("typed", "cancelled")
        assert (await log.until("reply", 2))["status"] == "completed"


async def test_a_reply_that_fails_says_why() -> None:
    engine = ScriptedEngine()
    engine.mute = True
    async with running(engine) as port, bridge_running(f"ws://127.0.0.1:{port}/v1/realtime") as (bridge, log):
        bridge.say(Line("typed", "hello"))
        reply = await log.until("reply")
    assert (reply["status"], reply["error"]) == ("failed", "out of memory")


async def test_a_conversation_is_closed_when_idle_and_opened_again() -> None:
    async with ScriptedServer().running() as server, bridge_running(server.url, idle_s=0.1) as (bridge, log):
        for number in range(2):
            bridge.say(Line(str(number), "hello"))
            await log.until("reply", number + 1)
            await log.until("state", 4 + 3 * number)
    assert [state["state"] for state in log.of("state")] == ["idle", *["thinking", "ready", "idle"] * 2]


async def test_a_line_outlives_the_server() -> None:
    """The first server leaves in the middle of its reply; the next one answers."""
    async with (
        ScriptedServer(leave_after="response.created").running() as server,
        bridge_running(server.url) as (bridge, log),
    ):
        bridge.say(Line("typed", "hello"))
        error = await log.until("error")
        server.leave_after = ""
        reply = await log.until("reply")
    assert error["code"] == "server_unreachable"
    assert reply == {"id": "typed", "text": "you wrote hello", "status": "completed", "error": None}
    assert len(log.of("error")) == len(log.of("reply")) == 1


async def test_a_line_that_nobody_survives_is_given_up() -> None:
    async with (
        ScriptedServer(leave_after="response.created").running() as server,
        bridge_running(server.url) as (bridge, log),
    ):
        bridge.say(Line("typed", "hello"))
        reply = await log.until("reply")
        assert server.turns == 3
        server.leave_after = ""
        bridge.say(Line("next", "hello"))
        assert (await log.until("reply", 2))["status"] == "completed"
    assert (reply["id"], reply["status"]) == ("typed", "failed")
    assert reply["error"].startswith("no answer in 3 attempts")


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    async with (
        ScriptedServer(mute=True).running() as server,
        bridge_running(server.url, patience_s=0.1) as (bridge, log),
    ):
        bridge.say(Line("typed", "hello"))
        reply = await log.until("reply")
    assert (reply["id"], reply["status"]) == ("typed", "failed")
    assert reply["error"] == "no answer in 3 attempts: no answer within 0.1 s"


async def test_a_line_does_not_wait_for_ever_for_the_answer_to_a_cough() -> None:
    """A turn without words has none where nothing of the reply that it broke off is left."""
    server = ScriptedServer(hears_nothing=True)
    async with server.running(), bridge_running(server.url, patience_s=0.1) as (bridge, log):
        bridge.hear(AudioChunk(0, speech(200) + silence(200)))
        assert (await log.until("state", 4))["state"] == "thinking"
        bridge.say(Line("typed", "hello"))
        reply = await log.until("reply")
    assert (reply["id"], reply["text"], log.of("error")) == ("typed", "you wrote hello", [])


async def test_a_line_does_not_wait_for_ever_for_the_end_of_an_answer() -> None:
    server = ScriptedServer(spoken=[("hello", "hi")], stop_after="response.created")
    async with server.running(), bridge_running(server.url, patience_s=0.1) as (bridge, log):
        bridge.hear(AudioChunk(0, speech(200) + silence(200)))
        await log.until("speaker")
        server.stop_after = ""
        bridge.say(Line("typed", "hello"))
        reply = await log.until("reply")
    assert (reply["id"], reply["text"]) == ("typed", "you wrote hello")


async def test_what_nobody_heard_for_long_is_never_heard() -> None:
    """Whoever ordered a coffee while the server was away does not want it in the night."""
    server = ScriptedServer(refuse=True)
    async with server.running(), bridge_running(server.url, idle_s=0.2) as (bridge, log):
        bridge.hear(AudioChunk(0, speech(200) + silence(200)))
        await log.until("state", 3)
        server.refuse = False
        bridge.say(Line("typed", "hello"))
        await log.until("reply")
    assert [state["state"] for state in log.of("state")][:3] == ["idle", "unavailable", "idle"]
    assert server.samples == 0


async def test_a_device_hears_that_there_is_no_server() -> None:
    async with bridge_running("ws://127.0.0.1:9/v1/realtime") as (bridge, log):
        bridge.say(Line("typed", "hello"))
        error = await log.until("error")
        assert (await log.until("state", 2))["state"] == "unavailable"
    assert (error["code"], log.of("reply")) == ("server_unreachable", [])
    assert "no server at ws://127.0.0.1:9" in error["message"]


async def test_a_device_that_counts_anew_is_heard_again() -> None:
    """A button pressed twice, or a device that was restarted: within two seconds it looks like what came before."""
    server = ScriptedServer(spoken=[("one", "first"), ("two", "second")])
    async with server.running(), bridge_running(server.url) as (bridge, log):
        for turn in (1, 2):
            bridge.hear(AudioChunk(0, speech(400)))
            bridge.hear(AudioChunk(6_400, b""))
            await log.until("reply", turn)
    assert [reply["text"] for reply in log.of("reply")] == ["first", "second"]


async def test_audio_that_nobody_takes_is_dropped_and_counted() -> None:
    async with bridge_running("ws://127.0.0.1:9/v1/realtime") as (bridge, log):
        for number in range(7):
            bridge.hear(AudioChunk(16_000 * number, bytes(32_000)))
        state = await log.until("state", 2)
    assert state == {"state": "unavailable", "muted": False, "dropped_ms": 2_000, "lost_ms": 0}
