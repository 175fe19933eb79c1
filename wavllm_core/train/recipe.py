"""A recipe: one stage of training, as its YAML file states it."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wavllm_core.errors import InputError
from wavllm_core.train.augment import Augmentation
from wavllm_core.train.batches import Asked

_STRICT = ConfigDict(extra="forbid")
T = TypeVar("T")


@dataclass(frozen=True, config=_STRICT)
class Losses:
    """The weight of each loss; 0 leaves it out."""

    ctc: float = 0.0  # phonemes, from the semantic encoder
    words: float = 0.0  # tokens, from the audio vectors that the language model reads
    speaker: float = 0.0
    reply: float = 0.0
    decision: float = 0.0  # the token at which the answers to a question about voices part, on top of `reply`


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """One stage. Paths are relative to the folder that training is started in."""

    out: Path  # folder for checkpoints and the log
    corpus: Path  # folder made by `wavllm prepare`
    model: Path  # configuration of the model
    tokenizer: Path
    steps: int
    peak_lr: float
    losses: Losses
    init: tuple[Path, ...] = ()  # checkpoints to start from, later ones win
    init_only: tuple[tuple[str, ...], ...] = ()  # for each of them, the parameter prefixes that are taken
    frozen: tuple[str, ...] = ()  # parameter prefixes that stay as they are
    trained: tuple[str, ...] = ("",)  # of the others those whose names hold one of these learn
    gate: bool = False  # whether the prompt-aware gate is on
    adapters: bool = True  # LoRA; without, the language model alone learns
    compiled: bool = False  # the language model, by torch.compile: a minute before the first step, quicker from then on
    warmup_steps: int = 300
    speaker_margin: float = 0.2  # radians
    margin_steps: int = 0  # over which it grows from 0
    batch_seconds: float = 60.0
    max_seconds: float = 15.0
    text_rows: int = 0  # typed conversations, or orders as if heard, in each step
    copies: float = 0.0  # share of those steps that hold words at random, as if heard, to be written down
    lessons: dict[Asked, float] = field(default_factory=dict)  # share of batches with it
    prompts: Literal["published", "varied"] = "published"  # whether instructions come in other words, too
    unheard: Literal["semantic", "acoustic"] | None = None  # an encoder whose vectors never reach the language model
    sources: dict[str, float] = field(default_factory=dict)  # how often a clip of each source is drawn
    augmentation: Augmentation = field(default_factory=Augmentation)
    dropout: float = 0.0  # in the semantic encoder
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, quicker where the processor has it (AMX)
    seed: int = 1
    threads: int = 2
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 400


def read_recipe(path: Path) -> dict[str, Any]:
    """What a file says. Raises InputError naming the file."""
    try:
        read = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {error}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: holds no keys")
    return read


def load_recipe(path: Path, kind: type[T]) -> T:
    """A recipe of one kind. Raises InputError naming the file and the key."""
    read = read_recipe(path)
    try:
        return TypeAdapter(kind).validate_python(read)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
