"""A reply that speech broke off: how much of it was heard, and what is left to say. Sends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.sessions.conversation import Item
from agent.sessions.response import ReplyDue, ReplyPlan, Response


@dataclass(frozen=True, slots=True)
class Cut:
    """May be taken up again, as long as the client keeps it."""

    response: Response  # which is over
    sent_ms: int  # of its last message, when it was broken off
    heard_ms: int  # then, as far as can be told from when it was sent
    calling: bool  # the model was going to be asked again, with what came of its calls

    @classmethod
    def of(cls, response: Response, left_s: float, *, calling: bool) -> Cut:
        """left_s: of audio that had been sent and not been played"""
        alignment = response.message.alignment if response.message else None
        sent_ms = alignment.sent_ms if alignment else 0
        return cls(response, sent_ms, max(0, sent_ms - round(1000 * left_s)), calling)

    def is_kept(self, items: Sequence[Item]) -> bool:
        """Whether the client has not deleted it."""
        return self.response.message is None or self.response.message in items

    @property
    def unheard(self) -> tuple[str, int] | None:
        """The item and the millisecond from where on nobody can have heard it; None: the client has told better."""
        message = self.response.message
        if not message or not message.alignment or message.alignment.played_ms is not None:
            return None
        untouched = message.alignment.sent_ms == self.sent_ms
        return (message.id, self.heard_ms) if untouched and self.heard_ms < self.sent_ms else None

    def plan_rest(self, due: ReplyDue, after: str) -> ReplyPlan | None:
        """How to go on where it was broken off, with the settings it was begun with; None: all was said."""
        before, told = self.response.plan, self.response.draft.rest(self.response.told)
        if told is None:
            return None
        since = replace(before.due, confirmed_s=due.confirmed_s, vad_wait_ms=due.vad_wait_ms)
        return replace(before, due=since, input_tokens=(0, 0), after=after, told=told)
