"""Recorded and synthetic clips in one memory-mapped file, with what is known about each.

A pack is a tar with a `manifest.csv` and sound files; it is read without being unpacked.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from wavllm_core.errors import InputError
from wavllm_core.train import synthesis
from wavllm_core.train.dialogue import DIGITS, QUESTIONS, WAKE_PHRASES
from wavllm_core.train.orders import Order, random_order, random_spoken_form
from wavllm_core.train.speakers import EMOTION, emotion_answer

log = logging.getLogger(__name__)
SAMPLE_RATE = 16_000
FRAME_SAMPLES = 320  # of the loudness that tells speech from what surrounds it
TABLE = "clips.json"
LONG_NOISE_SAMPLES = 60 * SAMPLE_RATE
Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Clip:
    """What is known about one recording; empty where its source does not say."""

    file: str
    source: str
    split: str
    text: str = ""  # transcript
    speaker: str = ""
    order: Order | None = None
    label: str = ""
    prompt: str = ""  # an instruction of its own
    answer: str = ""  # and what is to be said to it; empty: the assistant's rules decide


def read_pack(path: Path, wanted: Callable[[Clip], bool] = lambda clip: True) -> Iterator[tuple[Clip, Pcm]]:
    """Every readable clip of a pack that is wanted; rows that cannot be read are named, skipped and counted.

    Raises InputError for a file that is no pack, or breaks off.
    """
    skipped = 0
    with _named(path), tarfile.open(path) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        manifest = next((name for name in files if PurePosixPath(name).name == "manifest.csv"), None)
        if manifest is None:
            raise InputError(f"{path}: holds no manifest.csv")
        table = io.TextIOWrapper(_open(tar, files[manifest]), encoding="utf-8")
        rows = list(csv.DictReader(table))
        if rows and "file" not in rows[0]:
            raise InputError(f"{path}: {manifest} has no column file")
        for line, row in enumerate(rows, start=2):
            name = str(PurePosixPath(manifest).parent / row["file"])
            try:
                clip = _clip(row)
                if not wanted(clip):
                    continue
                pcm, rate = soundfile.read(io.BytesIO(_open(tar, files[name]).read()), dtype="int16")
                if rate != SAMPLE_RATE or pcm.ndim != 1 or not len(pcm):
                    raise InputError(f"{rate} Hz, shape {pcm.shape}; 16 kHz mono is needed")
                yield clip, pcm
            except (KeyError, TypeError, ValueError, InputError, soundfile.SoundFileError) as error:
                skipped += 1
                log.warning("%s line %d: %s: %s", manifest, line, row["file"], error)
        if skipped:
            log.warning("%s: %d of %d rows skipped", path, skipped, len(rows))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raises InputError, naming the pack, for what goes wrong with it as a whole."""
    try:
        yield
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a pack: {why}") from error


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedReader:
    stream = tar.extractfile(member)
    if stream is None:
        raise InputError(f"{member.name}: not a file")
    return stream  # type: ignore[return-value]


def _clip(row: dict[str, str]) -> Clip:
    is_order = row["source"] == "s2i" and row["task"] != "noise"
    is_word = row["source"] == "precise" and row["label"] != "not-wake-words"
    text = _spaced(row["label"]) if is_word else row["text"]
    source = "noise" if row["task"] == "noise" else row["source"]
    order = Order.from_slots(json.loads(row["label"])) if is_order else None
    prompt, answer = (EMOTION, emotion_answer(row["label"])) if "er" in row["task"].split(",") else ("", "")
    return Clip(row["file"], source, row["split"], text, row["speaker"], order, row["label"], prompt, answer)


def _spaced(label: str) -> str:
    return f"hey {label[3:]}" if label.startswith("hey") else label


@dataclass(frozen=True)
class Synthetic:
    """How many synthetic clips of each kind to make."""

    orders: int = 0
    digits: int = 0
    wake_phrases: int = 0
    questions: int = 0
    sentences: int = 0
    seed: int = 0


def synthetic_clips(counts: Synthetic, sentences: list[str]) -> Iterator[tuple[Clip, Pcm]]:
    """espeak-ng clips of the train split, in a random voice each."""
    rng = random.Random(counts.seed)
    clips = []
    for _ in range(counts.orders):
        order = random_order(rng)
        clips.append(Clip("", "espeak_order", "train", random_spoken_form(order, rng), order=order))
    questions = [form for name, forms in QUESTIONS.items() if name != "who" for form in forms]
    for source, count, texts in (
        ("espeak_digit", counts.digits, DIGITS),
        ("espeak_wake", counts.wake_phrases, WAKE_PHRASES),
        ("espeak_question", counts.questions, questions),
        ("espeak_sentence", counts.sentences, sentences),
    ):
        clips += [Clip("", source, "train", rng.choice(texts)) for _ in range(count)]
    waveforms = synthesis.speak_all([clip.text for clip in clips], counts.seed, SAMPLE_RATE)
    for clip, waveform in zip(clips, waveforms, strict=True):
        yield clip, (np.clip(waveform, -1, 1) * 32767).astype(np.int16)


def for_training(noise: Pcm) -> Pcm:
    """The part of a noise that training may hear; of a long recording, the last third is for evaluation."""
    return noise[: len(noise) * 2 // 3] if len(noise) >= LONG_NOISE_SAMPLES else noise


def for_evaluation(noise: Pcm) -> Pcm:
    """What `for_training` leaves of a long recording. Raises InputError for a short one."""
    if len(noise) < LONG_NOISE_SAMPLES:
        raise InputError(f"a noise of {len(noise)} samples is not split; {LONG_NOISE_SAMPLES} are needed")
    return noise[len(noise) * 2 // 3 :]


def speech_span(pcm: Pcm) -> tuple[int, int]:
    """First and last sample between which a clip is louder than its own background; the whole clip if unsure."""
    frames = len(pcm) // FRAME_SAMPLES
    if frames < 5:
        return 0, len(pcm)
    whole = pcm[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES).astype(np.float32)
    level = np.sqrt(np.mean(np.square(whole), axis=1))
    loud, quiet = np.percentile(level, 95), np.percentile(level, 10)
    above = np.flatnonzero(level > min(0.3 * loud, max(0.06 * loud, 2.5 * quiet)))
    if not len(above):
        return 0, len(pcm)
    return int(above[0]) * FRAME_SAMPLES, (int(above[-1]) + 1) * FRAME_SAMPLES


class Corpus:
    """Clips and their samples, from the folder that `write` made."""

    def __init__(self, folder: Path) -> None:
        try:
            table = json.loads((folder / TABLE).read_text())
            self.samples: Pcm = np.load(folder / "audio.npy", mmap_mode="r")
        except OSError as error:
            raise InputError(f"{folder}: no corpus there ({error.strerror}); run `wavllm prepare`") from error
        except ValueError as error:
            raise InputError(f"{folder}: a damaged corpus ({error}); run `wavllm prepare` again") from error
        self.clips = [
            Clip(**{**row, "order": Order(**row["order"]) if row["order"] else None}) for row in table["clips"]
        ]
        self.offsets = table["offsets"]
        self.spans: list[tuple[int, int]] = table["spans"]  # where the speech is, in samples of the clip
        self.phonemes: dict[str, list[str]] = table["phonemes"]  # by transcript

    @property
    def symbol_ids(self) -> dict[str, int]:
        """A number for each phoneme; 0 is left for the CTC blank."""
        symbols = sorted({symbol for spelled in self.phonemes.values() for symbol in spelled})
        return {symbol: i for i, symbol in enumerate(symbols, start=1)}

    def pcm(self, index: int) -> Pcm:
        """The samples of one clip."""
        return self.samples[self.offsets[index] : self.offsets[index + 1]]

    def seconds(self, index: int) -> float:
        """How long the speech of a clip is."""
        start, end = self.spans[index]
        return (end - start) / SAMPLE_RATE

    def where(self, split: str, *sources: str) -> list[int]:
        """Indices of the clips of a split and of some sources; all sources if none is named."""
        return [
            i for i, clip in enumerate(self.clips) if clip.split == split and (not sources or clip.source in sources)
        ]

    @staticmethod
    def extend(folder: Path, clips: Sequence[tuple[Clip, Pcm]]) -> int:
        """Add clips to a corpus that others may be reading; those with new phonemes are left out, by name.

        A new phoneme would change the numbers that checkpoints know. Returns how many were added.
        """
        corpus = Corpus(folder)
        table = json.loads((folder / TABLE).read_text())
        texts = sorted({clip.text for clip, _ in clips if clip.text})
        spelled = dict(zip(texts, synthesis.phonemes(texts), strict=True))
        known = corpus.symbol_ids.keys()
        parts, added = [corpus.samples], 0
        for clip, pcm in clips:
            if clip.text and not set(spelled[clip.text]) <= known:
                log.warning("%r has phonemes that the corpus has not; left out", clip.text)
                continue
            if clip.text:
                table["phonemes"][clip.text] = spelled[clip.text]
            table["clips"].append(asdict(clip))
            table["spans"].append(speech_span(pcm))
            table["offsets"].append(table["offsets"][-1] + len(pcm))
            parts.append(pcm)
            added += 1
        _write_audio(folder, parts)
        write_table(folder, table)
        return added

    @staticmethod
    def write(folder: Path, clips: Iterable[tuple[Clip, Pcm]]) -> None:
        """Lay out clips for `Corpus` to read; phonemes of all transcripts are looked up once.

        Raises InputError when there are none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        rows, parts, spans, offsets = [], [], [], [0]
        for clip, pcm in clips:
            rows.append(asdict(clip))
            parts.append(pcm)
            spans.append(speech_span(pcm))
            offsets.append(offsets[-1] + len(pcm))
        if not rows:
            raise InputError(f"{folder}: there are no clips to make a corpus of")
        texts = sorted({row["text"] for row in rows if row["text"]})
        spelled = dict(zip(texts, synthesis.phonemes(texts), strict=True))
        (folder / TABLE).unlink(missing_ok=True)  # whoever is stopped now leaves no corpus, rather than two halves
        _write_audio(folder, parts)
        write_table(folder, {"clips": rows, "offsets": offsets, "spans": spans, "phonemes": spelled})


def _write_audio(folder: Path, parts: Sequence[Pcm]) -> None:
    """Whole or not at all; who has the file before open goes on with that."""
    with (folder / "audio.partial").open("wb") as file:
        np.save(file, np.concatenate(parts))
    (folder / "audio.partial").replace(folder / "audio.npy")


def write_table(folder: Path, table: Mapping[str, Any]) -> None:
    """What is known about the clips, whole or not at all."""
    partial = folder / "clips.partial"
    partial.write_text(json.dumps(table))
    partial.replace(folder / TABLE)
