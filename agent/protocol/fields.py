"""Reads JSON objects that nobody has checked.

Owns the wording of complaints: each names the path of the field, what stands there and what may.
Bounds every length before anything is made of it. Does not know what the fields mean.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from agent.protocol.errors import ProtocolError

MAX_MESSAGE_BYTES: Final = 16 * 2**20
MAX_AUDIO_CHARS: Final = 15 * 2**20  # base64, of one field
MAX_TEXT_CHARS: Final = 32_768  # instructions, or one typed message
MAX_ID_CHARS: Final = 128
MAX_SHOWN_CHARS: Final = 60  # of a value quoted in a complaint
MAX_DEPTH: Final = 64  # of objects and lists in each other; far below what Python can write out again


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object and the path at which it stands in the message."""

    values: Mapping[str, Any]
    path: str = ""

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def at(self, name: str) -> str:
        """Where a field stands, as the client would write it."""
        return f"{self.path}.{name}" if self.path else name

    def value(self, name: str) -> Any:
        """A field of any type. Raises ProtocolError when it is missing."""
        if name not in self.values:
            raise ProtocolError("missing_required_parameter", f"{self.at(name)} is missing", param=self.at(name))
        return self.values[name]

    def text(self, name: str, max_chars: int = MAX_TEXT_CHARS) -> str:
        """A string of at most `max_chars` characters."""
        text = self.value(name)
        if not isinstance(text, str):
            raise self.wrong(name, "a string")
        if len(text) > max_chars:
            message = f"{self.at(name)} has {len(text)} characters; the limit is {max_chars}"
            raise ProtocolError("string_above_max_length", message, param=self.at(name))
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: legal JSON, no character
            raise self.wrong(name, "valid Unicode") from None
        return text

    def optional_text(self, name: str, max_chars: int = MAX_ID_CHARS) -> str | None:
        """The same where absent and null both mean: none."""
        return None if self.values.get(name) is None else self.text(name, max_chars)

    def flag(self, name: str) -> bool:
        """true or false."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(name, f"a number from {low} to {high}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def choice(self, name: str, allowed: Sequence[str | int]) -> Any:
        """One of a few values."""
        value = self.value(name)
        if isinstance(value, bool) or value not in allowed:
            raise self.wrong(name, " or ".join(json.dumps(option) for option in allowed))
        return value

    def object(self, name: str) -> Fields:
        """An object inside this one."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, self.at(name))

    def objects(self, name: str, max_length: int) -> list[Fields]:
        """A list of at most `max_length` objects."""
        value = self.value(name)
        if not isinstance(value, list) or len(value) > max_length:
            raise self.wrong(name, f"a list of at most {max_length} objects")
        members = [Fields(member, f"{self.at(name)}[{index}]") for index, member in enumerate(value)]
        for member in members:
            if not isinstance(member.values, dict):
                raise ProtocolError("invalid_type", f"{member.path} must be an object", param=member.path)
        return members

    def texts(self, name: str, max_length: int, max_chars: int) -> tuple[str, ...]:
        """A list of at most `max_length` strings of at most `max_chars` characters."""
        value = self.value(name)
        if not isinstance(value, list) or len(value) > max_length:
            raise self.wrong(name, f"a list of at most {max_length} strings")
        members = Fields({f"{name}[{index}]": member for index, member in enumerate(value)}, self.path)
        return tuple(members.text(member, max_chars) for member in members.values)

    def audio(self, name: str) -> bytes:
        """Samples of any format, out of base64."""
        encoded, at = self.value(name), self.at(name)
        if not isinstance(encoded, str):
            raise self.wrong(name, "a string of base64")
        if len(encoded) > MAX_AUDIO_CHARS:
            message = f"{at} has {len(encoded)} characters of base64; the limit is {MAX_AUDIO_CHARS}"
            raise ProtocolError("string_above_max_length", message, param=at)
        try:
            return binascii.a2b_base64(encoded, strict_mode=True)
        except ValueError as error:
            raise ProtocolError("invalid_base64", f"{at} is not base64: {error}", param=at) from error

    def refuse(self, name: str, why: str) -> None:
        """Raise when the client asks for something that this server does not do: silence would mislead."""
        if self.values.get(name):
            raise ProtocolError("unsupported_parameter", f"{self.at(name)}: {why}", param=self.at(name))

    def wrong(self, name: str, expected: str) -> ProtocolError:
        """What to raise when a field is not as `expected`."""
        shown = json.dumps(self.values[name])[: MAX_SHOWN_CHARS + 1]
        if len(shown) > MAX_SHOWN_CHARS:
            shown = shown[:MAX_SHOWN_CHARS] + "…"
        message = f"{self.at(name)} must be {expected}, not {shown}"
        return ProtocolError("invalid_value", message, param=self.at(name))


def check_depth(message: Mapping[str, Any]) -> None:
    """Raises ProtocolError when objects and lists stand in each other more than MAX_DEPTH deep."""
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        held = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [one for one in held if isinstance(one, dict | list)]
        if not level:
            return
    raise ProtocolError("invalid_json", f"the message is nested more than {MAX_DEPTH} deep")
