"""The minutes of a meeting: Markdown for people, JSON for programs, WebVTT for players. Pure text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Final

from clients.meeting.record import MeetingRecord

CAUTION: Final = (
    "Words and names are what the server's model made of the sound. The model that is shipped knows a few hundred "
    "words: of free speech it gets hardly one right, and it takes some people for others."
)
NOT_WRITTEN: Final = "(not understood)"


def write_minutes(record: MeetingRecord, folder: Path) -> list[Path]:
    """Write `minutes.md`, `minutes.json` and `minutes.vtt`; returns their paths."""
    files = {"minutes.md": to_markdown(record), "minutes.json": to_json(record), "minutes.vtt": to_webvtt(record)}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def to_markdown(record: MeetingRecord) -> str:
    """Who spoke for how long, what was said, what was asked."""
    spoken_ms: Counter[str] = Counter()
    said = []
    for line in record.lines():
        spoken_ms[line.speaker] += line.end_ms - line.start_ms
        said.append(f"- {clock(line.start_ms)} **{_plain(line.speaker)}**: {_plain(line.text) or NOT_WRITTEN}")
    asked = [
        f"- {clock(one.at_ms)} {_plain(one.question)}\n  {_plain(one.answer) or '(no answer)'}"
        for one in record.questions()
    ]
    people = [f"| {_plain(name)} | {clock(ms)} |" for name, ms in spoken_ms.most_common()]
    parts = ["# Minutes", f"*{CAUTION}*", "\n".join(["| who | spoke |", "| --- | --- |", *people])]
    parts += ["## What was said", "\n".join(said) or "Nothing."]
    if asked:
        parts += ["## What was asked", "\n".join(asked)]
    return "\n\n".join(parts) + "\n"


def to_json(record: MeetingRecord) -> str:
    """The same with all figures."""
    lines = [{**asdict(line), "speaker": line.speaker} for line in record.lines()]
    questions = [asdict(question) for question in record.questions()]
    return json.dumps({"caution": CAUTION, "lines": lines, "questions": questions}, indent=2, ensure_ascii=False) + "\n"


def to_webvtt(record: MeetingRecord) -> str:
    """Subtitles with voices, for the recording of the meeting."""
    cues = [
        f"{_stamp(line.start_ms)} --> {_stamp(max(line.end_ms, line.start_ms + 1))}\n"
        f"<v {_cue(line.speaker)}>{_cue(line.text) or NOT_WRITTEN}"
        for line in record.lines()
    ]
    return "\n\n".join(["WEBVTT", f"NOTE {CAUTION}", *cues]) + "\n"


def clock(ms: int) -> str:
    """0:07, 12:30 or 1:02:03."""
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _stamp(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"


def _plain(text: str) -> str:
    """On one line, and no Markdown of its own."""
    return "".join(
        f"\\{character}" if character in "\\`*_[]<>|#" else character for character in " ".join(text.split())
    )


def _cue(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
