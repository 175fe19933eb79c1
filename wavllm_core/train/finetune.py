"""The curriculum for a WavLLM in Hugging Face form: published lists in, adapters, LoRA and gate out.

Stage 1 trains a model without a gate on single tasks; stage 2 adds the gate and trains on combinations. Runs on any
number of processes through accelerate (`accelerate launch -m agent train RECIPE`); a run that was killed goes on
where it was, with the same batches. `loop.py` trains the rolling model from scratch.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as config
from torch import Tensor

from wavllm_core.audio import SAMPLE_RATE, Waveform, read_audio
from wavllm_core.errors import CheckpointError, InputError
from wavllm_core.gate import gate_statistics
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.parts import loaded
from wavllm_core.hf.processor import WavLLMProcessor
from wavllm_core.manifest import Row, read_manifest
from wavllm_core.train.progress import Log, bar, learning_rate

log = logging.getLogger(__name__)


@config(frozen=True, config=ConfigDict(extra="forbid"))
class FineTuneRecipe:
    """One stage. Paths are relative to the folder that training is started in."""

    out: Path  # folder for checkpoints, the log and the trained model
    model: Path  # folder in Hugging Face form
    lists: dict[Path, float]  # published lists, and how often a row of each is drawn
    steps: int  # of the optimizer
    peak_lr: float
    gate: bool = False  # stage 2: with the prompt-aware gate, new if the model has none
    audio_root: Path = Path()
    validation: Path | None = None  # another list
    warmup_steps: int = 300
    batch_rows: int = 4  # of one process in one pass
    accumulate: int = 1  # passes of one step
    pool_batches: int = 8  # sorted by length together
    precision: Literal["no", "bf16", "fp16"] = "no"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 1
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 400


@dataclass(frozen=True)
class Example:
    """One row, read."""

    waveform: Waveform | None
    instruction: str
    answer: str


@dataclass
class Examples:
    """The rows of all lists; those that cannot be used are named once, left out and counted."""

    audio_root: Path
    rows: list[Row] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)

    def add(self, path: Path, weight: float) -> None:
        """Take the rows of a list. Raises InputError where the file is no list."""
        for row in read_manifest(path, self.audio_root):
            problem = row.problem or ("" if row.target else f"line {row.line}: tgt_text: empty")
            if problem:
                self.skip(f"{path}: {row.id}: {problem}")
            else:
                self.rows.append(row)
                self.weights.append(weight)

    def skip(self, problem: str) -> None:
        """Name a row that cannot be used, once."""
        if problem not in self.skipped:
            self.skipped.add(problem)
            log.warning("skipped: %s", problem)

    def read(self, row: Row) -> Example | None:
        """A row with its sound; None, and named, where that cannot be read."""
        try:
            heard = None if row.audio is None else read_audio(row.audio, row.start_frame, row.end_frame)
        except InputError as error:
            self.skip(f"{row.id}: line {row.line}: {error}")
            return None
        return Example(heard, row.prompt, row.target)


class FineTuner:
    """Everything that one run holds."""

    def __init__(self, recipe: FineTuneRecipe) -> None:
        """Raises InputError and CheckpointError where lists, model or recipe do not fit each other."""
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.accelerator = Accelerator(mixed_precision=recipe.precision, gradient_accumulation_steps=recipe.accumulate)
        model = loaded("model", recipe.model, WavLLMForConditionalGeneration)
        self.processor = loaded("processor", recipe.model, WavLLMProcessor)
        if model.config.profile == "published" and recipe.batch_rows > 1:
            raise InputError(f"batch_rows: {recipe.batch_rows}; the published profile takes one row at a time")
        if recipe.gate and not model.config.use_gate:
            model.add_gate()
        if model.config.use_gate and not recipe.gate:
            raise InputError("gate: false, for a model that has one")
        model.freeze()
        self.examples, self.validation = Examples(recipe.audio_root), Examples(recipe.audio_root)
        for path, weight in recipe.lists.items():
            self.examples.add(path, weight)
        if not self.examples.rows:
            raise InputError(f"lists: no row of {len(recipe.lists)} lists can be used")
        if recipe.validation:
            self.validation.add(recipe.validation, 1.0)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
        self.step = 0
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.log = Log(recipe.out, quiet=not self.accelerator.is_main_process)
        self.resume()

    @property
    def bare_model(self) -> WavLLMForConditionalGeneration:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def resume(self) -> None:
        """Go on from the last checkpoint of this run, if there is one. Raises CheckpointError for another model's."""
        last = self.recipe.out / "last.pt"
        if not last.exists():
            return
        saved = torch.load(last, map_location="cpu", weights_only=True)
        mine = {name: p.shape for name, p in self.bare_model.named_parameters() if p.requires_grad}
        if {name: tensor.shape for name, tensor in saved["trained"].items()} != mine:
            raise CheckpointError(f"{last}: of another model than {self.recipe.model}; give the run another `out`")
        self.bare_model.load_state_dict(saved["trained"], strict=False)  # what is frozen comes from the folder
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        log.info("%s: going on from step %d", last, self.step)

    def save(self) -> None:
        """Write what is trained to `last.pt`, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        trained = {n: p.detach().cpu() for n, p in self.bare_model.named_parameters() if p.requires_grad}
        partial = self.recipe.out / "last.partial"
        torch.save({"trained": trained, "optimizer": self.optimizer.state_dict(), "step": self.step}, partial)
        partial.replace(self.recipe.out / "last.pt")

    def batches(self, first: int) -> Iterator[dict[str, Tensor]]:
        """Batches from number `first` on, the same for the same seed and process."""
        recipe = self.recipe
        size = recipe.pool_batches * recipe.batch_rows
        pool, skip = divmod(first, recipe.pool_batches)
        while True:
            rng = random.Random(f"{recipe.seed} {pool} {self.accelerator.process_index}")
            drawn = rng.choices(self.examples.rows, self.examples.weights, k=size)
            read = [example for row in drawn if (example := self.examples.read(row))]
            if not read:
                raise InputError(f"lists: none of {size} rows could be read; the first: {min(self.examples.skipped)}")
            read.sort(key=lambda example: 0 if example.waveform is None else len(example.waveform))
            # As many batches whatever could not be read, so that a killed run finds its place again.
            edges = [len(read) * i // recipe.pool_batches for i in range(recipe.pool_batches + 1)]
            cut = [read[start:end] or read[:1] for start, end in pairwise(edges)]
            rng.shuffle(cut)
            for examples in cut[skip:]:
                yield self.batch(examples)
            pool, skip = pool + 1, 0

    def batch(self, examples: list[Example]) -> dict[str, Tensor]:
        """The arguments of `forward`."""
        made = self.processor(
            text=[example.instruction for example in examples],
            audio=[example.waveform for example in examples],
            target=[example.answer for example in examples],
            sampling_rate=SAMPLE_RATE,
        )
        return dict(made)

    def run(self) -> None:
        """Train until the recipe's last step, then write the model to `out/model`."""
        recipe = self.recipe
        recipe.out.mkdir(parents=True, exist_ok=True)
        self.model.train()
        batches = ahead(self.batches(self.step * recipe.accumulate))
        with bar(recipe.steps, quiet=not self.accelerator.is_main_process) as tell:
            while self.step < recipe.steps:
                figures = self.advance(batches)
                tell(self.step, figures)
                if self.step % recipe.log_every == 0:
                    self.log.report(self.step)
                if self.step % recipe.save_every == 0 or self.step == recipe.steps:
                    self.save()
                if recipe.validation and (self.step % recipe.validate_every == 0 or self.step == recipe.steps):
                    self.log.write(self.step, self.validate())
        if self.examples.skipped:
            log.warning("%d rows were skipped", len(self.examples.skipped))
        if self.accelerator.is_main_process:
            self.bare_model.save_pretrained(recipe.out / "model")
            self.processor.save_pretrained(recipe.out / "model")

    def advance(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, float]:
        """One step of the optimizer; returns the figures of its last pass."""
        recipe = self.recipe
        lr = learning_rate(self.step, recipe.peak_lr, recipe.warmup_steps, recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        figures: dict[str, float] = {}
        for _ in range(recipe.accumulate):
            asked = time.monotonic()
            batch = next(batches)
            waited_s = time.monotonic() - asked
            batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            with self.accelerator.accumulate(self.model):
                out = self.model(**batch)
                self.accelerator.backward(out.loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
                    if norm is not None and not math.isfinite(norm):
                        self.optimizer.zero_grad()  # one such step would leave no number of what was learned
                self.optimizer.step()
                self.optimizer.zero_grad()
            figures = {"lr": lr, "loss": out.loss.item(), "right": _right(out.logits, out.labels)}
            if out.gate is not None:
                figures |= gate_statistics(out.gate, self.bare_model.config.gate_max)
            self.log.add(figures, len(batch["input_ids"]) * self.accelerator.num_processes, waited_s)
        self.step += 1
        return figures

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and right tokens of the other list, row weighted."""
        rows, size, count = self.validation.rows, self.recipe.batch_rows, 0
        sums = {"dev_loss": 0.0, "dev_right": 0.0}
        self.model.eval()
        for start in range(0, len(rows), size):
            part = [example for row in rows[start : start + size] if (example := self.validation.read(row))]
            if not part:
                continue
            count += len(part)
            batch = {name: tensor.to(self.accelerator.device) for name, tensor in self.batch(part).items()}
            out: Any = self.model(**batch)
            sums["dev_loss"] += out.loss.item() * len(part)
            sums["dev_right"] += _right(out.logits, out.labels) * len(part)
        self.model.train()
        return {name: value / max(1, count) for name, value in sums.items()}


def ahead(batches: Iterator[dict[str, Tensor]], count: int = 2) -> Iterator[dict[str, Tensor]]:
    """The same batches, made by a thread while the model is busy with earlier ones."""
    with ThreadPoolExecutor(1) as pool:
        ready = deque(pool.submit(next, batches) for _ in range(count))
        while True:
            yield ready.popleft().result()
            ready.append(pool.submit(next, batches))


def _right(logits: Tensor, labels: Tensor) -> float:
    """The share of target tokens that are the likeliest."""
    at = labels[:, 1:] >= 0
    return float((logits[:, :-1].argmax(-1)[at] == labels[:, 1:][at]).float().mean())
