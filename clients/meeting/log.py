"""From the events of a server to the lines of a meeting. Pure bookkeeping: knows neither socket nor screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from clients.meeting.record import MeetingRecord, SpokenLine
from clients.realtime import Event

TRANSCRIPTION: Final = "conversation.item.input_audio_transcription."
RECENT_LINES, FOUND_LINES = 12, 6  # that a question is answered from
MAX_HELD: Final = 8  # lines that wait for one before them; then they are shown without it


@dataclass(slots=True)
class _Open:
    """An item of which something is still to come."""

    start_ms: int = 0
    end_ms: int = 0
    number: int = 0
    line: SpokenLine | None = None  # once it is written down


@dataclass(slots=True)
class MeetingLog:
    """What is under way; what is complete goes into the record."""

    record: MeetingRecord
    speaking: str | None = None  # who seems to be
    problems: list[str] = field(default_factory=list)
    now_ms: int = 0  # how far the meeting is, as the server told last
    _open: dict[str, _Open] = field(default_factory=dict)  # by item, in the order in which they were said
    _answers: dict[str, str] = field(default_factory=dict)
    _busy: bool = False  # somebody speaks
    _asked: int = 0  # questions without an answer

    @property
    def settled(self) -> bool:
        """Nothing more is to be expected of what was said or asked so far."""
        return not (self._busy or self._open or self._asked)

    def apply(self, event: Event) -> list[SpokenLine | str]:
        """Take in one event; returns what can be shown by it: lines in the order in which they were said, an answer."""
        kind: str = event["type"]
        if kind == "input_audio_buffer.speech_started":
            self._busy, self.now_ms = True, event["audio_start_ms"]
        elif kind == "input_audio_buffer.speech_stopped":
            self._busy, self.speaking, self.now_ms = False, None, event["audio_end_ms"]
        elif kind == "input_audio_buffer.committed":
            self._open[event["item_id"]] = _Open(self.now_ms, self.now_ms)
        elif kind == "wavllm.speaker":
            self._place(event)
        elif kind == "wavllm.speaker.named":
            self.record.name(event["number"], event["name"])
        elif kind.startswith(TRANSCRIPTION):
            return self._transcribe(kind.removeprefix(TRANSCRIPTION), event)
        elif kind.startswith("response."):
            answer = self._answer(kind.removeprefix("response."), event)
            return [] if answer is None else [answer]
        elif kind == "error":
            self.problems.append(event["error"]["message"])
        return []

    def question(self, text: str) -> Event:
        """The event that asks it, with the lines it may be about: the last ones, and those that share its words."""
        recent = self.record.recent(RECENT_LINES)
        known = {line.id for line in recent}
        found = [line for line in self.record.find(text, FOUND_LINES) if line.id not in known]
        items = []
        for line in [*found, *recent]:
            if line.text and line.number:
                items += [_message("user", f"speaker {line.number}: {line.text}"), _message("assistant", "")]
        items.append(_message("user", text))
        self._asked += 1
        asked = {"conversation": "none", "input": items, "output_modalities": ["text"], "metadata": {"question": text}}
        return {"type": "response.create", "response": asked}

    def _place(self, event: Event) -> None:
        if event.get("provisional"):
            self.speaking = event["speaker"]
            return
        if event.get("name"):
            self.record.name(event["number"], event["name"])
        said = self._open.get(event["item_id"])
        if said is None:
            return
        said.number = event["number"]
        said.start_ms, said.end_ms = event.get("audio_start_ms", said.start_ms), event.get("audio_end_ms", said.end_ms)

    def _transcribe(self, kind: str, event: Event) -> list[SpokenLine | str]:
        said = self._open.get(event["item_id"])
        if kind not in ("completed", "failed") or said is None:
            return []
        said.line = self.record.add(said.number, said.start_ms, said.end_ms, event.get("transcript", ""))
        complete = [item_id for item_id, said in self._open.items() if said.line]
        if len(complete) <= MAX_HELD:
            complete = list(takewhile(lambda item_id: self._open[item_id].line, self._open))
        return [line for item_id in complete if (line := self._open.pop(item_id).line)]

    def _answer(self, kind: str, event: Event) -> str | None:
        if kind == "output_text.delta":
            answer = self._answers.get(event["response_id"], "")
            self._answers[event["response_id"]] = answer + event["delta"]
        elif kind == "done":
            response: Mapping[str, Event] = event["response"]
            question = (response.get("metadata") or {}).get("question")
            if question is not None:
                self._asked -= 1
                answer = self._answers.pop(event["response"]["id"], "")
                self.record.ask(self.now_ms, question, answer)
                return answer or "(no answer)"
        return None


def _message(role: str, text: str) -> Event:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
