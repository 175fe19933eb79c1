"""What a client says about its session before the first event: in the address, and in one header."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from agent.protocol.fields import MAX_ID_CHARS
from agent.protocol.settings import MODEL, SessionSettings

BETA_HEADER = "OpenAI-Beta"
BETA = "realtime=v1"


@dataclass(frozen=True, slots=True)
class Handshake:
    """Read from a request; what is missing means the usual."""

    model: str = MODEL  # as the client calls it: any name means the one there is
    transcribes: bool = False  # nothing is to be answered
    legacy: bool = False  # events are wanted as they were called before general availability

    @classmethod
    def read(cls, query: str, beta_headers: list[str]) -> Handshake:
        """From the query of the address, and all values of the header."""
        fields = {name: values[-1] for name, values in parse_qs(query).items()}
        model = fields.get("model") or MODEL
        legacy = any(BETA in value.replace(" ", "").split(",") for value in beta_headers)
        return cls(model[:MAX_ID_CHARS], fields.get("intent") == "transcription", legacy)

    def apply(self, settings: SessionSettings) -> SessionSettings:
        """What the session begins with, where it would have been `settings`."""
        return replace(settings, model=self.model, kind="transcription" if self.transcribes else settings.kind)
