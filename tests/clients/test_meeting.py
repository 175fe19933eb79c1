"""A meeting: its record, its minutes, and all of it against a server with a scripted model."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clients.file import Line
from clients.meeting.log import MAX_HELD, MeetingLog
from clients.meeting.minutes import clock, to_markdown, to_webvtt
from clients.meeting.record import MeetingRecord
from clients.meeting.run import hold_meeting, to_event
from clients.realtime import ClientError, Waveform
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, silence, speech
from tests.clients.sounds import Room, until

TRANSCRIPTION = "conversation.item.input_audio_transcription"


def waveform(*pcm: bytes) -> Waveform:
    return np.frombuffer(b"".join(pcm), "<i2").astype(np.float32) / 32_768


@pytest.fixture
def record(tmp_path: Path) -> Any:
    with MeetingRecord(tmp_path / "meeting.db") as record:
        yield record


def test_a_name_holds_for_what_was_said_before(record: MeetingRecord) -> None:
    record.add(2, 5_000, 6_000, "second")
    record.add(1, 0, 1_000, "first")
    record.add(0, 7_000, 8_000, "")
    record.name(2, "Anna")
    record.name(1, "Ben")
    record.name(2, "Hanna")
    assert [(line.speaker, line.text) for line in record.lines()] == [
        ("Ben", "first"),
        ("Hanna", "second"),
        ("somebody", ""),
    ]
    assert [line.text for line in record.recent(2)] == ["second", ""]


def test_lines_are_found_by_their_words_whatever_is_asked(record: MeetingRecord) -> None:
    for number in range(300):
        record.add(1, 1_000 * number, 1_000 * number + 900, f"we talk about point {number}")
    record.add(2, 400_000, 401_000, "Zoë wants a mocha")
    assert [line.number for line in record.find("who wanted the MOCHA, or a mocha?", 5)] == [2]
    assert [line.text for line in record.find("what about 17", 1)] == ["we talk about point 17"]
    for hostile in ('" OR text:*', "NEAR(", "'; DROP TABLE lines; --", "", "🎉", "AND NOT"):
        record.find(hostile, 3)
    assert len(list(record.lines())) == 301


def test_a_meeting_is_never_written_over(record: MeetingRecord, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"meeting\.db: there is a meeting already"):
        MeetingRecord(tmp_path / "meeting.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(ClientError, match="cannot hold a meeting"):
        MeetingRecord(tmp_path / "file" / "meeting.db")


def test_minutes_are_markdown_and_subtitles_whatever_was_said(record: MeetingRecord) -> None:
    record.name(1, "A<b>")
    record.add(1, 3_723_004, 3_724_000, "1 < 2 & *3*\n# --> 4")
    record.add(2, 3_725_000, 3_725_000, "")
    record.ask(3_726_000, "what?", "")
    page, subtitles = to_markdown(record), to_webvtt(record)
    assert "- 1:02:03 **A\\<b\\>**: 1 \\< 2 & \\*3\\* \\# --\\> 4" in page
    assert "- 1:02:05 **speaker 2**: (not understood)" in page and "(no answer)" in page
    assert "01:02:03.004 --> 01:02:04.000\n<v A&lt;b&gt;>1 &lt; 2 &amp; *3* # --&gt; 4\n" in subtitles
    assert "01:02:05.000 --> 01:02:05.001" in subtitles
    assert (clock(7_999), clock(750_000), clock(3_723_004)) == ("0:07", "12:30", "1:02:03")


def test_a_question_brings_the_last_lines_and_those_that_share_its_words(record: MeetingRecord) -> None:
    record.add(3, 0, 900, "i want a mocha")
    record.add(0, 1_000, 1_900, "nobody knows who says mocha")
    for number in range(20):
        record.add(1, 10_000 + 1_000 * number, 10_900 + 1_000 * number, f"point {number}")
    asked = MeetingLog(record).question("who wants a mocha")["response"]
    texts = [item["content"][0]["text"] for item in asked["input"] if item["role"] == "user"]
    assert texts == [
        "speaker 3: i want a mocha",
        *(f"speaker 1: point {number}" for number in range(8, 20)),
        "who wants a mocha",
    ]
    assert asked["conversation"] == "none"


def test_the_log_forgets_what_is_written_down(record: MeetingRecord) -> None:
    log = MeetingLog(record)
    for number in range(50):
        item = {"item_id": f"item_{number}"}
        log.apply({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1_000 * number, **item})
        log.apply({"type": "wavllm.speaker", "speaker": "speaker 1", "provisional": True, **item})
        assert log.speaking == "speaker 1" and not log.settled
        log.apply({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 1_000 * number + 800, **item})
        log.apply({"type": "input_audio_buffer.committed", **item})
        if number % 2:
            span = {"audio_start_ms": 1_000 * number + 100, "audio_end_ms": 1_000 * number + 700}
            log.apply({"type": "wavllm.speaker", "number": 1, "name": None, "provisional": False, **item, **span})
        kind, said = ("failed", {}) if number == 4 else ("completed", {"transcript": f"words {number}"})
        log.apply({"type": f"{TRANSCRIPTION}.{kind}", **item, **said})
    assert log.settled and log.speaking is None and log._open == {}
    lines = list(record.lines())
    assert [line.text for line in lines[3:6]] == ["words 3", "", "words 5"]
    assert [(line.number, line.start_ms) for line in lines[:2]] == [(0, 800), (1, 1_100)]


def test_lines_are_shown_as_they_were_said_however_quickly_they_are_written_down(record: MeetingRecord) -> None:
    log = MeetingLog(record)

    def written(number: int) -> list[Any]:
        said = {"item_id": f"item_{number}", "transcript": str(number)}
        return [line.text for line in log.apply({"type": f"{TRANSCRIPTION}.completed", **said})]  # type: ignore[union-attr]

    for number in range(20):
        log.apply({"type": "input_audio_buffer.committed", "item_id": f"item_{number}"})
    assert [written(number) for number in (1, 0, 3, 2)] == [[], ["0", "1"], [], ["2", "3"]]
    for number in range(5, 5 + MAX_HELD):
        assert written(number) == []
    assert written(18) == [*map(str, range(5, 5 + MAX_HELD)), "18"], "one that never comes is not waited for"
    assert written(4) == ["4"]
    assert [line.text for line in record.lines()][:2] == ["1", "0"]


def test_a_typed_line_is_a_question_or_a_name(record: MeetingRecord) -> None:
    log = MeetingLog(record)
    assert to_event("/name 2 Anna Maria", log) == {"type": "wavllm.speaker.name", "number": 2, "name": "Anna Maria"}
    for question in ("/name two Anna", "/name 2", "what did i order"):
        assert to_event(question, log)["type"] == "response.create"


async def test_a_meeting_from_recordings_to_minutes(tmp_path: Path) -> None:
    engine, screen = ScriptedEngine(), io.StringIO()
    first = waveform(silence(400), speech(900, 1), silence(500), speech(4_100, 2), speech(4_100, 3), silence(100))
    later = waveform(silence(200), speech(800, 2), silence(100))
    lines = [Line(waveform=first), Line(text="who said voice 2"), Line(waveform=later)]
    async with running(engine) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        files = await hold_meeting(lines, Console(file=screen, width=200), tmp_path / "out", url, speed=50)
    minutes = json.loads((tmp_path / "out" / "minutes.json").read_text())
    assert [line["speaker"] for line in minutes["lines"]] == ["speaker 1", "speaker 2", "speaker 3", "speaker 2"]
    assert [line["text"].split(" for")[0] for line in minutes["lines"]] == ["voice 1", "voice 2", "voice 3", "voice 2"]
    starts = [line["start_ms"] for line in minutes["lines"]]
    assert starts == sorted(starts) and starts[0] == 100
    (question,) = minutes["questions"]
    assert question["answer"] == "answer 4 to who said voice 2"
    assert [past.text.split(" for")[0] for past in engine.asked[0][1][:3]] == [
        "speaker 1: voice 1",
        "speaker 2: voice 2",
        "speaker 3: voice 3",
    ]
    assert "speaker 3: voice 3" in screen.getvalue() and "answer: answer 4" in screen.getvalue()
    assert all(file.read_text() for file in files) and len(engine.asked) == 1  # nobody asked for the other replies


async def test_a_meeting_at_the_microphone_with_a_question_typed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, screen, room = ScriptedEngine(), io.StringIO(), Room()
    monkeypatch.setitem(sys.modules, "sounddevice", room.module())
    monkeypatch.setattr(sys, "stdin", io.StringIO("who is there\n"))
    async with running(engine) as port, asyncio.TaskGroup() as tasks:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        held = tasks.create_task(hold_meeting([], Console(file=screen, width=200), tmp_path / "out", url))
        await until(lambda: "answer: " in screen.getvalue())  # whether anything is heard or not
        room.say(960, 0.1)
        room.say(640, 0)
        await until(lambda: "speaker 1: voice 1" in screen.getvalue())
        held.cancel()
    assert len(room.streams) == 1, "nobody is spoken to"
    assert room.streams[0].closed
    minutes = json.loads((tmp_path / "out" / "minutes.json").read_text())
    assert [line["speaker"] for line in minutes["lines"]] == ["speaker 1"]
    assert [question["question"] for question in minutes["questions"]] == ["who is there"]


async def test_a_meeting_that_never_began_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ClientError, match="no server at"):
            await hold_meeting([], Console(file=io.StringIO()), tmp_path, "ws://127.0.0.1:9/v1/realtime")
    with MeetingRecord(tmp_path / "meeting.db") as record:
        record.ask(0, "who is there", "")
    with pytest.raises(ClientError, match="there is a meeting already"):
        MeetingRecord(tmp_path / "meeting.db")


async def test_minutes_are_written_when_the_server_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no server at"):
        await hold_meeting([Line(text="hello")], Console(file=io.StringIO()), tmp_path, "ws://127.0.0.1:9/v1/realtime")
    assert "Nothing." in (tmp_path / "minutes.md").read_text()
