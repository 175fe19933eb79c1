"""Short sounds that the model is not sure are words: no answer, and no interruption either."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig, TurnsConfig
from agent.protocol.errors import ProtocolError
from agent.protocol.fields import Fields
from agent.protocol.interruption import Interruption, merge_interruption
from agent.sessions.transcripts import Transcript
from tests.agent.harness import running, talking, turn
from tests.agent.scripted import ScriptedEngine, silence
from tests.agent.test_interruption import (
    DONE,
    TRANSCRIBED,
    WHOLE,
    created,
    cut_off,
    interruption,
    read,
    settle,
    spoken_to,
)
from wavllm_core.engine.api import Written

UNSURE = math.log(0.5)


@pytest.mark.parametrize(
    ("voiced_ms", "logprob", "settings", "answered"),
    [
        (400, UNSURE, {}, False),
        (400, math.log(0.7), {}, True),
        (1_200, UNSURE, {}, True),
        (1_200, UNSURE, {"unsure_ms": 1_500}, False),
        (400, UNSURE, {"unsure_ms": 0}, True),
        (400, UNSURE, {"min_confidence": 0.4}, True),
        (400, math.log(0.7), {"min_confidence": 0.8}, False),
    ],
)
async def test_a_short_sound_that_may_be_no_words_is_answered_by_silence(
    voiced_ms: int, logprob: float, settings: dict[str, float], answered: bool
) -> None:
    engine = ScriptedEngine()
    engine.written, engine.logprob = "nine", logprob
    async with running(engine) as port, talking(port) as client:
        await interruption(client, **settings)
        sound = turn(voiced_ms)
        await client.append(sound[:-9_600])  # but for the last 300 ms: it is written down meanwhile
        await settle(client)
        await client.append(sound[-9_600:])
        response = (await client.until(DONE))["response"]
        assert response["status"] == "completed"
        if TRANSCRIBED not in client.kinds():
            await client.until(TRANSCRIBED)
        (told,) = [event for event in client.seen if event["type"] == TRANSCRIBED]
        assert told["transcript"] == ("nine" if answered else "")
        (part,) = response["output"][0]["content"]
        assert bool(part["text"]) == answered == bool(engine.asked)
        engine.written = "what now"
        await client.send("response.create")
        await client.until(DONE)
    heard = [one for one in engine.asked[-1][1] if one.text == "nine"]
    assert bool(heard) == answered  # what was noise is no part of the history


async def test_where_nobody_had_the_time_to_write_it_down_it_is_answered() -> None:
    engine = ScriptedEngine()
    engine.written, engine.logprob = "nine", UNSURE
    engine.pencil.clear()
    async with running(engine) as port, talking(port) as client:
        await client.append(turn(400))
        await client.until(DONE)
        engine.pencil.set()
        assert (await client.until(TRANSCRIBED))["transcript"] == "nine"
    assert engine.asked


async def test_a_reply_goes_on_after_a_sound_that_may_be_no_words() -> None:
    engine = ScriptedEngine()
    engine.written, engine.logprob = "nine", UNSURE
    async with spoken_to(engine) as client:
        await cut_off(client, engine)
        await client.append(silence(300))
        await settle(client)
        client.seen.clear()
        await client.append(silence(300))
        await client.until(DONE)
        assert "wavllm_resumes" in created(client)[0]
        assert WHOLE.endswith(read(client.seen))
    assert len(engine.asked) == 1


async def test_settings_of_the_configuration_are_told() -> None:
    config = AgentConfig(turns=TurnsConfig(unsure_ms=700, min_confidence=0.5))
    async with running(ScriptedEngine(), config) as port, talking(port) as client:
        updated = await client.configure(wavllm={})
    told = updated["session"]["wavllm"]["interruption"]
    assert (told["unsure_ms"], told["min_confidence"]) == (700, 0.5)


@pytest.mark.parametrize(
    ("patch", "param"),
    [
        ({"unsure_ms": 2_001}, "unsure_ms"),
        ({"unsure_ms": 0.5}, "unsure_ms"),
        ({"min_confidence": 1.01}, "min_confidence"),
        ({"min_confidence": "high"}, "min_confidence"),
        ({"min_confidence": True}, "min_confidence"),
    ],
)
def test_what_cannot_be_is_refused_by_name(patch: dict[str, object], param: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        merge_interruption(Interruption(), Fields(patch, "session.wavllm.interruption"))
    assert refused.value.param == f"session.wavllm.interruption.{param}"


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(1, 3)), min_size=1, max_size=8))
def test_confidence_is_the_geometric_mean_over_tokens(pieces: list[tuple[float, int]]) -> None:
    written = Transcript(tuple(Written(" a", tokens * math.log(share), tokens) for share, tokens in pieces))
    each = [share for share, tokens in pieces for _ in range(tokens)]
    assert written.confidence == pytest.approx(math.prod(each) ** (1 / len(each)))
    assert written.text == " ".join("a" * len(pieces))


def test_nothing_written_down_is_sure() -> None:
    assert Transcript(()).confidence == 1.0
