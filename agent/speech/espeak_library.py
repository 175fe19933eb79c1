"""espeak-ng out of its shared library, as a program of its own: text on standard input, WAV on standard output.

Run by `voice.py` where the program is not installed; so the library, which has one state for the whole process, can
be stopped like the program. Imports nothing of this package and starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Final

SYNCHRONOUS: Final = 2  # audio comes to the callback, and the call returns when all came
TEXT_FLAGS: Final = 0x1001  # UTF-8, and a pause after the last sentence
WORDS_PER_MINUTE: Final = 1  # the parameter
UNKNOWN_BYTES: Final = 0x7FFFF000  # of audio, when the header is written
CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def main(library: str, data: str, language: str, words_per_minute: str) -> None:
    """Speak; ends with status 1 and the reason when that is impossible."""
    espeak = ctypes.CDLL(library)
    sample_rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)
    if sample_rate <= 0:
        sys.exit(f"espeak-ng finds nothing to work with in {data}")
    if espeak.espeak_SetVoiceByName(language.encode()):
        sys.exit(f"the voice does not exist: {language}")
    espeak.espeak_SetParameter(WORDS_PER_MINUTE, int(words_per_minute), 0)
    output = sys.stdout.buffer
    output.write(wav_header(sample_rate))

    def take(samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            output.write(ctypes.string_at(samples, 2 * count))
        return 0

    callback = CALLBACK(take)  # has to outlive the synthesis
    espeak.espeak_SetSynthCallback(callback)
    text = sys.stdin.buffer.read() + b"\0"
    status = espeak.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, TEXT_FLAGS, None, None)
    output.flush()
    if status:
        sys.exit(f"espeak-ng failed with status {status}")


def wav_header(sample_rate: int) -> bytes:
    """Of 16-bit mono audio of unknown length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", UNKNOWN_BYTES + 36, b"WAVE") + form + struct.pack("<4sI", b"data", UNKNOWN_BYTES)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
