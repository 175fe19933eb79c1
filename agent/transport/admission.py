"""How many may be in at a time, of all clients and of each key. Knows no socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from websockets.datastructures import Headers

from agent.sessions.session import Session
from agent.transport.access import Access, Key, Refused
from agent.transport.wire import Bucket, Wire

RETRY_LATER: Final = {"Retry-After": "5"}  # seconds


@dataclass(slots=True, eq=False)
class Seat:
    """A place that a client has, from before its handshake ends until its conversation is over."""

    key: Key | None
    bucket: Bucket
    wire: Wire | None = None  # once there is one
    session: Session | None = None


class Admission:
    """Gives out seats."""

    def __init__(self, access: Access, max_sessions: int, messages_per_s: int) -> None:
        self.access = access
        self.seats: set[Seat] = set()
        self.closed = False  # nobody more
        self._max_sessions, self._messages_per_s = max_sessions, messages_per_s
        self._buckets: dict[str, Bucket] = {}  # by name of the key: its sessions share one

    def admit(self, headers: Headers) -> Seat:
        """Whoever takes a seat gives it back. Raises Refused when there is none for this client."""
        key = self.access.check(headers)
        self.check_room()
        if key is None:
            seat = Seat(None, Bucket(self._messages_per_s))
        else:
            held = sum(seat.key is key for seat in self.seats)
            if key.max_sessions is not None and held >= key.max_sessions:
                why = f"the key {key.name!r} is good for {key.max_sessions} sessions at a time"
                raise Refused(429, "too_many_sessions", why, RETRY_LATER)
            bucket = Bucket(key.messages_per_s or self._messages_per_s)
            seat = Seat(key, self._buckets.setdefault(key.name, bucket))
        self.seats.add(seat)
        return seat

    def check_room(self) -> None:
        """Raises Refused when nobody can be let in."""
        if self.closed:
            raise Refused(503, "server_stopping", "the server is about to stop", RETRY_LATER)
        if len(self.seats) >= self._max_sessions:
            why = f"the server is full: it holds {self._max_sessions} sessions"
            raise Refused(503, "server_full", why, RETRY_LATER)
