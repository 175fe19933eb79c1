"""Watches everything one session sends, and complains as soon as a promise of the protocol is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
ENDINGS = {"completed", "cancelled", "failed", "incomplete"}


@dataclass
class Part:
    """An item of a response while it is open."""

    kind: str
    index: int
    text: str = ""
    part_open: bool = False
    closed: set[str] = field(default_factory=set)


@dataclass
class Seen:
    """A response."""

    created: Event
    open: dict[str, Part] = field(default_factory=dict)
    items: list[Event] = field(default_factory=list)


class Oracle:
    """Feed it every event in its order."""

    def __init__(self) -> None:
        self.event_ids: set[str] = set()
        self.active: str | None = None  # response in the conversation
        self.responses: dict[str, Seen] = {}  # that are not over
        self.over: set[str] = set()
        self.cut: dict[str, Event] = {}  # responses that may still be taken up again
        self.resumed: list[Event] = []  # responses that went on with another
        self.items: list[str] = []  # of the conversation, in its order
        self.pending: dict[str, str | None] = {}  # added and not done, with the item before
        self.gone: set[str] = set()
        self.calls: dict[str, str] = {}  # that the server has yet to answer, with the response
        self.answered: set[str] = set()  # those that it has, as the conversation shows
        self.clock_ms = {"start": 0, "end": 0}  # of the input; a turn may begin in the silence that ended the last
        self.speaking: str | None = None  # the item that is being said
        self.errors: list[Event] = []
        self.seen: list[Event] = []

    def feed(self, message: str) -> None:
        event = json.loads(message)
        self.seen.append(event)
        assert event["event_id"] not in self.event_ids, "two events of one name"
        self.event_ids.add(event["event_id"])
        kind: str = event["type"]
        if kind.startswith("response."):
            self._response(kind.removeprefix("response."), event)
        elif kind.startswith("conversation.item."):
            self._item(kind.removeprefix("conversation.item."), event)
        elif kind.startswith("input_audio_buffer."):
            self._input(kind.removeprefix("input_audio_buffer."), event)
        elif kind == "wavllm.function":
            self._function(event)
        elif kind == "error":
            self.errors.append(event["error"])
            assert event["error"]["message"], "an error that says nothing"

    def at_rest(self) -> None:
        """Nothing is under way; so nothing may be open."""
        assert not self.responses, f"never done: {list(self.responses)}"
        assert not self.pending, f"added and never done: {list(self.pending)}"

    def _response(self, kind: str, event: Event) -> None:
        if kind == "created":
            response = event["response"]
            assert response["id"] not in self.responses.keys() | self.over, "created twice"
            assert (response["status"], response["output"]) == ("in_progress", [])
            if response["conversation_id"] is not None:
                assert self.active is None, "two active responses in one conversation"
                self.active = response["id"]
            if before := event.get("wavllm_resumes"):
                assert self.speaking is None, "somebody speaks"
                broken_off = self.cut.pop(before)  # once only
                for name in ("output_modalities", "max_output_tokens", "metadata", "audio", "conversation_id"):
                    assert response[name] == broken_off[name], f"{name} changed between"
                self.resumed.append(response)
            if response["conversation_id"] is not None:
                self.cut.clear()
            self.responses[response["id"]] = Seen(response)
            return
        response_id = event["response"]["id"] if kind == "done" else event["response_id"]
        assert response_id not in self.over, f"{kind} after the end of its response"
        seen = self.responses[response_id]
        if kind == "done":
            self._response_done(seen, event["response"])
        elif kind == "output_item.added":
            assert event["output_index"] == len(seen.items) + len(seen.open)
            assert not seen.open, "an item begins within another"
            seen.open[event["item"]["id"]] = Part(event["item"]["type"], event["output_index"])
        elif kind == "output_item.done":
            part = seen.open.pop(event["item"]["id"])
            assert event["output_index"] == part.index
            assert not part.part_open, "an item ends before its content"
            seen.items.append(event["item"])
        else:
            self._content(kind, seen.open[event["item_id"]], event)

    def _response_done(self, seen: Seen, done: Event) -> None:
        assert not seen.open, "the response ends before its items"
        assert done["id"] not in self.calls.values(), "the response ends before a call is answered"
        assert done["status"] in ENDINGS
        assert done["output"] == seen.items
        for name in ("conversation_id", "output_modalities", "max_output_tokens", "metadata", "audio"):
            assert done[name] == seen.created[name], f"{name} changed under way"
        assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
        details = done["status_details"]
        assert (details is None) == (done["status"] == "completed")
        assert details is None or details["type"] == done["status"]
        broken_off = done["status"] == "cancelled" and details["reason"] == "turn_detected"
        if done["conversation_id"] is not None and (broken_off or done["output_modalities"] == ["audio"]):
            self.cut[done["id"]] = done
        for rest in self.resumed:
            rest.update(done if rest["id"] == done["id"] else {})
        del self.responses[done["id"]]
        self.over.add(done["id"])
        if self.active == done["id"]:
            self.active = None

    def _content(self, kind: str, part: Part, event: Event) -> None:
        assert event["output_index"] == part.index
        if kind == "content_part.added":
            assert not part.part_open
            part.part_open = True
        elif kind == "content_part.done":
            part.part_open = False
            text = event["part"].get("text", event["part"].get("transcript"))
            assert text == part.text
            assert part.closed, "a part is done before its text"
        elif kind.startswith("function_call_arguments."):
            assert part.kind == "function_call"
            if kind.endswith(".done"):
                assert event["arguments"] == part.text
            else:
                part.text += event["delta"]
        else:
            assert part.part_open, f"{kind} outside its part"
            stream, _, what = kind.rpartition(".")
            assert stream not in part.closed, f"{kind} after its end"
            if what == "done":
                part.closed.add(stream)
                assert event.get("text", event.get("transcript", part.text)) == part.text
            elif stream != "output_audio":
                part.text += event["delta"]

    def _function(self, event: Event) -> None:
        call_id = event["call_id"]
        assert event["response_id"] in self.responses, "a call outside its response"
        if event["status"] == "in_progress":
            assert call_id not in self.calls.keys() | self.answered, "called twice"
            self.calls[call_id] = event["response_id"]
        else:
            assert self.calls.pop(call_id) == event["response_id"]
            assert call_id in self.answered, "there is no output"
            assert (event["status"] == "failed") == ("error" in event)

    def _item(self, kind: str, event: Event) -> None:
        if kind == "added":
            item_id, before = event["item"]["id"], event["previous_item_id"]
            assert item_id not in self.items, "added twice"
            place = 0 if before is None else self.items.index(before) + 1
            self.items.insert(place, item_id)
            self.pending[item_id] = before
            if event["item"]["type"] == "function_call_output":
                self.answered.add(event["item"]["call_id"])
        elif kind == "done":
            assert self.pending.pop(event["item"]["id"]) == event["previous_item_id"]
            assert event["item"]["status"] in ("completed", "incomplete")
        elif kind == "deleted":
            self.items.remove(event["item_id"])
            self.gone.add(event["item_id"])
        elif kind == "retrieved":
            assert event["item"]["id"] in self.items
        elif kind.startswith("input_audio_transcription."):
            assert event["item_id"] in self.items, "the transcript of nothing"

    def _input(self, kind: str, event: Event) -> None:
        if kind == "speech_started":
            assert self.speaking is None
            self.speaking = event["item_id"]
            self._tick("start", event["audio_start_ms"])
        elif kind == "speech_stopped":
            assert self.speaking == event["item_id"]
            self._tick("end", event["audio_end_ms"])
            assert event["audio_end_ms"] > self.clock_ms["start"]
        elif kind == "committed":
            assert self.speaking in (None, event["item_id"])
            assert event["previous_item_id"] == (self.items[-1] if self.items else None)
            self.speaking = None
        elif kind == "cleared":
            self.speaking = None

    def _tick(self, what: str, at_ms: int) -> None:
        assert at_ms >= self.clock_ms[what], "the clock of the input went back"
        self.clock_ms[what] = at_ms
