"""Sound files of every shape to one waveform, and the faults that each can have."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavllm_core.audio import SAMPLE_RATE, Waveform, read_audio
from wavllm_core.errors import InputError


def tone(sample_rate: int = SAMPLE_RATE, seconds: float = 0.5, hertz: float = 440.0) -> Waveform:
    at = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def write(path: Path, samples: Waveform, sample_rate: int = SAMPLE_RATE, subtype: str | None = "FLOAT") -> Path:
    soundfile.write(path, samples, sample_rate, subtype=subtype)
    return path


def store(tmp_path: Path, sound: Path) -> tuple[Path, int, int]:
    """A zip of one uncompressed entry: its path, and where the entry's bytes lie."""
    path = tmp_path / "stored.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(sound, "a.wav")
    content = sound.read_bytes()
    return path, path.read_bytes().index(content), len(content)


def test_a_file_of_the_right_rate_is_read_sample_by_sample(tmp_path: Path) -> None:
    waveform = read_audio(write(tmp_path / "a.wav", tone()))
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, tone())


def test_stereo_is_mixed_down(tmp_path: Path) -> None:
    left, right = tone(hertz=300), tone(hertz=500)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1))
    np.testing.assert_allclose(read_audio(path), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000])
def test_another_rate_is_resampled(tmp_path: Path, sample_rate: int) -> None:
    waveform = read_audio(write(tmp_path / "a.wav", tone(sample_rate), sample_rate))
    assert len(waveform) == SAMPLE_RATE // 2
    middle = slice(1000, -1000)  # the filter rings at the ends
    np.testing.assert_allclose(waveform[middle], tone()[middle], atol=2e-3)


def test_a_stretch_is_counted_at_the_rate_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    np.testing.assert_array_equal(read_audio(path, 100, 300), tone()[100:300])
    np.testing.assert_array_equal(read_audio(path, 7_900), tone()[7_900:])
    eight = write(tmp_path / "b.wav", tone(8_000), 8_000)
    assert len(read_audio(eight, 1_000, 2_000)) == 2_000


def test_an_entry_of_a_stored_zip_is_read_at_its_bytes(tmp_path: Path) -> None:
    path, offset, length = store(tmp_path, write(tmp_path / "a.wav", tone()))
    np.testing.assert_array_equal(read_audio(f"{path}:{offset}:{length}", 10, 20), tone()[10:20])


def test_bytes_beyond_a_zip_are_named(tmp_path: Path) -> None:
    path, offset, length = store(tmp_path, write(tmp_path / "a.wav", tone()))
    size = path.stat().st_size
    with pytest.raises(InputError, match=f"bytes up to {size + 1} of a file that has {size}"):
        read_audio(f"{path}:{size + 1 - length}:{length}")
    with pytest.raises(InputError, match="decoded"):
        read_audio(f"{path}:{offset + 1}:{length - 1}")


@pytest.mark.parametrize(("start", "end"), [(-1, 10), (5, 5), (9, 3), (0, 8_001), (8_000, None)])
def test_a_stretch_outside_the_file_names_both(tmp_path: Path, start: int, end: int | None) -> None:
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(InputError, match=rf"a\.wav: frames {start} to {end or 8000} of a file that has 8000"):
        read_audio(path, start, end)


def test_faults_of_a_file_are_told_with_its_name(tmp_path: Path) -> None:
    flac = write(tmp_path / "cut.flac", tone(), subtype=None)
    flac.write_bytes(flac.read_bytes()[:4_000])
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "note.wav").write_text("not sound")
    (tmp_path / "headerless.raw").write_bytes(bytes(100))
    write(tmp_path / "empty.wav", tone(seconds=0))
    write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32))
    write(tmp_path / "short.wav", np.ones(1, np.float32), 96_000)
    write(tmp_path / "slow.wav", np.ones(100, np.float32), 100)
    for name, fault in {
        "none.wav": "no such file",
        "none.zip:0:10": "no such file",
        "folder.wav": "no such file",
        "cut.flac": "decoded",
        "note.wav": "decoded",
        "headerless.raw": "decoded",
        "empty.wav": "0 samples",
        "nan.wav": "not numbers",
        "short.wav": "less than a sample",
        "slow.wav": "100 Hz; at least 4000 Hz",
        "n" * 300: "cannot be read",
    }.items():
        with pytest.raises(InputError, match=fault) as caught:
            read_audio(f"{tmp_path}/{name}")
        assert name.partition(":")[0] in str(caught.value)
