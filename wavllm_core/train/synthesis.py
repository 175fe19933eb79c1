"""Synthetic speech and phonemes by espeak-ng: many voices, in parallel, the same for the same seed."""

from __future__ import annotations

import io
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from wavllm_core.errors import InputError

ACCENTS = (
    "en-us", "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
    "en-029", "en-us-nyc",
)  # fmt: skip
VARIANTS = (
    "", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+f1", "+f2", "+f3", "+f4", "+f5",
    "+klatt", "+klatt2", "+klatt3", "+klatt4",
)  # fmt: skip
TIMEOUT_S = 20


@dataclass(frozen=True)
class Voice:
    """How espeak-ng is to speak."""

    name: str
    words_per_minute: int
    pitch: int  # 0 to 99

    @classmethod
    def random(cls, rng: random.Random) -> Voice:
        """Any accent and variant, at speeds people speak at."""
        return cls(rng.choice(ACCENTS) + rng.choice(VARIANTS), rng.randint(110, 210), rng.randint(15, 85))


def require_espeak() -> str:
    """The program's path. Raises InputError when it is not installed."""
    path = shutil.which("espeak-ng")
    if path is None:
        raise InputError("espeak-ng is not installed (Debian: apt-get install espeak-ng)")
    return path


def speak(text: str, voice: Voice, sample_rate: int) -> npt.NDArray[np.float32]:
    """`text` as a waveform in [-1, 1]."""
    command = [require_espeak(), "-v", voice.name, "-s", str(voice.words_per_minute), "-p", str(voice.pitch)]
    sound = subprocess.run(
        [*command, "--stdout", "--stdin"],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    waveform, rate = soundfile.read(io.BytesIO(sound.stdout), dtype="float32")
    return np.asarray(soxr.resample(waveform, rate, sample_rate), dtype=np.float32)


def speak_all(texts: Sequence[str], seed: int, sample_rate: int, workers: int = 2) -> Iterator[npt.NDArray[np.float32]]:
    """Each text in a voice drawn from `seed`, in order."""
    rng = random.Random(seed)
    voices = [Voice.random(rng) for _ in texts]
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(speak, texts, voices, repeat(sample_rate))


def phonemes(texts: Sequence[str]) -> list[list[str]]:
    """American phonemes of each text, without stress, words run together."""
    words = [_NOT_WORDS.sub(" ", text) for text in texts]  # a comma would split the line
    result = subprocess.run(
        [require_espeak(), "-q", "-x", "--sep=_", "-v", "en-us", "-b", "1"],
        input="\n\n".join(words).encode(),
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S + len(texts) / 50,
    )
    lines = [line for line in result.stdout.decode().splitlines() if line.strip()]
    if len(lines) != len(texts):
        raise InputError(f"espeak-ng gave {len(lines)} lines for {len(texts)} texts")
    return [[p for p in line.replace(" ", "_").translate(_NO_STRESS).split("_") if p] for line in lines]


_NOT_WORDS = re.compile(r"[^\w']+")
_NO_STRESS = str.maketrans("", "", "',|%=:;!~-")
