"""Whether what is said is meant for the assistant: a wake phrase, then a window in which none is needed.

Pure: takes the events of a Realtime server, and gives those to send. It listens to transcripts, so that any server
and any phrase will do; while nobody is addressed the server answers nothing, and forgets what it heard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from clients.realtime import Event
from clients.turns import TRANSCRIPTION

ASLEEP: Final = float("-inf")
WINDOW_S: Final = 8.0  # after a reply


@dataclass(frozen=True, slots=True)
class _Turn:
    """What somebody says, before it is written down."""

    meant: bool  # said while the assistant was awake
    answered: bool  # the server does so by itself


class Attention:
    """Asleep until it is called; awake until nobody has said anything for a while."""

    def __init__(self, phrases: Sequence[str], clock: Callable[[], float], window_s: float = WINDOW_S) -> None:
        """Raises ValueError when there is no phrase that could be said."""
        self._phrases = [phrase for phrase in map(_plain, phrases) if phrase]
        if not self._phrases:
            raise ValueError("a wake phrase needs at least one letter")
        self._clock, self._window_s = clock, window_s
        self._awake_until_s = ASLEEP
        self._speaking = self._meant = False
        self._answers_itself = True  # the server, as it was told last
        self._turns: dict[str, _Turn] = {}

    @property
    def awake(self) -> bool:
        """Whatever is said is meant for the assistant."""
        return self._clock() < self._awake_until_s or (self._speaking and self._meant)

    def begin(self) -> Event:
        """What to send first; of a conversation before, nothing more will be told."""
        self._speaking = False
        self._turns.clear()
        return _answer_by_yourself(self.awake)

    def take(self, event: Event) -> list[Event]:
        """What to send because of an event of the server."""
        kind: str = event["type"]
        if kind == "session.updated":
            detection = event["session"]["audio"]["input"].get("turn_detection") or {}
            self._answers_itself = detection.get("create_response", True)
        elif kind == "input_audio_buffer.speech_started":
            self._meant, self._speaking = self.awake, True
        elif kind == "input_audio_buffer.committed":
            self._turns[event["item_id"]] = _Turn(self._meant, self._answers_itself)
            self._speaking = False
            if self._meant:
                self._stay_awake()
        elif kind in (TRANSCRIPTION + "completed", TRANSCRIPTION + "failed") and event["item_id"] in self._turns:
            return self._heard(event["item_id"], event.get("transcript", ""))
        elif kind == "response.done":
            self._stay_awake()
        return []

    def tick(self, sounding: bool) -> list[Event]:
        """What to send because time passes; to be asked some times a second.

        sounding: a reply is being heard; the window begins after it
        """
        if sounding and self.awake:
            self._stay_awake()
        if not self.awake and self._awake_until_s != ASLEEP:
            self._awake_until_s = ASLEEP
            return [_answer_by_yourself(False)]
        return []

    def _heard(self, item_id: str, transcript: str) -> list[Event]:
        turn = self._turns.pop(item_id)
        called = any(f" {_plain(transcript)} ".startswith(f" {phrase} ") for phrase in self._phrases)
        if not (turn.meant or called):
            return [{"type": "conversation.item.delete", "item_id": item_id}]
        woken = not self.awake
        self._stay_awake()
        return [
            *([_answer_by_yourself(True)] if woken else []),
            *([] if turn.answered else [{"type": "response.create"}]),
        ]

    def _stay_awake(self) -> None:
        self._awake_until_s = self._clock() + self._window_s


def _answer_by_yourself(yes: bool) -> Event:
    detection = {"type": "server_vad", "create_response": yes, "interrupt_response": True}
    return {
        "type": "session.update",
        "session": {"type": "realtime", "audio": {"input": {"turn_detection": detection}}},
    }


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))
