"""Clients that tell how much they have played: an interruption takes back what nobody heard, without being asked."""

from __future__ import annotations

from tests.agent.harness import Event, silence, speech
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.spoken import AUDIO, MS_PER_CHAR, TEXT, half_heard, listening, talkative

TRUNCATED = "conversation.item.truncated"


def ledger(event: Event) -> tuple[int, ...]:
    return tuple(event[f"{name}_ms"] for name in ("generated", "sent", "played", "committed"))


async def test_the_ledger_of_a_reply() -> None:
    async with listening(talkative(), ScriptedVoice()) as client:
        await client.send("response.create")
        item_id = (await client.until("response.done"))["response"]["output"][0]["id"]
        lasts_ms = len(TEXT) * MS_PER_CHAR
        for played_ms, known_ms in ((0, 0), (120, 120), (90, 120), (lasts_ms, lasts_ms)):
            await client.send("wavllm.playback.ack", item_id=item_id, played_ms=played_ms)
            told = await client.until("wavllm.playback")
            assert (told["item_id"], ledger(told)) == (item_id, (lasts_ms, lasts_ms, known_ms, lasts_ms))
        for fields, code, param in (
            ({"played_ms": lasts_ms + 1}, "invalid_value", "played_ms"),
            ({"played_ms": -1}, "invalid_value", "played_ms"),
            ({"played_ms": 1, "item_id": "nobody"}, "item_not_found", "item_id"),
            ({"item_id": item_id}, "missing_required_parameter", "played_ms"),
        ):
            await client.send("wavllm.playback.ack", **{"item_id": item_id} | fields)
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == (code, param)


async def test_an_interruption_keeps_what_was_played_and_no_more() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    async with half_heard(engine, voice) as client:
        item_id = next(event["item_id"] for event in client.seen if event["type"] == AUDIO)
        await client.send("wavllm.playback.ack", item_id=item_id, played_ms=90)
        generated, sent, played, committed = ledger(await client.until("wavllm.playback"))
        assert generated >= sent >= 400
        assert (played, committed) == (90, 90)
        await client.append(speech(400))
        truncated = await client.until(TRUNCATED)
        assert client.kinds()[-2:] == ["response.done", TRUNCATED]
        assert (truncated["item_id"], truncated["audio_end_ms"]) == (item_id, 90)
        # a client that cuts by itself, too, is not told that it asks for too much
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=95)
        assert (await client.until(TRUNCATED, "error"))["audio_end_ms"] == 90
        await client.append(silence(700))
        await client.until("response.created")
    assert engine.asked[-1][1][0].reply == "One two"


async def test_what_was_played_to_the_end_stays() -> None:
    async with listening(talkative(), ScriptedVoice()) as client:
        await client.send("response.create")
        item_id = (await client.until("response.done"))["response"]["output"][0]["id"]
        await client.send("wavllm.playback.ack", item_id=item_id, played_ms=len(TEXT) * MS_PER_CHAR)
        await client.append(speech(400))
        await client.until("input_audio_buffer.speech_started")
        await client.configure()
        assert TRUNCATED not in client.kinds()


async def test_an_item_that_is_gone_is_not_cut() -> None:
    async with listening(talkative(), ScriptedVoice()) as client:
        await client.send("response.create")
        item_id = (await client.until("response.done"))["response"]["output"][0]["id"]
        await client.send("wavllm.playback.ack", item_id=item_id, played_ms=10)
        await client.send("conversation.item.delete", item_id=item_id)
        await client.append(speech(400))
        await client.until("input_audio_buffer.speech_started")
        await client.configure()
        assert TRUNCATED not in client.kinds()
