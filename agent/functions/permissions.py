"""Who may have a function called: one of the server's own, or of a client. Pure.

People are told by the voice that they were enrolled with; whoever types has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.voices.spelling import folded

Who = Literal["everybody", "enrolled"] | tuple[str, ...]  # the last: people, by the names they were enrolled under


@dataclass(frozen=True, slots=True)
class Permissions:
    """By the name of the function; what is not there is for everybody."""

    by_function: Mapping[str, Who] = field(default_factory=dict)

    def refusal(self, function: str, person: str | None) -> str | None:
        """Why this person may not have it called, if so; None as a person: nobody knows who asks."""
        match self.by_function.get(function, "everybody"):
            case "everybody":
                return None
            case "enrolled":
                return None if person else f"{function} is only for people whose voice is known here"
            case names:
                if person and folded(person) in map(folded, names):
                    return None
                return f"{function} is only for {' and '.join(names) or 'nobody'}"
