"""Speech during a reply: coughs, murmurs, and what is meant."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import Fields
from agent.protocol.interruption import Interruption, merge_interruption
from agent.sessions.draft import Draft, Told
from agent.sessions.tool_calls import Call
from tests.agent.harness import Client, Event, running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.spoken import AUDIO, heard, listening, read
from tests.agent.test_functions import call, saying, serving
from tests.agent.test_tools import BREW, CALL, calling_config
from tests.agent.test_transport import figures
from wavllm_core.errors import CoreError

DONE, STARTED, STOPPED = "response.done", "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
IGNORED, TRUNCATED = "wavllm.speech_ignored", "conversation.item.truncated"
SAID = ["One two three four five six seven. Eight nine ten. ", "And so on."]
WHOLE = "".join(SAID)


def created(client: Client) -> list[Event]:
    return [event for event in client.seen if event["type"] == "response.created"]


async def settle(client: Client, rounds: int = 4) -> None:
    """Until all is done that the server does on its own."""
    for _ in range(rounds):
        await client.configure()


async def interruption(client: Client, **settings: Any) -> None:
    updated = await client.configure(wavllm={"interruption": settings})
    assert updated["session"]["wavllm"]["interruption"].items() >= settings.items()


@asynccontextmanager
async def spoken_to(engine: ScriptedEngine, **settings: Any) -> AsyncIterator[Client]:
    """While a reply sounds, of which 200 ms have arrived; the model goes on writing when it is let."""
    engine.words = list(SAID)
    engine.go_on.clear()
    async with listening(engine, ScriptedVoice(), lead_ms=200) as client:
        await interruption(client, **settings)
        await client.send("response.create")
        while len(heard(client.seen)) < 48 * 200:
            await client.receive()
        yield client


async def cut_off(client: Client, engine: ScriptedEngine) -> Event:
    """Somebody speaks; returns the end of the reply."""
    await client.append(speech(400))
    done = await client.until(DONE)
    engine.go_on.set()
    assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    return done


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("told_by", ["truncate", "ack", "nothing"])
async def test_a_reply_that_nothing_interrupted_goes_on_where_it_was_cut(told_by: str, ahead: bool) -> None:
    """Whether the words are known at the end of the turn or after it, and however it is known what was heard."""
    engine = ScriptedEngine()
    engine.written = "Mm-hmm, uh huh."
    async with spoken_to(engine) as client:
        item_id = next(event["item_id"] for event in client.seen if event["type"] == AUDIO)
        if told_by == "ack":
            await client.send("wavllm.playback.ack", item_id=item_id, played_ms=90)
        first = (await cut_off(client, engine))["response"]
        if told_by == "truncate":
            await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=90)
        if not ahead:
            engine.pencil.clear()
        await client.append(silence(300))
        await settle(client)
        client.seen.clear()
        await client.append(silence(300))
        await client.until("conversation.item.done")
        engine.pencil.set()
        second = (await client.until(DONE))["response"]
        (told,) = [event for event in client.seen if event["type"] == TRANSCRIBED]
        assert told["transcript"] == engine.written
        begun = created(client)[0]
        assert (begun["wavllm_resumes"], second["status"]) == (first["id"], "completed")
        assert WHOLE.endswith(read(client.seen))
        if told_by != "nothing":
            assert read(client.seen) == WHOLE.removeprefix("One two ")
        assert ("wavllm.speaker" in client.kinds()) == (not ahead)
        engine.written = None
        client.seen.clear()
        await client.send("response.create")
        await client.until(DONE)
    assert len(engine.asked) == 2  # and not for the rest
    assert [(one.text, one.reply) for one in engine.asked[-1][1]] == [("", WHOLE), ("", None)]


async def test_words_are_answered_and_the_reply_is_over() -> None:
    engine = ScriptedEngine()
    async with spoken_to(engine) as client:
        await cut_off(client, engine)
        await client.append(silence(600))
        await client.until(DONE)
        assert ["wavllm_resumes" in event for event in created(client)] == [False, False]
    assert len(engine.asked) == 2


async def test_words_that_cannot_be_read_are_answered() -> None:
    engine = ScriptedEngine()
    engine.written, engine.cannot_write = None, True
    async with spoken_to(engine) as client:
        await cut_off(client, engine)
        await client.append(silence(600))
        await client.until(DONE)
    assert len(engine.asked) == 2


async def test_what_cannot_be_heard_fails_as_ever() -> None:
    engine = ScriptedEngine()
    async with spoken_to(engine) as client:
        await cut_off(client, engine)
        engine.deaf = True
        await client.append(silence(600))
        assert (await client.until(DONE))["response"]["status"] == "failed"


async def test_nobody_takes_up_again_who_was_told_not_to() -> None:
    engine = ScriptedEngine()
    engine.written = ""
    async with spoken_to(engine, resume=False) as client:
        await cut_off(client, engine)
        await client.append(silence(600))
        await client.until(DONE)
    assert len(engine.asked) == 2


async def test_a_reply_that_was_deleted_stays_so() -> None:
    engine = ScriptedEngine()
    engine.written = ""
    async with spoken_to(engine) as client:
        done = await cut_off(client, engine)
        await client.send("conversation.item.delete", item_id=done["response"]["output"][0]["id"])
        await client.append(silence(600))
        await client.until("conversation.item.input_audio_transcription.completed")
        await settle(client)
        assert len(created(client)) == 1


async def test_a_written_reply_goes_on_as_well_and_the_model_never_stopped() -> None:
    engine = ScriptedEngine()
    engine.words, engine.written = ["One ", "two ", "three"], ""
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await cut_off(client, engine)
        await client.append(silence(600))
        done = await client.until(DONE)
        assert done["response"]["output"][0]["content"][0]["text"] == "two three"
        assert (await figures(port))["wavllm_resumed_total"] == 1
    assert len(engine.asked) == 1


async def test_a_model_that_still_writes_is_stopped_by_words() -> None:
    engine = ScriptedEngine()
    engine.words = ["One ", "two ", "three"]
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await client.append(speech(400))
        await client.until(DONE)
        assert engine.running == 1
        await client.append(silence(200))
        await settle(client)
        assert (engine.running, len(engine.speculated)) == (0, 2)  # the second with a model that has time
        await client.append(silence(400))
        await client.until("response.created")


async def test_calls_that_a_cough_held_up_are_made(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.words, engine.written = [SAID[0], CALL], ""
    async with running(engine, calling_config(tmp_path), voice=ScriptedVoice()) as port, talking(port) as client:
        await client.configure(output_modalities=["audio"], tools=[BREW])
        await client.send("response.create")
        await client.until(AUDIO)
        await cut_off(client, engine)
        await client.append(silence(600))
        output = (await client.until(DONE))["response"]["output"]
        assert [item["type"] for item in output] == ["message", "function_call"]


async def test_what_calls_gave_before_a_cough_is_told_after_it(tmp_path: Path) -> None:
    """The model had called, and was to be asked again as soon as the question was in writing."""
    engine = saying("Let me look. " + call("get_time"), "It is late.")
    engine.written = ""
    engine.pencil.clear()
    async with serving(engine, tmp_path) as client:
        await client.append(turn())
        while not any(event.get("status") == "completed" for event in client.seen):
            await client.receive()
        await client.append(speech(400))
        await client.until(DONE)
        engine.pencil.set()
        await client.append(silence(600))
        done = (await client.until(DONE))["response"]
        assert (done["status"], done["output"][0]["content"][0]["text"]) == ("completed", "It is late.")
    asked = engine.asked[-1][1][-1].text
    assert "tool_response" in asked and "time" in asked


async def test_murmurs_shorter_than_the_hold_are_ignored() -> None:
    engine = ScriptedEngine()
    engine.written = "Yes, okay."
    async with spoken_to(engine, hold_ms=600, back_channels=["yes", "okay"]) as client:
        await client.append(speech(300) + silence(200))
        await settle(client)
        await client.append(silence(400))
        ignored = await client.until(IGNORED)
        assert (ignored["transcript"], ignored["audio_end_ms"] - ignored["audio_start_ms"]) == ("Yes, okay.", 800)
        engine.go_on.set()
        assert (await client.until(DONE))["response"]["status"] == "completed"
        assert read(client.seen) == WHOLE
        assert not {STARTED, STOPPED} & set(client.kinds())
        await client.send("response.create")  # nothing of it is left
        await client.until(DONE)
    assert [(one.text, one.reply) for one in engine.asked[-1][1]] == [("", WHOLE), ("", None)]


async def test_short_words_interrupt_as_soon_as_they_are_understood() -> None:
    engine = ScriptedEngine()
    engine.written = "Stop!"
    async with spoken_to(engine, hold_ms=600, back_channels=["yes"]) as client:
        await client.append(speech(300) + silence(200))
        started = await client.until(STARTED)
        await client.until(DONE)
        engine.go_on.set()
        await client.append(silence(400))
        stopped = await client.until(STOPPED)
        assert stopped["item_id"] == started["item_id"]
        await client.until("response.created")


async def test_whoever_speaks_on_interrupts_whatever_it_is() -> None:
    engine = ScriptedEngine()
    engine.pencil.clear()
    async with spoken_to(engine, hold_ms=600) as client:
        await client.append(speech(580))
        await settle(client)
        assert STARTED not in client.kinds()
        await client.append(speech(60))
        await client.until(STARTED)
        await client.until(DONE)
        assert engine.running == 1  # still: it may have been nothing


async def test_too_short_for_words_without_asking_the_model() -> None:
    engine = ScriptedEngine()
    engine.pencil.clear()
    async with spoken_to(engine, hold_ms=400, short_ms=300) as client:
        await client.append(speech(240) + silence(600))
        assert (await client.until(IGNORED))["transcript"] == ""
        engine.pencil.set()


async def test_an_answer_that_comes_a_little_early_is_one() -> None:
    """The reply was heard to its end before the murmur was over."""
    engine = ScriptedEngine()
    engine.written, engine.words = "Yes.", ["Some more", "?"]
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await interruption(client, hold_ms=600, back_channels=["yes"])
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await client.append(speech(300) + silence(200))
        await settle(client)
        engine.go_on.set()
        await client.until(DONE)
        await client.append(silence(400))
        await client.until(STOPPED)
        await client.until(DONE)
    assert len(engine.asked) == 2


async def test_taking_the_audio_away_ends_the_doubt() -> None:
    engine = ScriptedEngine()
    engine.written = ""
    async with spoken_to(engine) as client:
        await cut_off(client, engine)
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        await client.append(silence(600) + speech(400) + silence(600))
        await client.until(DONE)
        assert ["wavllm_resumes" in event for event in created(client)] == [False, False]


async def test_a_reply_that_failed_before_it_began_is_not_taken_up() -> None:
    """While the one before it still sounds."""
    engine = ScriptedEngine()
    engine.words, engine.written = ["More? " * 30], "Mhm"
    sound = {"type": "input_audio", "audio": base64.b64encode(speech(200)).decode()}
    async with listening(engine, ScriptedVoice()) as client:
        await client.send("response.create")
        await client.until(DONE)
        engine.deaf = True
        given = [{"type": "message", "role": "user", "content": [sound]}]
        await client.send("response.create", response={"input": given, "output_modalities": ["text"]})
        assert (await client.until(DONE))["response"]["status"] == "failed"
        engine.deaf = False
        await client.append(speech(400) + silence(600))
        await client.until(DONE)
        assert not any("wavllm_resumes" in event for event in created(client))


async def test_silence_after_a_murmur_is_noticed() -> None:
    """Though the reply had been sent whole before it."""
    engine = ScriptedEngine()
    engine.words, engine.written = ["More? " * 30], "Mhm"
    async with listening(engine, ScriptedVoice()) as client:
        await client.configure_input(turn_detection={"type": "server_vad", "idle_timeout_ms": 5_000})
        await interruption(client, hold_ms=400, short_ms=300)
        await client.send("response.create")
        await client.until(DONE)
        await client.append(speech(200) + silence(500))
        await client.until(IGNORED)
        await client.append(silence(8_000), 64_000)
        await client.until("input_audio_buffer.timeout_triggered")


@pytest.mark.parametrize(
    ("patch", "code", "param", "limit"),
    [
        ({"hold_ms": 2_001}, "invalid_value", "hold_ms", "0 to 2000, not 2001"),
        ({"hold_ms": None}, "invalid_value", "hold_ms", "0 to 2000"),
        ({"short_ms": -1}, "invalid_value", "short_ms", "0 to 2000, not -1"),
        ({"resume": "yes"}, "invalid_value", "resume", "true or false"),
        ({"back_channels": "yes"}, "invalid_value", "back_channels", "at most 64 strings"),
        ({"back_channels": ["a"] * 65}, "invalid_value", "back_channels", "at most 64 strings"),
        ({"back_channels": ["yes", 1]}, "invalid_value", "back_channels[1]", "a string, not 1"),
        (
            {"back_channels": ["y" * 65]},
            "string_above_max_length",
            "back_channels[0]",
            "65 characters; the limit is 64",
        ),
        ({"back_channels": ["..."]}, "invalid_value", "back_channels", "phrases of words"),
    ],
)
def test_what_cannot_be_is_refused_by_name(patch: dict[str, Any], code: str, param: str, limit: str) -> None:
    path = "session.wavllm.interruption"
    with pytest.raises(ProtocolError) as refused:
        merge_interruption(Interruption(), Fields(patch, path))
    assert (refused.value.code, refused.value.param) == (code, f"{path}.{param}")
    assert limit in refused.value.message


@pytest.mark.parametrize(
    ("transcript", "nothing"),
    [
        ("", True),
        ("...", True),
        ("Mhm.", True),
        ("Uh-huh, mm hmm", True),
        ("I see! Mhm", True),
        ("I", False),
        ("see", False),
        ("mhm no", False),
        ("I see red", False),
    ],
)
def test_phrases_are_found_whole(transcript: str, nothing: bool) -> None:
    assert Interruption(back_channels=("mhm", "uh huh", "mm hmm", "I see")).is_nothing(transcript) == nothing


PIECES = st.lists(st.one_of(st.text("ab ", min_size=1, max_size=4), st.just(Call("f", "{}"))), max_size=6)


@given(found=PIECES, chars=st.integers(0, 20), calls=st.integers(0, 3))
def test_the_rest_of_a_draft_is_all_that_was_not_told(found: list[str | Call], chars: int, calls: int) -> None:
    async def write_and_read() -> list[str | Call]:
        async def reply() -> Any:
            for piece in found:
                await asyncio.sleep(0)
                yield piece

        draft = Draft()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(draft.write(reply()), name="write")
            rest = [piece async for piece in draft.read(Told(chars, calls))]
        return rest

    rest = asyncio.run(write_and_read())
    text = "".join(piece for piece in found if isinstance(piece, str))
    assert "".join(piece for piece in rest if isinstance(piece, str)) == text[chars:]
    left = sum(isinstance(piece, Call) for piece in found) - calls
    assert sum(isinstance(piece, Call) for piece in rest) == max(0, left)


async def test_of_a_draft_that_is_whole_only_words_and_calls_are_left() -> None:
    async def write(*found: str | Call, fails: bool = False) -> Draft:
        async def reply() -> Any:
            for piece in found:
                yield piece
            if fails:
                raise CoreError("out of ink")

        draft = Draft()
        assert draft.rest(Told()) == Told()  # what is not written yet may be anything
        await draft.write(reply())
        return draft

    draft = await write("One", "  two. ")
    assert draft.rest(Told(3)) == Told(5)
    assert [draft.rest(Told(chars)) for chars in (8, 9, 10)] == [None, None, None]
    assert (await write("One", Call("f", "{}"))).rest(Told(3)) == Told(3)
    assert (await write("One", Call("f", "{}"))).rest(Told(3, 1)) is None
    assert (await write("One", fails=True)).rest(Told()) is None
