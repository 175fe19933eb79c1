"""Names of people in front, numbers towards the model.

The model was trained on "speaker 2", and knows no names. So what it reads says numbers where people say names, and
what it writes says names where people have one. Nothing else is changed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final
from unicodedata import normalize

from agent.protocol.speakers import Memory
from agent.voices.spelling import folded
from wavllm_core.engine.api import Exchange

SPEAKER: Final = re.compile(r"\bspeaker (\d+)\b", re.IGNORECASE)
UNFINISHED: Final = re.compile(r"\b(?:s|sp|spe|spea|speak|speake|speaker|speaker \d*)$", re.IGNORECASE)

Names = Mapping[int, str]  # of speakers, by number


def with_names(text: str, names: Names) -> str:
    """What the model wrote, as people read it."""
    return SPEAKER.sub(lambda found: names.get(int(found[1]), found[0]), text)


def with_numbers(text: str, names: Names) -> str:
    """What people wrote, as the model reads it; at the start of a sentence with a capital."""
    numbers = {folded(name): number for number, name in names.items()}
    if not numbers:
        return text
    spellings = {normalize(form, name) for name in names.values() for form in ("NFC", "NFD")}
    longest_first = sorted(map(re.escape, spellings), key=len, reverse=True)

    def tell(found: re.Match[str]) -> str:
        number = numbers.get(folded(found[0]))
        if number is None:  # `re` takes ı and İ for i
            return found[0]
        before = text[: found.start()].rstrip()
        return f"{'Speaker' if not before or before[-1] in '.?!' else 'speaker'} {number}"

    return re.sub(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", tell, text, flags=re.IGNORECASE)


def seen_by_model(
    history: Sequence[Exchange], names: Names, memory: Memory, asker: int | None = None
) -> list[Exchange]:
    """A conversation with numbers for names; with memory of their own, only what concerns `asker`, who spoke last."""
    asker = asker if memory == "own" else None
    return [
        replace(past, text=with_numbers(past.text, names), reply=past.reply and with_numbers(past.reply, names))
        for past in history
        if asker is None or past.speaker in (asker, None)
    ]


async def name_speakers(pieces: AsyncGenerator[str, None], names: Names) -> AsyncGenerator[str, None]:
    """A reply as it is written; what may become "speaker 2" waits until it is certain."""
    held = ""
    async with aclosing(pieces):
        async for piece in pieces:
            held += piece
            unfinished = UNFINISHED.search(held)
            end = unfinished.start() if unfinished else len(held)
            if end:
                yield with_names(held[:end], names)
                held = held[end:]
    if held:
        yield with_names(held, names)
