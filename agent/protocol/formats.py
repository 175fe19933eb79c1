"""Which shapes audio may have on the wire. Knows their names, not how samples are coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from agent.protocol.fields import Fields

PCM_RATES_HZ: Final = (8_000, 16_000, 24_000, 48_000)
G711_RATE_HZ: Final = 8_000
FORMAT_TYPES: Final = ("audio/pcm", "audio/pcmu", "audio/pcma")


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One channel: 16-bit little-endian samples, or G.711 by the µ or the A law."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate_hz: int = 24_000

    @property
    def sample_bytes(self) -> int:
        return 2 if self.type == "audio/pcm" else 1

    @property
    def bytes_per_s(self) -> int:
        return self.rate_hz * self.sample_bytes

    def to_wire(self) -> dict[str, Any]:
        """As the protocol writes it; G.711 has one rate only, and names none."""
        return {"type": self.type, "rate": self.rate_hz} if self.type == "audio/pcm" else {"type": self.type}


PCM_24_KHZ: Final = AudioFormat()  # what a client that says nothing sends and gets


def read_format(fields: Fields, current: AudioFormat) -> AudioFormat:
    """A format; of PCM without a rate, the `current` one. Raises ProtocolError on any that is not spoken here."""
    kind = fields.choice("type", FORMAT_TYPES)
    if kind == "audio/pcm":
        usual = current.rate_hz if current.type == kind else PCM_24_KHZ.rate_hz
        return AudioFormat(kind, fields.choice("rate", PCM_RATES_HZ) if "rate" in fields else usual)
    if fields.values.get("rate") is not None:
        fields.choice("rate", [G711_RATE_HZ])
    return AudioFormat(kind, G711_RATE_HZ)
