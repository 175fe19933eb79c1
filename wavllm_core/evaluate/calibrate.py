"""How alike two utterances of one voice are to a checkpoint, measured on recorded people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from wavllm_core.checkpoint import load
from wavllm_core.errors import InputError
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import Floats, equal_error_rate
from wavllm_core.evaluate.voices import pairs
from wavllm_core.train.corpus import read_pack, speech_span
from wavllm_core.voices import VoiceScale, fingerprint

NEWTON_STEPS = 30


def calibrate(pack: Path, folder: Path, source: str, split: str) -> VoiceScale:
    """A scale for the checkpoint in `folder`, from the clips of a pack whose speakers are known.

    Raises InputError when fewer than two people have spoken twice.
    """
    listener, voices = Listener(load(folder)), []
    for clip, pcm in read_pack(pack, lambda clip: clip.split == split and clip.source == source and clip.speaker != ""):
        start, end = speech_span(pcm)
        voices.append((clip.speaker, listener.voice(pcm[start:end])))
    speakers = [speaker for speaker, _ in voices]
    if sum(speakers.count(speaker) > 1 for speaker in set(speakers)) < 2:
        raise InputError(f"{pack}: {len(voices)} clips of {source} in {split}; two people must have spoken twice")
    similarities, same = pairs(voices)
    eer_percent, threshold = equal_error_rate(similarities, same)
    measured_on = f"{len(voices)} clips of {len(set(speakers))} speakers, {source} {split} of {pack.name}"
    slope = fit_slope(similarities - threshold, same)
    return VoiceScale(fingerprint(folder), round(threshold, 4), round(slope, 4), round(eer_percent, 2), measured_on)


def fit_slope(margins: Floats, same: npt.NDArray[np.bool_]) -> float:
    """The most likely slope of a logistic through 0.5 at margin 0, by Newton's method; (pairs,) both."""
    slope = 1.0
    for _ in range(NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-slope * margins))
        gradient = float(np.sum(margins * (same - probability)))
        curvature = float(np.sum(np.square(margins) * probability * (1 - probability)))
        slope += gradient / max(curvature, 1e-9)
    return slope
