"""The page with a microphone: the files that a browser is given, and what it may do with them. Knows no socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

FOLDER: Final = "/web/"  # under which the files are found; the page itself is at /
CONTENT_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "page.js": "text/javascript; charset=utf-8",
    "conversation.js": "text/javascript; charset=utf-8",
    "microphone.js": "text/javascript; charset=utf-8",
    "microphone_worklet.js": "text/javascript; charset=utf-8",
    "playback.js": "text/javascript; charset=utf-8",
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file, as it is sent."""

    text: str
    content_type: str


def read_pages() -> Mapping[str, Page]:
    """Every file by the path under which it is asked for."""
    folder = files("agent.web")
    pages = {
        FOLDER + name: Page(folder.joinpath(name).read_text(encoding="utf-8"), content_type)
        for name, content_type in CONTENT_TYPES.items()
    }
    return {"/": pages.pop(FOLDER + "index.html"), **pages}
