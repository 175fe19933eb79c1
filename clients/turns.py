"""What the events of a conversation amount to: who said what, what was answered, how long it took.

Pure bookkeeping; knows neither the socket nor the screen. Transcripts and replies may come in either order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from clients.realtime import Event

TRANSCRIPTION: Final = "conversation.item.input_audio_transcription."


@dataclass(frozen=True, slots=True)
class Latency:
    """Where the time of a turn went, as the server measured it."""

    vad_wait_ms: float | None  # last word → its end confirmed; None: typed
    first_token_ms: float  # confirmed, or asked → first token of the reply
    total_ms: float  # last word, or asked → reply complete


@dataclass(slots=True, eq=False)
class Turn:
    """One thing said or typed by a person, and the answer to it; or what the assistant says by itself."""

    spoken: bool
    transcript: str = ""
    reply: str = ""
    speaker: str | None = None
    calls: list[str] = field(default_factory=list)  # of functions, that the server has answered
    latency: Latency | None = None
    heard: bool = False  # the transcript is final
    answered: bool = False  # the response is over, however it ended
    ignored: bool = False  # the assistant was not meant
    unasked: bool = False  # a reply alone: a timer is over
    problem: str | None = None  # why there is no transcript, or no full reply

    @property
    def complete(self) -> bool:
        return self.heard and self.answered


@dataclass(slots=True)
class TurnLog:
    """The turns of one conversation, kept up to date event by event."""

    turns: list[Turn] = field(default_factory=list)
    speaking: bool = False  # an utterance has begun and is not over
    problems: list[str] = field(default_factory=list)  # errors that belong to no turn
    max_turns: int | None = None  # finished ones that are kept; None: all
    _by_item: dict[str, Turn] = field(default_factory=dict)
    _by_response: dict[str, Turn] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Nothing more is to be expected: nobody speaks, and everything said was answered."""
        return not self.speaking and all(turn.complete for turn in self.turns)

    def typed(self, text: str) -> None:
        """Note what this client is about to send in writing."""
        self.turns.append(Turn(spoken=False, transcript=text, heard=True))

    def apply(self, event: Event) -> None:
        """Take in one event of the server; those that say nothing about turns pass by."""
        kind: str = event["type"]
        if kind == "input_audio_buffer.speech_started":
            self.speaking = True
        elif kind == "input_audio_buffer.committed":
            self.speaking = False
            self._item(event)
        elif kind == "wavllm.speaker":
            self._item(event).speaker = event["speaker"]
        elif kind.startswith(TRANSCRIPTION):
            self._transcription(kind.removeprefix(TRANSCRIPTION), event)
        elif kind.startswith("response."):
            self._response(kind.removeprefix("response."), event)
        elif kind == "wavllm.function" and event["status"] != "in_progress":
            why = event["error"]["message"] if "error" in event else "done"
            self._by_response[event["response_id"]].calls.append(f"{event['name']}: {why}")
        elif kind == "conversation.item.deleted" and event["item_id"] in self._by_item:
            turn = self._by_item[event["item_id"]]
            turn.ignored = turn.heard = turn.answered = True
        elif kind == "error":
            self.problems.append(event["error"]["message"])
        self._forget()

    def _forget(self) -> None:
        """Keep what is open, and so many of the finished turns and problems as wanted."""
        if self.max_turns is None or len(self.turns) <= self.max_turns:
            return
        gone = next((turn for turn in self.turns if turn.complete), None)
        if gone:
            self.turns.remove(gone)
            for names in (self._by_item, self._by_response):
                for name in [name for name, turn in names.items() if turn is gone]:
                    del names[name]

    def _transcription(self, kind: str, event: Event) -> None:
        turn = self._item(event)
        turn.speaker = event.get("speaker") or turn.speaker
        if kind == "delta":
            turn.transcript += event["delta"]
        elif kind == "completed":
            turn.transcript, turn.heard = event["transcript"], True
        elif kind == "failed":
            turn.problem, turn.heard = event["error"]["message"], True

    def _response(self, kind: str, event: Event) -> None:
        if kind == "created":
            waiting = [turn for turn in self.turns if not turn.answered]
            turn = waiting[-1] if waiting else Turn(spoken=False, heard=True, unasked=True)
            for earlier in waiting[:-1]:
                earlier.answered |= earlier.spoken  # by the same: a cough has no response of its own
            if turn.unasked and event["response"].get("conversation_id"):
                self.turns.append(turn)
            self._by_response[event["response"]["id"]] = turn
        elif kind == "content_part.added":
            turn = self._by_response[event["response_id"]]
            turn.reply += " " if turn.reply else ""  # one more message
        elif kind in ("output_text.delta", "output_audio_transcript.delta"):
            self._by_response[event["response_id"]].reply += event["delta"]
        elif kind == "done":
            turn = self._by_response[event["response"]["id"]]
            turn.answered = True
            turn.latency = _latency(event.get("wavllm_latency"))
            if event["response"]["status"] != "completed":
                turn.problem = _reason(event["response"])

    def _item(self, event: Event) -> Turn:
        """The turn of a user item; a transcript may begin before its item is committed."""
        turn = self._by_item.get(event["item_id"])
        if turn is None:
            turn = self._by_item[event["item_id"]] = Turn(spoken=True)
            self.turns.append(turn)
        return turn


def _latency(figures: dict[str, Any] | None) -> Latency | None:
    if figures is None or figures.get("first_token_ms") is None:
        return None  # another server, or a reply cut off before its first token
    return Latency(figures.get("vad_wait_ms"), figures["first_token_ms"], figures["total_ms"])


def _reason(response: Event) -> str:
    details = response.get("status_details") or {}
    error = details.get("error") or {}
    return f"{response['status']}: {error.get('message') or details.get('reason') or 'no reason given'}"
