"""How people sound on average, added to the speaker vector of a trained model.

The acoustic encoder learned on few people and hardly tells timbre; means and deviations of log-mel frames do. Linear
discriminant analysis finds the directions of these in which people differ and their utterances do not. It needs no
gradient, and leaves the encoder and its share of the vector as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.checkpoint import TOKENIZER, Checkpoint, load, save
from wavllm_core.errors import InputError
from wavllm_core.prompt import PromptTemplate
from wavllm_core.speech import SpeechEncoder
from wavllm_core.train.augment import Augmentation
from wavllm_core.train.batches import Batch, ExampleMaker
from wavllm_core.train.corpus import Corpus

STRETCHES = {"so762": 2, "librispeech": 10}  # of each clip, by source; of the latter everybody has one long clip
AUGMENTATION = Augmentation(
    trim=1.0, noise=0.5, snr_db=(4.0, 24.0), babble=0.15, room=0.15, codec=0.05, crop_seconds=3.0
)
BATCH_ROWS = 32
DIRECTIONS = 30
SHRINKAGE = 0.1  # of the scatter within a person, towards its diagonal


@torch.no_grad()
def fit_voices(folder: Path, corpus: Corpus, out: Path, seed: int = 0) -> None:
    """Write the checkpoint in `folder` with log-mel directions in its speaker vector, fitted to people of `train`.

    Raises InputError for a checkpoint that has them, and for a corpus without two people; CheckpointError as `load`.
    """
    checkpoint = load(folder)
    if checkpoint.config.speaker.log_mel:
        raise InputError(f"{folder}: its speaker vector has log-mel directions already")
    speech = widened(checkpoint)
    statistics, speakers = hear(speech, stretches(corpus, PromptTemplate(checkpoint.tokenizer), seed))
    if len(speakers.unique()) < 2:
        raise InputError(f"{len(speakers.unique())} people in the corpus; two are needed to tell people apart")
    columns = sound_columns(checkpoint)
    sounds, mean = statistics[:, columns].double(), statistics[:, columns].double().mean(0)
    directions = discriminants(sounds, speakers, DIRECTIONS, SHRINKAGE)
    own = speech.speaker_head.projection(statistics).norm(dim=-1).mean()
    directions *= own / ((sounds - mean) @ directions.T).norm(dim=-1).mean()  # both halves count alike
    projection = speech.speaker_head.projection
    projection.weight[-DIRECTIONS:, columns] = directions.float()
    projection.bias[-DIRECTIONS:] = -(directions @ mean).float()
    fitted = {f"speaker_head.{name}": value for name, value in speech.speaker_head.state_dict().items()}
    save(out, speech.config, checkpoint.tensors | fitted, folder / TOKENIZER)


def widened(checkpoint: Checkpoint) -> SpeechEncoder:
    """The encoders of a checkpoint, their speaker vector as before and with DIRECTIONS zeros behind it."""
    old, dim, mels = checkpoint.config, checkpoint.config.voice_dim, checkpoint.config.semantic.mels
    speaker = replace(old.speaker, vector_dim=old.speaker.vector_dim + DIRECTIONS, log_mel=True)
    speech = SpeechEncoder(replace(old, speaker=speaker)).eval()
    tensors = dict(checkpoint.tensors)
    for name, rows in (("attention", 0), ("projection", DIRECTIONS)):
        weight = tensors[f"speaker_head.{name}.weight"].unflatten(-1, (-1, dim))  # one block for each statistic
        tensors[f"speaker_head.{name}.weight"] = F.pad(F.pad(weight, (0, mels)).flatten(1), (0, 0, 0, rows))
        tensors[f"speaker_head.{name}.bias"] = F.pad(tensors[f"speaker_head.{name}.bias"], (0, rows))
    speech.load_state_dict({name: tensors[name] for name in speech.state_dict()})
    return speech


def sound_columns(checkpoint: Checkpoint) -> Tensor:
    """Which of a widened head's statistics are those of log-mel frames: means, then deviations."""
    dim, mels = checkpoint.config.voice_dim, checkpoint.config.semantic.mels
    means = torch.arange(dim, dim + mels)
    return torch.cat([means, means + dim + mels])


def stretches(corpus: Corpus, template: PromptTemplate, seed: int) -> Iterator[Batch]:
    """Augmented stretches of the train split's known people, in a random order."""
    maker = ExampleMaker(corpus, template, AUGMENTATION, seed)
    rows = [
        index
        for source, count in STRETCHES.items()
        for index in corpus.where("train", source)
        for _ in range(count)
        if corpus.clips[index].speaker
    ]
    maker.rng.shuffle(rows)
    for start in range(0, len(rows), BATCH_ROWS):
        yield maker.batch(rows[start : start + BATCH_ROWS], with_prompts=False)


def hear(speech: SpeechEncoder, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """What the speaker vector is projected from, (rows, statistics), and who speaks, (rows,)."""
    config, head = speech.config, speech.speaker_head
    statistics, speakers = [torch.zeros(0, 2 * config.voice_dim)], [torch.zeros(0, dtype=torch.long)]
    for batch in batches:
        statistics.append(head.statistics(speech.pool(batch.waveform, batch.samples)))
        speakers.append(batch.speakers)
    return torch.cat(statistics), torch.cat(speakers)


def discriminants(rows: Tensor, labels: Tensor, directions: int, shrinkage: float) -> Tensor:
    """Directions, (directions, dim), along which labels differ most for the scatter within them, which becomes 1.

    rows: (rows, dim) in float64; labels: (rows,); the best direction comes first
    """
    scale = rows.std(0).clamp(min=1e-6)  # shrinking needs one unit for all
    rows = (rows - rows.mean(0)) / scale
    people = F.one_hot(labels.unique(return_inverse=True)[1]).double()
    counts = people.sum(0)
    means = people.T @ rows / counts[:, None]
    within = torch.cov((rows - people @ means).T, correction=len(counts))
    within = (1 - shrinkage) * within + shrinkage * within.diag().diag()
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors / values.sqrt()
    between = whiten.T @ (means.T @ means / len(counts)) @ whiten
    best = torch.linalg.eigh(between).eigenvectors.flip(-1)[:, :directions]
    return (whiten @ best).T / scale
