"""Functions of a device: what it offers, what the model calls, what came of it.

Pure: the payloads of the channels `tools`, `call` and `result`, and which calls wait for their result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clients.mqtt.topics import MAX_LINE_ID_CHARS, Values, read_json
from clients.realtime import Event

MAX_TOOLS: Final = 16
REPLY_TO_CALLS: Final = "reply to calls"  # the id of the event that asks for it


@dataclass(frozen=True, slots=True)
class Result:
    """What a device made of a call."""

    call_id: str
    output: str  # JSON


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions of a device, as session.update carries them; the server says what is wrong with them."""

    tools: Sequence[Mapping[str, Any]]

    @property
    def event(self) -> Event:
        return {"type": "session.update", "session": {"type": "realtime", "tools": list(self.tools)}}


def read_offer(payload: bytes) -> Offer:
    """Raises ProtocolError when it is none."""
    return Offer([tool.values for tool in read_json(payload).objects("tools", MAX_TOOLS)])


def read_result(payload: bytes) -> Result:
    """Raises ProtocolError when it is none."""
    fields = read_json(payload)
    return Result(fields.text("id", MAX_LINE_ID_CHARS), json.dumps(fields.object("output").values))


class Calls:
    """Those that a device has not answered; each is, by itself or because time is up."""

    def __init__(self, patience_s: float, clock: Callable[[], float]) -> None:
        self._patience_s, self._clock = patience_s, clock
        self._due_s: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._due_s)

    @property
    def deadline_s(self) -> float | None:
        """When the first of them is overdue."""
        return min(self._due_s.values(), default=None)

    def begin(self, response: Event) -> list[Values]:
        """The calls of a response that is over, as the device is told of them."""
        told: list[Values] = []
        for item in response.get("output", []):
            if item["type"] == "function_call":
                self._due_s[item["call_id"]] = self._clock() + self._patience_s
                told.append({"id": item["call_id"], "name": item["name"], "arguments": json.loads(item["arguments"])})
        return told

    def end(self, result: Result) -> list[Event]:
        """What to send when there is a result; nothing when nobody waits for it."""
        if self._due_s.pop(result.call_id, None) is None:
            return []
        item = {"type": "function_call_output", "call_id": result.call_id, "output": result.output}
        events: list[Event] = [{"type": "conversation.item.create", "item": item}]
        return events if self._due_s else [*events, {"type": "response.create", "event_id": REPLY_TO_CALLS}]

    def give_up(self) -> list[Event]:
        """The same for those that are overdue."""
        error = json.dumps({"error": f"the device gave no result within {self._patience_s:g} s", "code": "timeout"})
        late = [call_id for call_id, due_s in self._due_s.items() if due_s <= self._clock()]
        return [event for call_id in late for event in self.end(Result(call_id, error))]
