"""When two names are one."""

from __future__ import annotations

from unicodedata import normalize


def folded(name: str) -> str:
    """The same for all spellings of a name: in any case, and whether or not accents are characters of their own."""
    return normalize("NFC", normalize("NFC", name).casefold())
