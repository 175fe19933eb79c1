"""A published list as training data: rows of sound, instruction and answer become clips.

Knows neither the columns nor the sound files: see `wavllm_core/manifest.py` and `wavllm_core/audio.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wavllm_core.audio import read_audio
from wavllm_core.errors import InputError
from wavllm_core.manifest import Row, read_manifest
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.corpus import SAMPLE_RATE, Clip, Pcm

log = logging.getLogger(__name__)
MAX_SECONDS = 30.0
EVALUATION = ("dev", "valid", "test")  # how the names of lists begin that training must not see


def manifest_clips(path: Path) -> Iterator[tuple[Clip, Pcm]]:
    """Every usable row, sounds looked for beside the list; bad ones are named in the log, skipped and counted.

    The source is the list's name, by which recipes weigh it. Rows of text alone come with no samples.
    Raises InputError for a file that is no list.
    """
    rows, skipped = read_manifest(path, path.parent), 0
    split = "dev" if path.stem.startswith(EVALUATION) else "train"
    for row in rows:
        try:
            pcm = _sound(row)
        except InputError as error:
            skipped += 1
            log.warning("%s line %d: %s: %s", path, row.line, row.id, error)
            continue
        text = row.target.strip() if row.prompt == TRANSCRIBE else ""
        yield Clip(row.id, path.stem, split, text, prompt=row.prompt, answer=row.target), pcm
    if skipped:
        log.warning("%s: %d of %d rows skipped", path, skipped, len(rows))


def _sound(row: Row) -> Pcm:
    if row.problem:
        raise InputError(row.problem.removeprefix(f"line {row.line}: "))
    if not row.target:
        raise InputError("tgt_text: empty")
    if row.audio is None:
        return np.zeros(0, np.int16)
    waveform = read_audio(row.audio, row.start_frame, row.end_frame)
    if len(waveform) > MAX_SECONDS * SAMPLE_RATE:
        raise InputError(f"audio: {len(waveform) / SAMPLE_RATE:.1f} s; at most {MAX_SECONDS:.0f} s are possible")
    return np.asarray(np.clip(waveform, -1, 1) * 32767, dtype=np.int16)
