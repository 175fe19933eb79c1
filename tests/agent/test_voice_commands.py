"""`wavllm voices` with the shipped model and recorded people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from agent.__main__ import app
from agent.voices.voiced import measure_voicing
from tests.agent.test_attribution import hum
from wavllm_core.audio import read_audio

CLIPS = Path(__file__).parents[2] / "clients" / "demo" / "clips"
Voices = Callable[..., Result]


@pytest.fixture
def voices(tmp_path: Path) -> Voices:
    """Runs a command against a registry of this test."""
    config = tmp_path / "server.yaml"
    config.write_text(f"speakers:\n  registry: {tmp_path / 'voices.db'}\n")
    return lambda *arguments: CliRunner().invoke(app, ["voices", "--config", str(config), *map(str, arguments)])


def copies(clip: str, folder: Path, count: int = 3) -> list[Path]:
    """One person's order as so many utterances, each a little quieter and noisier than the one before."""
    waveform, rate = soundfile.read(CLIPS / clip, dtype="float32")
    noise = np.random.default_rng(0).normal(0, 0.001, (count, len(waveform)))
    paths = [folder / f"{clip}.{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, 0.8**number * waveform + noise[number], rate)
    return paths


def test_a_person_is_enrolled_known_again_renamed_and_forgotten(voices: Voices, tmp_path: Path) -> None:
    one, other = (copies(clip, tmp_path) for clip in ("s2i_540a38c2.flac", "s2i_90a00f8a.flac"))
    assert voices("enrol", "Anna", *one).stdout == "Anna is known from 3 utterances\n"
    known = voices("identify", CLIPS / "s2i_540a38c2.flac")
    assert known.exit_code == 0 and known.stdout.startswith("Anna  similarity 0.9")
    mixed = voices("enrol", "Ben", *one[:2], *other[:1])
    assert str(mixed.exception).startswith(f"{other[0].name}: its voice is not like that of the others")
    assert voices("rename", "anna", "Hanna").exit_code == 0
    assert voices("list").stdout.startswith("Hanna  3 utterances")
    assert voices("forget", "Hanna").stdout == "Hanna is forgotten\n" and voices("list").stdout == ""


def test_two_people_in_every_file_are_refused(voices: Voices, tmp_path: Path) -> None:
    """Which the files compared with each other do not tell."""
    pair = [read_audio(CLIPS / clip) for clip in ("s2i_16245b86.flac", "s2i_90a00f8a.flac")]
    spoken = [waveform[slice(*measure_voicing(waveform).span)] for waveform in pair]
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, file in enumerate(files):
        soundfile.write(file, 0.8**number * np.concatenate(spoken), 16_000)
    refused = voices("enrol", "Anna", *files)
    assert str(refused.exception).startswith("0.wav: two people seem to speak in it")
    assert voices("list").stdout == ""


def test_files_without_a_voice_are_refused_by_name(voices: Voices, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF no wave")
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    soundfile.write(tmp_path / "hum.wav", np.frombuffer(hum(2_000, 1), "<i2"), 16_000)
    good = copies("s2i_540a38c2.flac", tmp_path)
    for bad, fault in (
        ("broken.wav", "not a sound file"),
        ("missing.wav", "no such file"),
        ("silence.wav", "0.0 s of voice"),
        ("noise.wav", "0.0 s of voice"),
        ("hum.wav", "% of it is speech: an animal"),
    ):
        refused = voices("enrol", "Anna", *good, tmp_path / bad)
        assert refused.exit_code == 1 and fault in str(refused.exception) and bad in str(refused.exception)
    assert voices("list").stdout == ""


def test_a_new_key_is_made_once_and_encrypts(voices: Voices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    assert voices("new-key", path).exit_code == 0 and voices("new-key", path).exit_code == 2
    monkeypatch.setenv("WAVLLM_VOICES_KEY", path.read_text().strip())
    assert voices("enrol", "Annabella", *copies("s2i_540a38c2.flac", tmp_path)).exit_code == 0
    assert b"Annabella" not in (tmp_path / "voices.db").read_bytes()
    monkeypatch.delenv("WAVLLM_VOICES_KEY")
    assert "is encrypted, but no key is configured" in str(voices("list").exception)
