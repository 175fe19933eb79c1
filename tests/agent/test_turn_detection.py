"""`semantic_vad`, and speaking up when nobody does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hearing.listener import Listener, Speech
from agent.hearing.turn_end import PATIENCE, silence_ms
from agent.hearing.turns import SpeechPaused, SpeechStarted, SpeechStopped, TurnRules
from agent.protocol.fields import Fields
from agent.protocol.settings import SessionSettings, merge
from agent.protocol.turn_detection import TurnDetection
from tests.agent.harness import Client, running, talking, turn
from tests.agent.scripted import LoudnessVad, ScriptedEngine, ScriptedVoice, silence, speech
from wavllm_core.engine.api import Heard

FRAME = 640  # bytes
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
STOPPED, TIMEOUT = "input_audio_buffer.speech_stopped", "input_audio_buffer.timeout_triggered"


def by_length(long_ms: int) -> Callable[[Heard], float]:
    """Takes for finished what is so long."""
    return lambda heard: float(1000 * heard.seconds >= long_ms)


async def settle(client: Client) -> None:
    """Until all is done that the server does on its own: two round trips, for what it tells itself in between."""
    for _ in range(2):
        await client.configure()


@pytest.mark.parametrize("eagerness", ["low", "medium", "high", "auto"])
async def test_a_finished_turn_ends_early_and_an_unfinished_one_late(eagerness: Any) -> None:
    engine, patience = ScriptedEngine(), PATIENCE[eagerness]
    async with running(engine, judge=by_length(1_000)) as port, talking(port) as client:
        wanted = {"type": "semantic_vad", "eagerness": eagerness}
        session = (await client.configure_input(turn_detection=wanted))["session"]
        assert session["audio"]["input"]["turn_detection"] == {
            **wanted,
            "create_response": True,
            "interrupt_response": True,
        }
        await client.append(silence(400) + speech(400) + silence(patience.most_ms - 60), FRAME)
        await settle(client)
        assert STOPPED not in client.kinds()  # 800 ms are not finished
        await client.append(speech(400) + silence(patience.finished_ms), FRAME)
        await client.until(STOPPED)
        await client.until("response.done")
        assert client.kinds().count(STOPPED) == 1
        await client.append(speech(400) + silence(patience.most_ms), FRAME)
        await client.until("response.done")
    whole, short = (1000 * len(waveform) // 16_000 for waveform in (engine.heard[-2], engine.heard[-1]))
    lead_ms = min(300, patience.finished_ms - 100)  # of silence that no turn had before
    assert (whole, short) == (300 + 400 + patience.most_ms - 60 + 400 + 100, lead_ms + 400 + 100)


async def test_without_a_judge_silence_decides_and_the_client_is_told_once() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.configure_input(turn_detection={"type": "semantic_vad"})
        for _ in range(2):
            await client.append(silence(400) + speech(400) + silence(500), FRAME)
            await client.until("response.done")
        (told,) = [event for event in client.seen if event["type"] == "wavllm.turn_detection_degraded"]
        assert "500 ms" in told["message"]
        assert "error" not in client.kinds()


async def test_encoders_that_fail_leave_the_fixed_silence() -> None:
    engine = ScriptedEngine()
    engine.deaf = True
    async with running(engine, judge=by_length(0)) as port, talking(port) as client:
        await client.configure_input(turn_detection={"type": "semantic_vad", "eagerness": "low"})
        await client.append(silence(400) + speech(400) + silence(500), FRAME)
        assert (await client.until("response.done"))["response"]["status"] == "failed"


async def test_silence_after_a_reply_is_answered_again_and_again() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.configure_input(turn_detection={"idle_timeout_ms": 5_000})
        await client.append(silence(12_000), 64_000)
        await settle(client)
        assert TIMEOUT not in client.kinds()  # nothing was said yet, so nothing is expected
        await client.append(turn())
        while not {"response.done", TRANSCRIBED} <= set(client.kinds()):
            await client.receive()
        for _ in range(2):
            await settle(client)
            client.seen.clear()
            await client.append(silence(5_000), 16_000)
            await client.until("response.done")
            kinds = [kind for kind in client.kinds() if not kind.startswith("rate")]
            assert kinds[:5] == [
                TIMEOUT,
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                "response.created",
            ]
            timeout, committed = client.seen[:2]
            assert timeout["item_id"] == committed["item_id"] == client.seen[2]["item"]["id"]
            assert 5_000 <= timeout["audio_end_ms"] - timeout["audio_start_ms"] < 5_500
    assert [len(history) for _, history, _ in engine.asked] == [1, 2, 3]


async def test_speech_is_no_silence_and_a_reply_counts_once_it_was_heard() -> None:
    engine = ScriptedEngine()
    engine.words = ["x" * 100]  # a second of the scripted voice
    async with running(engine, voice=ScriptedVoice()) as port, talking(port) as client:
        await client.configure(output_modalities=["audio"])
        await client.configure_input(turn_detection={"idle_timeout_ms": 5_000, "create_response": False})
        await client.send("response.create")
        await client.until("response.done")
        await client.append(silence(4_900), 32_000)
        await client.append(turn())
        await client.until(TRANSCRIBED)
        await client.append(silence(12_000), 32_000)
        await settle(client)
        assert TIMEOUT not in client.kinds()
        await client.send("response.create")
        await client.until("response.done")
        await client.append(silence(5_000), 32_000)
        await settle(client)
        assert TIMEOUT not in client.kinds()  # the client still played for a while
        await client.append(silence(1_000), 32_000)
        await client.until(TIMEOUT)


def test_a_change_of_type_begins_with_the_defaults() -> None:
    def patched(settings: SessionSettings, **detection: Any) -> SessionSettings:
        return merge(settings, Fields({"audio": {"input": {"turn_detection": detection}}}), SessionSettings())

    tuned = patched(SessionSettings(), silence_duration_ms=900, threshold=0.8)
    semantic = patched(tuned, type="semantic_vad", create_response=False)
    assert semantic.turn_detection == TurnDetection(eagerness="auto", create_response=False)
    assert patched(semantic, eagerness="low").turn_detection == TurnDetection(eagerness="low", create_response=False)
    assert patched(semantic, type="server_vad").turn_detection == TurnDetection()


def test_scores_are_read_in_order() -> None:
    for eagerness in PATIENCE:
        waits = [silence_ms(eagerness, score / 100) for score in range(101)]
        assert waits == sorted(waits, reverse=True)
        assert len(set(waits)) == 3


@given(pause_ms=st.integers(120, 900), told_ms=st.integers(100, 900), allowed_ms=st.integers(100, 900))
def test_a_pause_that_is_judged_late_ends_where_it_would_have_ended(
    pause_ms: int, told_ms: int, allowed_ms: int
) -> None:
    """Speech, a pause in which the listener is told how long it may last, and speech again."""
    rules = TurnRules(silence_samples=16 * 2_000)
    listener = Listener(LoudnessVad(0.5), rules, 0)
    pause, told = pause_ms // 20 * 20, min(told_ms, pause_ms) // 20 * 20
    happened = list(listener.feed(speech(400) + silence(told)))
    stopped = listener.wait(16 * allowed_ms)
    happened += [stopped] if stopped else []
    happened += list(listener.feed(silence(pause - told) + speech(400) + silence(2_000)))
    audio = b"".join(event.pcm for event in happened if isinstance(event, Speech))
    kinds = [type(event) for event in happened if not isinstance(event, Speech | SpeechPaused)]
    ended = pause >= max(told, -(-allowed_ms // 20) * 20)
    assert kinds == [SpeechStarted, SpeechStopped] * (2 if ended else 1)
    kept = 100 + min(pause, 100 + 300) if ended else pause + 100
    assert len(audio) // 32 == 800 + kept
