"""One readable training loop: a recipe in, checkpoints and a log out; killed runs go on where they were."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wavllm_core.acoustic import init_as_filterbank
from wavllm_core.checkpoint import load, load_tokenizer
from wavllm_core.config import RollingConfig
from wavllm_core.errors import InputError
from wavllm_core.gate import gate_statistics
from wavllm_core.model import RollingWavLLM
from wavllm_core.prompt import TRANSCRIBE, PromptTemplate
from wavllm_core.speech import Encoded
from wavllm_core.train.augment import Augmentation
from wavllm_core.train.batches import Batch, ExampleMaker
from wavllm_core.train.corpus import Corpus
from wavllm_core.train.losses import Heads, ctc_loss, reply_loss, speaker_loss, word_loss
from wavllm_core.train.parallel import Group
from wavllm_core.train.progress import Log, Tell, bar, learning_rate
from wavllm_core.train.recipe import Recipe
from wavllm_core.train.sampling import Steps, bucketed, prefetched
from wavllm_core.train.saved import read_saved

log = logging.getLogger(__name__)
VALIDATION_CLIPS, VALIDATION_ROWS = 64, 16  # of each source, and of a batch


class Trainer:
    """Everything that one run holds."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises InputError for parts that do not fit together."""
        if recipe.gate and not recipe.adapters:
            raise InputError("gate: it scales adapters, which `adapters: false` turns off")
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.group = Group.join()
        config = RollingConfig.from_json(recipe.model)
        self.corpus = Corpus(recipe.corpus)
        template = PromptTemplate(load_tokenizer(recipe.tokenizer), config.system_prompt)
        self.maker = ExampleMaker(
            self.corpus,
            template,
            recipe.augmentation,
            self.data_seed(0),
            recipe.lessons,
            recipe.copies,
            recipe.prompts == "varied",
        )
        self.model = RollingWavLLM(config)
        init_as_filterbank(self.model.acoustic.convs[0].conv, config.sample_rate)
        self.heads = Heads(self.model, len(self.maker.symbol_ids), self.maker.speakers)
        self.start_from(recipe)
        for name, parameter in self.model.named_parameters():
            wanted = any(part in name for part in recipe.trained)
            parameter.requires_grad_(wanted and not name.startswith(recipe.frozen))
        if recipe.unheard:
            silence(self.model, recipe.unheard)
        if not recipe.adapters:
            if any(value.any() for name, value in self.model.named_parameters() if "lora_B" in name):
                raise InputError(
                    "adapters: false, and `init` has some that are trained: they would come back in what is exported"
                )
            self.model.llm.base_model.disable_adapter_layers()
        if recipe.compiled:
            self.model.llm.get_base_model().model.compile(dynamic=True)
        if recipe.dropout:
            forget(self.model.semantic, recipe.dropout)
        self.optimizer = torch.optim.AdamW(self.groups(), lr=0.0, betas=(0.9, 0.98))
        self.step = 0
        self.resume()

    def start_from(self, recipe: Recipe) -> None:
        """Take over weights of earlier stages, or of exported folders. Raises InputError for what does not fit."""
        if recipe.init_only and len(recipe.init_only) != len(recipe.init):
            raise InputError(f"init_only: {len(recipe.init_only)} lists for {len(recipe.init)} checkpoints")
        shapes = {name: value.shape for name, value in self.heads.state_dict().items()}
        for path, wanted in zip(recipe.init, recipe.init_only or repeat(("",)), strict=False):
            model, heads = read_weights(path)
            taken = {name: value for name, value in model.items() if name.startswith(wanted)}
            try:
                unexpected = self.model.load_state_dict(taken, strict=False).unexpected_keys
            except RuntimeError as error:
                told = " ".join(str(error).split())
                raise InputError(f"init: {path}: does not fit {recipe.model}: {told}") from error
            fitting = {
                name: value
                for name, value in heads.items()
                if f"heads.{name}".startswith(wanted) and value.shape == shapes[name]  # else learned anew
            }
            self.heads.load_state_dict(fitting, strict=False)
            log.info("%s: took %d tensors, %d unexpected", path, len(taken), len(unexpected))

    def groups(self) -> list[dict[str, Any]]:
        """Weight decay on matrices, none on vectors."""
        trained = [p for p in (*self.model.parameters(), *self.heads.parameters()) if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def data_seed(self, step: int) -> int:
        """Another one for every process and step."""
        return (self.recipe.seed * 100_000_007 + step) * 64 + self.group.rank

    @property
    def last(self) -> Path:
        """The checkpoint that a killed run goes on from."""
        return self.recipe.out / "last.pt"

    def resume(self) -> None:
        """Go on from the last checkpoint of this run, if there is one."""
        if not self.last.exists():
            return
        saved = read_saved(self.last, "model", "heads", "optimizer")
        self.model.load_state_dict(saved["model"])
        self.heads.load_state_dict(saved["heads"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        log.info("%s: going on from step %d", self.last, self.step)

    def save(self) -> None:
        """Write `last.pt` whole or not at all."""
        if self.group.rank:
            return
        self.recipe.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        partial = self.last.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.last)

    def margin(self) -> float:
        """Of the speaker loss, in radians; speakers that the head does not know yet are told apart without it first."""
        return self.recipe.speaker_margin * min(1.0, self.step / max(1, self.recipe.margin_steps))

    def batches(self) -> Steps[tuple[Batch | None, Batch | None]]:
        """For each step some clips, and some typed conversations, as the recipe wants."""
        recipe = self.recipe
        rng = random.Random(self.data_seed(0))
        groups: Iterator[list[int]] = repeat([])
        if recipe.sources:
            crop_seconds = recipe.augmentation.crop_seconds
            groups = bucketed(self.corpus, recipe.sources, recipe.batch_seconds, rng, recipe.max_seconds, crop_seconds)

        def make(step: int, indices: list[int]) -> tuple[Batch | None, Batch | None]:
            self.maker.reseed(self.data_seed(step))
            audio = self.maker.batch(indices, recipe.losses.reply > 0) if indices else None
            return audio, self.maker.text_batch(recipe.text_rows) if recipe.text_rows else None

        return Steps(groups, self.step, make)

    def mixed(self) -> torch.autocast:
        """Matrix products in the precision that the recipe wants; weights, norms and losses stay in float32."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def encode(self, audio: Batch) -> Encoded:
        """Both encoders, in float32 from there on."""
        with self.mixed():
            encoded = self.model.encode(audio.waveform, audio.samples)
        return replace(
            encoded, speech_embeds=encoded.speech_embeds.float(), semantic_frames=encoded.semantic_frames.float()
        )

    def voice(self, audio: Batch) -> Tensor:
        """Speaker vectors by the acoustic side alone; its statistics are taken in float32."""
        model = self.model
        frames = model.vectors_of(audio.samples) * model.config.frames_per_vector
        waveform = F.pad(audio.waveform, (0, -audio.waveform.shape[-1] % model.config.vector_samples))
        with self.mixed():
            states = model.acoustic(waveform, frames)
        voice_frames = model.voice_frames(states.float(), model.log_mel(waveform))
        pool = model.speaker_head.init_state(len(waveform))
        return model.speaker_head.vector(model.speaker_head.step(pool, voice_frames, frames))

    def loss(self, audio: Batch | None, text: Batch | None) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum, and each part for the log."""
        weights, parts = self.recipe.losses, {}
        total = torch.zeros(())
        if audio is not None and not (weights.ctc or weights.words or weights.reply):
            parts["speaker"] = speaker_loss(self.heads, self.voice(audio), audio, self.margin())
            total = total + weights.speaker * parts["speaker"]
        elif audio is not None:
            encoded = self.encode(audio)
            if weights.ctc:
                parts["ctc"] = ctc_loss(self.heads, encoded, audio, self.model.config.frames_per_vector)
                total = total + weights.ctc * parts["ctc"]
            if weights.words:
                blank_id = self.maker.template.blank_id
                parts["words"] = word_loss(self.heads, self.model, encoded, audio, blank_id)
                total = total + weights.words * parts["words"]
            if weights.speaker:
                vectors = self.model.speaker_head.vector(encoded.pool)
                parts["speaker"] = speaker_loss(self.heads, vectors, audio, self.margin())
                total = total + weights.speaker * parts["speaker"]
            if weights.reply:
                with self.mixed():
                    reply = reply_loss(self.model, encoded, audio, self.recipe.gate)
                parts["reply"], parts["right"] = reply.loss, reply.right
                total = total + weights.reply * reply.loss
                if reply.decision is not None and reply.decided is not None:
                    parts["decision"], parts["decided"] = reply.decision, reply.decided
                    total = total + weights.decision * reply.decision
        if text is not None:
            with self.mixed():
                typed = reply_loss(self.model, None, text, self.recipe.gate)
            parts["text"], parts["text_right"] = typed.loss, typed.right
            total = total + typed.loss
        return total, {name: value.item() for name, value in parts.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses on the dev split's first clips of each source, as they are, with fixed tasks."""
        recipe = self.recipe
        maker = ExampleMaker(self.corpus, self.maker.template, Augmentation(gain_db=(0.0, 0.0)), recipe.seed)
        sums: dict[str, list[float]] = {}
        self.model.eval()
        for source in recipe.sources:
            clips = [i for i in self.corpus.where("dev", source) if self.corpus.seconds(i) <= recipe.max_seconds]
            for start in range(0, min(len(clips), VALIDATION_CLIPS), VALIDATION_ROWS):
                batch = maker.batch(clips[start : start + VALIDATION_ROWS], recipe.losses.reply > 0)
                for name, value in self.loss(batch, None)[1].items():
                    sums.setdefault(f"dev_{source}_{name}", []).append(value)
        self.model.train()
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def run(self) -> None:
        """Train until the recipe's last step.

        Attention is spelled out: on a CPU the fused one spent 40 % of a step in its backward pass.
        """
        with sdpa_kernel(SDPBackend.MATH), bar(self.recipe.steps, quiet=self.group.rank > 0) as tell:
            self._run(tell)

    def _run(self, tell: Tell) -> None:
        recipe = self.recipe
        recipe.out.mkdir(parents=True, exist_ok=True)
        self.model.train()
        batches = prefetched(self.batches())
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        progress = Log(recipe.out, quiet=self.group.rank > 0)
        while self.step < recipe.steps:
            asked = time.monotonic()
            audio, text = next(batches)
            waited_s = time.monotonic() - asked
            lr = learning_rate(self.step, recipe.peak_lr, recipe.warmup_steps, recipe.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(self.data_seed(self.step))  # what dropout draws from
            loss, parts = self.loss(audio, text)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.group.average_gradients(trained)
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
            if math.isfinite(norm):
                self.optimizer.step()
            self.step += 1
            rows = self.group.size * sum(len(batch) for batch in (audio, text) if batch is not None)
            progress.add({"lr": lr} | parts, rows, waited_s)
            tell(self.step, parts)
            if self.step % recipe.log_every == 0:
                progress.report(self.step, self.gate_figures())
            if self.step % recipe.save_every == 0 or self.step == recipe.steps:
                self.save()
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                progress.write(self.step, self.validate() if not self.group.rank else {})

    @torch.no_grad()
    def gate_figures(self) -> dict[str, float]:
        """How the gate stands for a transcription and without an instruction; nothing where it is off."""
        if not self.recipe.gate:
            return {}
        gates = self.model.gate_for([self.maker.template.gate_ids(text) for text in (TRANSCRIBE, "")])
        return gate_statistics(gates, self.model.config.lora.gate_max)


def silence(model: RollingWavLLM, encoder: Literal["semantic", "acoustic"]) -> None:
    """Take an encoder out of what the language model hears, for good: its columns of the projection are and stay 0.

    What is left is a checkpoint like any other.
    """
    columns, heard = model.config.semantic_adapter.out_dim, torch.ones_like(model.projection.weight)
    heard[:, slice(None, columns) if encoder == "semantic" else slice(columns, None)] = 0
    with torch.no_grad():
        model.projection.weight *= heard
    if model.projection.weight.requires_grad:
        model.projection.weight.register_hook(lambda gradient: gradient * heard)


def forget(encoder: nn.Module, rate: float) -> None:
    """Dropout on what each attention and feed-forward adds, while training."""

    def dropped(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return F.dropout(output, rate, module.training)

    for name, module in encoder.named_modules():
        if name.endswith(("out_proj", "fc2")):
            module.register_forward_hook(dropped)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's and the heads' tensors of a training checkpoint; an exported folder has no heads.

    Raises InputError for a path that is not there, CheckpointError as `load` and `read_saved` do.
    """
    if path.is_dir():
        return load(path).tensors, {}
    if not path.is_file():
        raise InputError(f"init: {path}: no such checkpoint")
    saved = read_saved(path, "model", "heads")
    return saved["model"], saved["heads"]
