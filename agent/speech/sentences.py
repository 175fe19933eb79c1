"""Finds sentences in text that is still being written. Pure; knows no voice.

Whatever the pieces it comes in, a text is cut at the same places, and the sentences joined are the text.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

MAX_SENTENCE_CHARS: Final = 240  # about 15 seconds of speech; longer ones are cut at a comma or a space
ABBREVIATIONS: Final = re.compile(  # whatever else ends in a full stop before a capital letter ends a sentence
    r"mr|mrs|ms|dr|prof|rev|gen|col|sgt|st|mt|ft|jr|sr|vs|etc|e\.g|i\.e|cf|al|approx|ca|dept|est|fig|vol|inc|ltd|co"
    r"|corp|tel|ext|min|max|oz|lb|a\.m|p\.m|u\.s|u\.k",
    re.IGNORECASE,
)
_END: Final = re.compile(r"""(?P<mark>[.!?…]+)["'”’)\]»]*(?P<gap>\s+)|[。！？]|\n""")
_LAST_WORD: Final = re.compile(r"[\w.]*$")
_BREAKS: Final = (re.compile(r"[,;:]\s"), re.compile(r"\s"))


async def read_sentences(pieces: AsyncIterable[str]) -> AsyncGenerator[str, None]:
    """Each sentence as soon as it is certain that it is one; what is left at the end is the last."""
    text = ""
    async for piece in pieces:
        text += piece
        while end := sentence_end(text):
            yield text[:end]
            text = text[end:]
    if text:
        yield text


def sentence_end(text: str) -> int:
    """Where the first sentence ends, the space after it included; 0 while more text could change the answer."""
    for match in _END.finditer(text):
        end = match.end()
        gap = match["gap"] or ""
        newline = match.group() == "\n" or "\n" in gap
        if gap and newline:
            end = match.start("gap") + gap.index("\n") + 1
        if end > MAX_SENTENCE_CHARS:
            break
        if gap and not newline:
            if end == len(text):
                break  # what follows decides
            if text[end].islower() or _is_abbreviation(text[: match.end("mark")]):
                continue
        if text[:end].strip():
            return end
    return _forced_end(text) if len(text) > MAX_SENTENCE_CHARS else 0


def _is_abbreviation(text: str) -> bool:
    """Whether the full stop at the end belongs to the word before it, or to the number of a list."""
    if not text.endswith(".") or text.endswith(".."):
        return False
    before = text[:-1]
    match = _LAST_WORD.search(before)
    word = match.group() if match else ""
    initial = len(word) == 1 and word.isupper() and word != "I"
    return initial or before.strip().isdigit() or bool(ABBREVIATIONS.fullmatch(word))


def _forced_end(text: str) -> int:
    head = text[:MAX_SENTENCE_CHARS]
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(head) if head[: match.end()].strip()]
        if ends:
            return ends[-1]
    return MAX_SENTENCE_CHARS
