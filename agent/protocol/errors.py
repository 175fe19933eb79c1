"""What a client can do wrong.

ProtocolError             the peer's fault: answered by an `error` event, and the session goes on
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A message that cannot be taken; says which field is wrong, and what it may be."""

    def __init__(self, code: str, message: str, *, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code  # for programs, stable
        self.message = message  # for people
        self.param = param  # path of the field, as "session.audio.input.format.rate"
        self.event_id = event_id  # the client's own name for the message, where it gave one
