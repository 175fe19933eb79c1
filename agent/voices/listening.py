"""From recordings to what can be enrolled, through any engine."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agent.voices.people import Sample
from agent.voices.voiced import Detect, Voicing, measure_voicing
from wavllm_core.audio import Waveform, read_audio
from wavllm_core.engine.api import Context, Engine, Heard


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


async def hear_samples(engine: Engine, recordings: Iterable[Recording]) -> list[Sample]:
    """Whose voices they are, to the model. Raises CoreError for one that cannot be heard."""
    with closing(engine.open_context()) as context:
        return [
            Sample(one.label, (await hear_waveform(context, one.waveform)).speaker_vector, one.voicing)
            for one in recordings
        ]


async def hear_waveform(context: Context, waveform: Waveform) -> Heard:
    """What was said in (samples,) at 16 kHz, and by whom. Raises CoreError as `Utterance.hear`."""
    utterance = context.open_utterance()
    try:
        utterance.push(waveform)
        return await utterance.hear()
    finally:
        utterance.cancel()
