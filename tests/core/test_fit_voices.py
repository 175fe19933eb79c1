"""How people sound on average, in the speaker vector of a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.core.tiny import tiny_config, write_tokenizer
from wavllm_core.checkpoint import TIED_HEAD, load, save
from wavllm_core.config import SpeakerConfig
from wavllm_core.errors import InputError
from wavllm_core.model import RollingWavLLM
from wavllm_core.speech import SpeechEncoder
from wavllm_core.train.corpus import SAMPLE_RATE, Clip, Corpus
from wavllm_core.train.voices import DIRECTIONS, discriminants, fit_voices

PEOPLE = 4


def murmur(person: int, seed: int) -> npt.NDArray[np.int16]:
    """Three seconds of noise, most of it around a frequency of the person's own."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(3 * SAMPLE_RATE))
    hz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    shaped = np.fft.irfft(spectrum * np.exp(-(((hz - 500 - 700 * person) / 300) ** 2)))
    return (8_000 * shaped / np.abs(shaped).max()).astype(np.int16)


def corpus(folder: Path, people: int = PEOPLE) -> Corpus:
    Corpus.write(
        folder,
        [(Clip("", "so762", "train", speaker=str(p)), murmur(p, 10 * p + i)) for p in range(people) for i in (0, 1, 2)],
    )
    return Corpus(folder)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A checkpoint whose speaker vector is made by the acoustic encoder alone."""
    torch.manual_seed(0)
    config = replace(tiny_config(), speaker=SpeakerConfig(vector_dim=8))
    tensors = {name: value for name, value in RollingWavLLM(config).state_dict().items() if name != TIED_HEAD}
    save(tmp_path / "before", config, tensors, write_tokenizer(tmp_path / "tokenizer.json"))
    return tmp_path / "before"


def contrast(folder: Path) -> float:
    """How much more alike two recordings of one person are than those of two."""
    checkpoint = load(folder)
    speech = SpeechEncoder(checkpoint.config).eval()
    speech.load_state_dict({name: checkpoint.tensors[name] for name in speech.state_dict()})
    pcm = np.stack([murmur(p, 1_000 + 10 * p + i) for p in range(PEOPLE) for i in (0, 1)])
    with torch.no_grad():
        vectors = speech.voice(torch.from_numpy(pcm.astype(np.float32) / 32_768))
    alike = (vectors @ vectors.T).unflatten(0, (PEOPLE, 2)).unflatten(2, (PEOPLE, 2))
    same = torch.stack([alike[p, 0, p, 1] for p in range(PEOPLE)]).mean()
    others = torch.stack([alike[p, :, q].mean() for p in range(PEOPLE) for q in range(p)]).mean()
    return float(same - others)


def test_people_are_told_apart_by_how_they_sound(before: Path, tmp_path: Path) -> None:
    people = corpus(tmp_path / "corpus")
    fit_voices(before, people, tmp_path / "after")
    assert contrast(before) < 0.1 < 0.3 < contrast(tmp_path / "after")
    old, new = load(before), load(tmp_path / "after")
    assert new.config.speaker == SpeakerConfig(vector_dim=8 + DIRECTIONS, log_mel=True)
    untouched = {name for name in old.tensors if not name.startswith("speaker_head.")}
    assert all(torch.equal(old.tensors[name], new.tensors[name]) for name in untouched)
    fit_voices(before, people, tmp_path / "again")
    assert all(torch.equal(value, load(tmp_path / "again").tensors[name]) for name, value in new.tensors.items())


def test_what_cannot_be_fitted_is_named(before: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 people in the corpus; two are needed"):
        fit_voices(before, corpus(tmp_path / "alone", people=1), tmp_path / "after")
    fit_voices(before, corpus(tmp_path / "corpus"), tmp_path / "after")
    with pytest.raises(InputError, match="has log-mel directions already"):
        fit_voices(tmp_path / "after", Corpus(tmp_path / "corpus"), tmp_path / "twice")


def test_the_first_direction_is_the_one_in_which_people_differ() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 8
    rows = torch.randn(400, 3, generator=rng, dtype=torch.float64) * torch.tensor([0.1, 5.0, 1.0])
    rows[:, 0] += labels / 2  # small, but wide for its scatter
    (direction,) = discriminants(rows, labels, 1, shrinkage=0.0)
    assert abs(direction[0]) > 50 * direction[1:].abs().max()
    within = torch.stack([(rows[labels == one] @ direction).var() for one in range(8)]).mean()
    assert within == pytest.approx(1, rel=0.05)
