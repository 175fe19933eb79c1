"""The typed lines of one device: asked one after another, each answered exactly once.

Pure bookkeeping. A line is known by its id, whatever happens in between: repeated while it waits it is
ignored, repeated after its reply it gets that reply again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Final

from agent.protocol.errors import ProtocolError
from clients.mqtt.topics import Line, Values

MAX_WAITING: Final = 16
MAX_ATTEMPTS: Final = 3
MAX_ANSWERED: Final = 128  # replies kept; the oldest is forgotten


class Lines:
    """What was asked, is being asked and waits to be asked."""

    def __init__(self, answered: Mapping[str, Values] | None = None, waiting: Iterable[Line] = ()) -> None:
        """answered, waiting: what is known from an earlier life"""
        self.asked: Line | None = None
        self._attempts = 0  # to have it answered
        self._waiting = deque(waiting)  # overflow: refused
        self._answered = OrderedDict(answered or {})

    def __bool__(self) -> bool:
        """Whether a reply is owed."""
        return self.asked is not None or bool(self._waiting)

    @property
    def hopeless(self) -> bool:
        """Whether what is being asked was asked often enough."""
        return self._attempts >= MAX_ATTEMPTS

    def reply(self, line_id: str) -> Values | None:
        """To a line that was answered."""
        return self._answered.get(line_id)

    def accept(self, line: Line) -> bool:
        """Take a line; returns whether it is new. Raises ProtocolError when too many wait."""
        known = (self.asked, *self._waiting)
        if line.id in self._answered or any(line.id == other.id for other in known if other):
            return False
        if len(self._waiting) >= MAX_WAITING:
            message = f"line {line.id!r} is refused: {MAX_WAITING} lines wait for their answers already"
            raise ProtocolError("too_many_lines", message)
        self._waiting.append(line)
        return True

    def ask(self) -> Line:
        """The line to ask now: the one that has no answer yet, else the next. Raises IndexError: there is none."""
        if self.asked is None:
            self.asked, self._attempts = self._waiting.popleft(), 0
        self._attempts += 1
        return self.asked

    def answer(self, reply: Values) -> None:
        """Settle the line that is being asked. Raises ValueError when there is none."""
        if self.asked is None:
            raise ValueError("no line is being asked")
        self._answered[self.asked.id] = reply
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        self.asked = None
