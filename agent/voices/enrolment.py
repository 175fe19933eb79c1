"""From recordings to what can be enrolled, through any engine."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from agent.voices.diarization import hear_parts
from agent.voices.listening import Recording, hear_waveform
from agent.voices.people import Sample
from wavllm_core.engine.api import Engine


async def hear_samples(engine: Engine, recordings: Iterable[Recording], *, by_parts: bool = False) -> list[Sample]:
    """Whose voices they are, to the model. Raises CoreError for one that cannot be heard.

    by_parts: compare the parts of each, too, which takes three times as long again
    """
    samples = []
    with closing(engine.open_context()) as context:
        for one in recordings:
            vector = (await hear_waveform(context, one.waveform)).speaker_vector
            parts = await hear_parts(context, one.waveform) if by_parts else 1.0
            samples.append(Sample(one.label, vector, one.voicing, parts))
    return samples
