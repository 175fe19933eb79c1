"""Own data in WavLLM's published form: a TSV with a sound, an instruction and an answer in each row.

Columns: `id`, `audio`, `prompt`, `tgt_text`; `with_speech` ("True" where absent), `start_frame` and `end_frame`
(samples of the file) may be there, others are ignored. Fields are not quoted. Sounds are files beside the
manifest, or `file.zip:offset:length` for one stored in an archive; any rate and any number of channels.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from wavllm_core.errors import InputError
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.corpus import SAMPLE_RATE, Clip, Pcm

log = logging.getLogger(__name__)
NEEDED = ("id", "audio", "prompt", "tgt_text")
STORED = re.compile(r"(?P<archive>.+\.zip):(?P<offset>\d+):(?P<length>\d+)")
MAX_SECONDS = 40.0
EVALUATION = ("dev", "valid", "test")  # how the names of files begin that training must not see


def read_manifest(path: Path) -> Iterator[tuple[Clip, Pcm]]:
    """Every usable row, its source the file's name; bad ones are named in the log, skipped and counted.

    Rows without speech come with no samples. Raises InputError for a file that is no manifest.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    missing = [name for name in NEEDED if rows and name not in rows[0]]
    if missing or not rows:
        raise InputError(f"{path}: no manifest: {'no rows' if not rows else 'no column ' + ', '.join(missing)}")
    split = "dev" if path.stem.startswith(EVALUATION) else "train"
    skipped = 0
    for line, row in enumerate(rows, start=2):
        try:
            if not row["tgt_text"]:
                raise InputError("tgt_text: empty")
            pcm = _sound(row, path.parent) if row.get("with_speech", "True") == "True" else np.zeros(0, np.int16)
            text = row["tgt_text"].strip() if row["prompt"] == TRANSCRIBE else ""
            yield Clip(row["id"], path.stem, split, text, prompt=row["prompt"] or "", answer=row["tgt_text"]), pcm
        except (InputError, ValueError, OSError, soundfile.SoundFileError) as error:
            skipped += 1
            log.warning("%s line %d: %s: %s", path, line, row["id"], error)
    if skipped:
        log.warning("%s: %d of %d rows skipped", path, skipped, len(rows))


def _sound(row: dict[str, str], root: Path) -> Pcm:
    if not row["audio"]:
        raise InputError("audio: empty")
    stored = STORED.fullmatch(row["audio"])
    if stored:
        with (root / stored["archive"]).open("rb") as archive:
            archive.seek(int(stored["offset"]))
            waveform, rate = soundfile.read(io.BytesIO(archive.read(int(stored["length"]))), dtype="float32")
    else:
        waveform, rate = soundfile.read(root / row["audio"], dtype="float32")
    waveform = waveform[int(row.get("start_frame") or 0) : int(row["end_frame"]) if row.get("end_frame") else None]
    mono = waveform.mean(axis=1) if waveform.ndim > 1 else waveform
    if not 0 < len(mono) <= MAX_SECONDS * rate:
        raise InputError(f"audio: {len(mono) / rate:.1f} s; more than 0 and at most {MAX_SECONDS:.0f} s are possible")
    resampled = soxr.resample(mono, rate, SAMPLE_RATE)
    return np.asarray(np.clip(resampled, -1, 1) * 32767, dtype=np.int16)
