"""Who is it, in a session: numbers, names, enrolment, policies and memory, with a scripted model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import AgentConfig, SpeakersConfig
from agent.voices.people import People, Sample
from agent.voices.setup import build_scale, build_speakers, open_people
from agent.voices.speakers import SpeakerOptions
from agent.voices.store import VoiceStore
from agent.voices.voiced import Voicing
from tests.agent.harness import Client, Event, running, talking, turn
from tests.agent.scripted import LOUDNESS, ScriptedEngine, silence, speech
from wavllm_core.voices import VoiceScale

TRANSCRIPTION = "conversation.item.input_audio_transcription"
SCALE = VoiceScale("scripted", same_similarity=0.6, slope=8.0)


def know(folder: Path, names: dict[int, str], clients_may_enrol: bool = True) -> SpeakerOptions:
    """Voices of the scripted model, by loudness, under these names."""
    people = People(VoiceStore(folder / "voices.db"), SCALE)
    for voice, name in names.items():
        vector = np.eye(8, dtype=np.float32)[voice]
        people.enrol(name, [Sample(str(i), vector, Voicing(1.0, 1.0, 0.0)) for i in range(3)])
    return SpeakerOptions(SCALE, people, clients_may_enrol)


def hum(ms: int, voice: int) -> bytes:
    """What is taken for speech by its pitch, too."""
    seconds = np.arange(ms * 16) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 3 * seconds)) / 16_000
    wave = sum(np.cos(number * phase) / number for number in range(1, 6))
    return (wave / np.abs(wave).max() * voice * LOUDNESS).astype("<i2").tobytes()


def config(**speakers: Any) -> AgentConfig:
    return replace(AgentConfig(), speakers=SpeakersConfig(**speakers))


async def say(client: Client, pcm: bytes) -> list[Event]:
    """One turn, to its answer and its transcript; what was told of it."""
    client.seen.clear()
    await client.append(pcm)
    while not {"response.done", f"{TRANSCRIPTION}.completed"} <= set(client.kinds()):
        await client.receive()
    return list(client.seen)


async def typed(client: Client, text: str) -> Event:
    content = [{"type": "input_text", "text": text}]
    await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await client.send("response.create")
    return await client.until("response.done")


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == kind]


async def test_an_enrolled_voice_has_its_name_wherever_it_is_told(tmp_path: Path) -> None:
    speakers, engine = know(tmp_path, {2: "Anna"}), ScriptedEngine()
    async with running(engine, speakers=speakers) as port, talking(port) as client:
        events = await say(client, turn(400, 2))
        (told,) = of(events, "wavllm.speaker")
        assert (told["speaker"], told["name"], told["number"]) == ("Anna", "Anna", 1)
        assert told["id"].startswith("voice_") and told["confidence"] > 0.9 and not told["provisional"]
        assert of(events, f"{TRANSCRIPTION}.segment")[0]["speaker"] == "Anna"
        assert of(events, f"{TRANSCRIPTION}.completed")[0]["speaker"] == "Anna"
        assert of(await say(client, turn(400, 3)), "wavllm.speaker")[0]["speaker"] == "speaker 2"


@pytest.mark.parametrize(
    ("limit", "named"), [(0.55, ["Anna", "Anna"]), (0.6, ["Anna", "speaker 1"]), (0.65, 2 * ["speaker 1"])]
)
async def test_an_operator_says_how_alike_a_known_voice_has_to_be(
    tmp_path: Path, limit: float, named: list[str]
) -> None:
    """Two voices that are both a little like Anna, in sessions of their own."""
    settings = config(registry=tmp_path / "voices.db", known_similarity=limit)
    vector = np.zeros(8, np.float32)
    vector[[2, 3, 7]] = 0.62, 0.58, np.sqrt(1 - 0.62**2 - 0.58**2)
    people = open_people(settings.speakers, build_scale(settings.speakers, None))
    people.enrol("Anna", [Sample(str(i), vector, Voicing(1.0, 1.0, 0.0)) for i in range(3)])
    speakers, told = build_speakers(settings.speakers, None), []
    async with running(ScriptedEngine(), settings, speakers=speakers) as port:
        for voice in (2, 3):
            async with talking(port) as client:
                told += of(await say(client, turn(400, voice)), "wavllm.speaker")
    assert [one["speaker"] for one in told] == named


async def test_a_voice_is_labelled_while_it_speaks() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.append(silence(400) + speech(1_500))
        early = await client.until("wavllm.speaker")
        assert early["provisional"] and early["speaker"] == "speaker 1"
        assert "input_audio_buffer.speech_stopped" not in client.kinds()
        await client.append(silence(600))
        final = await client.until("wavllm.speaker")
        assert not final["provisional"] and final["item_id"] == early["item_id"]
        await client.until("response.done")


async def test_names_for_people_are_numbers_for_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.words = ["Spea", "ker 1", " did", "."]
    async with running(engine, speakers=know(tmp_path, {2: "Anna"})) as port, talking(port) as client:
        reply = of(await say(client, turn(400, 2)), "response.output_text.done")[0]
        assert reply["text"] == "Anna did."
        await typed(client, "is that what anna said?")
    history = engine.asked[-1][1]
    assert [(past.text, past.speaker, past.reply) for past in history] == [
        ("voice 2 for 800 ms", 1, "Speaker 1 did."),
        ("is that what speaker 1 said?", None, None),
    ]


async def test_an_unknown_voice_is_named_for_the_session_or_enrolled_for_good(tmp_path: Path) -> None:
    speakers = know(tmp_path, {})
    async with running(ScriptedEngine(), speakers=speakers) as port:
        async with talking(port) as client:
            await say(client, silence(400) + hum(900, 2) + silence(600))
            await client.send("wavllm.speaker.name", number=1, name="Anna")
            named = await client.until("wavllm.speaker.named")
            assert (named["number"], named["name"], named["id"]) == (1, "Anna", None)
            assert of(await say(client, turn(1_200, 2)), "wavllm.speaker")[-1]["speaker"] == "Anna"
            await client.send("wavllm.speaker.enrol", number=1, name="Anna")
            complaint = await client.complaint()
            assert (
                complaint["code"] == "speaker_not_enrolled" and "3 to 20 different utterances" in complaint["message"]
            )
            for _ in range(2):
                await say(client, silence(400) + hum(900, 2) + silence(600))
            await client.send("wavllm.speaker.enrol", number=1, name="Anna")
            assert (await client.until("wavllm.speaker.named"))["id"].startswith("voice_")
        async with talking(port) as client:  # another session knows her from the start
            assert of(await say(client, turn(400, 2)), "wavllm.speaker")[0]["name"] == "Anna"


async def test_what_is_no_speech_to_a_detector_is_not_enrolled(tmp_path: Path) -> None:
    speakers = replace(know(tmp_path, {}), detect=lambda waveform: np.zeros(len(waveform) // 512, np.float32))
    async with running(ScriptedEngine(), speakers=speakers) as port, talking(port) as client:
        for _ in range(3):
            await say(client, silence(400) + hum(900, 2) + silence(600))
        await client.send("wavllm.speaker.enrol", number=1, name="Anna")
        assert (await client.complaint())["message"].endswith("not 0")


@pytest.mark.parametrize(
    ("kind", "fields", "code", "fault"),
    [
        ("wavllm.speaker.name", {"number": 2, "name": "Ben"}, "speaker_not_found", "number 2: 1 voices were heard"),
        ("wavllm.speaker.name", {"number": 0, "name": "Ben"}, "invalid_value", "number must be a whole number"),
        ("wavllm.speaker.name", {"number": 1}, "missing_required_parameter", "name is missing"),
        ("wavllm.speaker.name", {"number": 1, "name": "B" * 65}, "string_above_max_length", "the limit is 64"),
        ("wavllm.speaker.name", {"number": 1, "name": " "}, "invalid_value", "is no name"),
        ("wavllm.speaker.name", {"number": 1, "name": "Speaker 7"}, "invalid_value", "unknown voices are called so"),
        ("wavllm.speaker.enrol", {"number": 1, "name": "Ben"}, "speaker_not_enrolled", "lets no client enrol"),
    ],
)
async def test_what_cannot_be_named_is_refused(
    tmp_path: Path, kind: str, fields: dict[str, Any], code: str, fault: str
) -> None:
    speakers = know(tmp_path, {}, clients_may_enrol=False)
    async with running(ScriptedEngine(), speakers=speakers) as port, talking(port) as client:
        await say(client, turn(400, 2))
        await client.send(kind, **fields)
        complaint = await client.complaint()
        assert complaint["code"] == code and fault in complaint["message"]


async def test_two_voices_of_one_session_have_two_names(tmp_path: Path) -> None:
    async with running(ScriptedEngine(), speakers=know(tmp_path, {3: "Anna"})) as port, talking(port) as client:
        for voice in (2, 3):
            await say(client, turn(400, voice))
        await client.send("wavllm.speaker.name", number=1, name="anna")
        assert "another voice of this session is called 'anna'" in (await client.complaint())["message"]


async def test_who_is_required_to_be_known_is_not_answered_otherwise(tmp_path: Path) -> None:
    speakers, engine = know(tmp_path, {2: "Anna"}), ScriptedEngine()
    async with running(engine, config(policy="require"), speakers=speakers) as port, talking(port) as client:
        refused = of(await say(client, turn(400, 3)), "response.done")[0]["response"]
        assert refused["status"] == "failed" and "none of those that are known" in str(refused["status_details"])
        assert (engine.asked, engine.speculated) == ([], [])
        await client.send("response.create")
        assert (await client.until("response.done"))["response"]["status"] == "failed"
        assert of(await say(client, turn(400, 2)), "response.done")[0]["response"]["status"] == "completed"
        assert len(engine.asked) == 1
        for policy in ("off", "label"):
            answer = await client.configure(wavllm={"speakers": {"policy": policy}})
            assert answer["error"]["code"] == "immutable_parameter"


async def test_where_voices_are_off_nobody_is_told_apart(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with running(engine, speakers=know(tmp_path, {2: "Anna"})) as port, talking(port) as client:
        settings = (await client.configure(wavllm={"speakers": {"policy": "off"}}))["session"]["wavllm"]["speakers"]
        assert settings == {"policy": "off", "memory": "shared", "split_turns": False}
        events = await say(client, turn(1_500, 2))
        assert not of(events, "wavllm.speaker") and not of(events, f"{TRANSCRIPTION}.segment")
        assert of(events, f"{TRANSCRIPTION}.completed")[0]["speaker"] is None
    assert engine.asked[0][1][-1].speaker is None


async def test_a_person_with_memory_of_its_own_is_answered_from_what_it_said() -> None:
    engine = ScriptedEngine()
    async with running(engine, config(memory="own")) as port, talking(port) as client:
        for voice in (1, 2, 1):
            await say(client, turn(400, voice))
        await client.configure(wavllm={"speakers": {"memory": "shared"}})
        await say(client, turn(400, 2))
    assert [[past.speaker for past in history] for _, history, _ in engine.asked] == [[1], [2], [1, 1], [1, 2, 1, 2]]


@pytest.mark.parametrize(
    ("speakers", "param"),
    [
        ({"policy": "sometimes"}, "session.wavllm.speakers.policy"),
        ({"memory": None}, "session.wavllm.speakers.memory"),
        ({"split_turns": 1}, "session.wavllm.speakers.split_turns"),
        ([], "session.wavllm.speakers"),
    ],
)
async def test_settings_of_voices_are_checked(speakers: Any, param: str) -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        answer = await client.configure(wavllm={"speakers": speakers})
        assert answer["error"]["param"].endswith(param.removeprefix("session."))


async def test_a_turn_of_two_voices_becomes_two_items_where_that_is_wanted() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.configure(wavllm={"speakers": {"split_turns": True}})
        client.seen.clear()
        await client.append(silence(400) + speech(3_000, 1) + speech(3_000, 2) + silence(600))
        while client.kinds().count(f"{TRANSCRIPTION}.completed") < 2 or "response.done" not in client.kinds():
            await client.receive()
        told = [event for event in of(client.seen, "wavllm.speaker") if not event["provisional"]]
        assert [event["speaker"] for event in told] == ["speaker 1", "speaker 2"]
        assert [event["item_id"] for event in told] == [
            event["item_id"] for event in of(client.seen, "input_audio_buffer.committed")
        ]
        window_ms = 1_500  # where both speak, the scripted model hears the louder one
        assert told[0]["audio_start_ms"] == 100 and 0 <= 3_400 - told[1]["audio_start_ms"] <= window_ms + 400
        assert told[0]["audio_end_ms"] == told[1]["audio_start_ms"]
        assert len(of(client.seen, "response.created")) == 1
        texts = [event["text"] for event in of(client.seen, f"{TRANSCRIPTION}.segment")]
        assert sorted(text.split(" for")[0] for text in texts) == ["voice 1", "voice 2"]


async def test_a_turn_is_split_into_more_utterances_than_are_listened_to_at_a_time() -> None:
    engine = ScriptedEngine()
    engine.seats = 2  # for the turn itself, and one more
    async with running(engine) as port, talking(port) as client:
        await client.configure(wavllm={"speakers": {"split_turns": True}})
        await client.append(silence(400) + speech(3_000, 1) + speech(3_000, 2) + speech(3_000, 3) + silence(600))
        while client.kinds().count(f"{TRANSCRIPTION}.completed") < 3:
            await client.receive()
        told = [event for event in of(client.seen, "wavllm.speaker") if not event["provisional"]]
        assert [event["number"] for event in told] == [1, 2, 3]
