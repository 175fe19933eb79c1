"""Recordings, and what an engine hears in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.voices.voiced import Detect, Voicing, measure_voicing
from wavllm_core.audio import Waveform, read_audio
from wavllm_core.engine.api import Context, Heard


@dataclass(frozen=True, eq=False)
class Recording:
    """An utterance before it is heard."""

    label: str
    waveform: Waveform  # without the silence around the voice, where there is one
    voicing: Voicing


def read_recordings(files: Iterable[Path], detect: Detect | None = None) -> list[Recording]:
    """`detect`: of speech, where that matters. Raises InputError for the first file that cannot be read."""
    recordings = []
    for path in files:
        waveform = read_audio(path)
        voicing = measure_voicing(waveform, detect)
        start, end = voicing.span
        recordings.append(Recording(path.name, waveform[start:end] if end else waveform, voicing))
    return recordings


async def hear_waveform(context: Context, waveform: Waveform) -> Heard:
    """What was said in (samples,) at 16 kHz, and by whom. Raises CoreError as `Utterance.hear`."""
    utterance = context.open_utterance()
    try:
        utterance.push(waveform)
        return await utterance.hear()
    finally:
        utterance.cancel()
