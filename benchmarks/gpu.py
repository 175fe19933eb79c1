"""WavLLM-7B sizes with random weights on a GPU: encoding, reading, decoding and whole turns, each beside its floor.

The floor of a step is the larger of its bytes over the measured bandwidth and its operations over the measured rate.
Without a GPU it says so and measures nothing. `--device cpu --tiny` runs the same code anywhere, for its own sake.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import announce, machine, parser, percentile, plot, save, table
from torch import nn
from transformers import PreTrainedTokenizerFast

from wavllm_core.engine.api import SAMPLE_RATE, Exchange, Sampling
from wavllm_core.engine.core import MIB, EngineLimits
from wavllm_core.engine.decoding import PAGE, Decoding
from wavllm_core.engine.language import Language
from wavllm_core.engine.live import LiveContext, LiveEngine
from wavllm_core.engine.llama import LiveLlama, Row
from wavllm_core.engine.speculation import SpeculationLimits
from wavllm_core.engine.stock import stock
from wavllm_core.hf.config import LLAMA_2_7B, WHISPER_LARGE_V2, WavLLMConfig
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.processor import WavLLMFeatureExtractor, WavLLMProcessor
from wavllm_core.train.tokenizer import train_tokenizer

CHUNK_S = 0.1
WORDS = "what did i order and how many of them "
LEFT_FREE = 0.85  # of the memory that is left becomes keys and values


@dataclass(frozen=True)
class Scale:
    """Sizes, and how much of everything is measured."""

    llm: dict[str, Any] = field(default_factory=lambda: LLAMA_2_7B | {"max_position_embeddings": 1024})
    semantic: dict[str, Any] = field(default_factory=lambda: WHISPER_LARGE_V2)
    acoustic: dict[str, Any] = field(default_factory=dict)  # WavLM-base, as transformers has it
    between: dict[str, Any] = field(default_factory=dict)  # as published
    copied_bytes: int = 2**32
    product: int = 8192
    windows_s: tuple[int, ...] = (30, 10, 4, 1)
    prefill: tuple[int, ...] = (13, 50, 125, 400)
    batches: tuple[int, ...] = (1, 32, 128)
    context: int = 512
    conversations: tuple[int, ...] = (1, 16, 64, 128, 200)
    level_s: float = 30.0
    spoken_s: float = 4.0
    thinking_s: float = 2.0
    reply_tokens: int = 32


SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = Scale(
    llm=LLAMA_2_7B | SMALL | {"vocab_size": 304, "max_position_embeddings": 256},
    semantic={"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64},
    acoustic=SMALL | {"conv_dim": [32] * 7},
    between={"semantic_conv_dims": (36, 80), "acoustic_conv_dims": (28, 80), "bottleneck_dim": 20, "adapter_dim": 32},
    copied_bytes=2**22,
    product=64,
    windows_s=(2, 1),
    prefill=(5, 13),
    batches=(1, 3),
    context=20,
    conversations=(1, 2),
    level_s=0.8,
    spoken_s=0.2,
    thinking_s=0.1,
    reply_tokens=3,
)


class Bench:
    """A device, how long things take on it, and how long they would have to."""

    def __init__(self, device: str, repeats: int, scale: Scale) -> None:
        self.device, self.repeats, self.scale = torch.device(device), repeats, scale
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        block = torch.empty(scale.copied_bytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(block)
        self.bandwidth = 2 * scale.copied_bytes / (self.ms(lambda: target.copy_(block)) / 1000)
        a, b = (torch.randn(scale.product, scale.product, device=self.device, dtype=self.dtype) for _ in range(2))
        self.rate = 2 * scale.product**3 / (self.ms(lambda: a @ b) / 1000)

    def ms(self, work: Callable[[], object]) -> float:
        """Median milliseconds, everything that was queued included."""
        times = []
        for _ in range(self.repeats + 1):
            self._wait()
            started = time.perf_counter()
            work()
            self._wait()
            times.append(1000 * (time.perf_counter() - started))
        return percentile(times[1:], 0.5)

    def floor_ms(self, traffic: float, operations: float) -> float:
        """Bytes over bandwidth or operations over rate, whichever takes longer."""
        return 1000 * max(traffic / self.bandwidth, operations / self.rate)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


Line = dict[str, float | str]


def build(bench: Bench) -> tuple[WavLLMForConditionalGeneration, WavLLMProcessor]:
    """The whole model with random weights, made where it runs, and a tokenizer of few words."""
    scale = bench.scale
    config = WavLLMConfig(
        scale.semantic, scale.acoustic, scale.llm, **scale.between, windows="unpadded", profile="corrected"
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(bench.dtype)
    with bench.device:
        model = WavLLMForConditionalGeneration(config).eval()
    torch.set_default_dtype(usual)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        train_tokenizer([WORDS], 300, path)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<s>", eos_token="</s>")
    return model, WavLLMProcessor(WavLLMFeatureExtractor(windows="unpadded"), tokenizer)


def weigh(module: nn.Module) -> tuple[int, int]:
    """Bytes and numbers of all parameters that are read whole, so without tables."""
    sizes = [p for name, p in module.named_parameters() if "embed" not in name]
    return sum(p.numel() * p.element_size() for p in sizes), sum(p.numel() for p in sizes)


@torch.inference_mode()
def encoding(model: WavLLMForConditionalGeneration, bench: Bench) -> list[Line]:
    """Whisper's encoder, one window alone, without padding to 30 s."""
    config, (size, numbers), lines = model.config.semantic_config, weigh(model.semantic), []
    for seconds in bench.scale.windows_s:
        mel = torch.randn(1, config.num_mel_bins, 100 * seconds, device=bench.device, dtype=bench.dtype)
        frames = 50 * seconds
        operations = 2 * numbers * frames + 4 * config.encoder_layers * frames**2 * config.d_model
        floor_ms = bench.floor_ms(size, operations)
        ms = bench.ms(lambda mel=mel: model.semantic(mel))  # type: ignore[misc]
        lines.append({"step": f"Whisper, {seconds} s", "ms": ms, "floor_ms": floor_ms})
    return lines


@torch.inference_mode()
def language_steps(language: Language, bench: Bench) -> list[Line]:
    """Reading one conversation, and decoding many, as the engine does both."""
    llama, scale, lines = language.llama, bench.scale, []
    gate = language.gates.of("")

    def floor_ms(rows: int, new: int, length: int) -> float:
        numbers, per_position = linear_numbers(llama), llama.slot_bytes // llama.max_positions
        head = llama.head.numel()
        traffic = (numbers + head) * bench.dtype.itemsize + rows * (length + new) * per_position
        attention = 4 * llama.shape.layers * llama.shape.widths["q"] * new * (length + new / 2)
        return bench.floor_ms(traffic, rows * (2 * numbers * new + 2 * head + attention))

    for new in scale.prefill:
        store = llama.new_store(1)
        slot = store.acquire()
        inputs = torch.randn(new, llama.shape.dim, device=bench.device, dtype=bench.dtype)

        def read(store: Any = store, slot: Any = slot, inputs: torch.Tensor = inputs) -> None:
            slot.clear()
            llama.logits(llama.step(store, [Row(slot, [0] * len(inputs), inputs, gate)])[-1])

        lines.append({"step": f"read {new} positions", "ms": bench.ms(read), "floor_ms": floor_ms(1, new, 0)})
    store = llama.new_store(max(scale.batches), (scale.context // PAGE + 1) * PAGE)  # whole pages, as the engine's
    store.tensor.normal_(std=0.1)
    slots = [store.acquire() for _ in range(max(scale.batches))]
    decoding = Decoding(llama, store, scale.batches)
    for batch in scale.batches:

        def decode(batch: int = batch) -> None:
            for slot in slots[:batch]:
                slot.keys = [0] * scale.context
            llama.logits(decoding.step([Row(slot, [3], None, gate) for slot in slots[:batch]])).argmax(-1).tolist()

        name = f"decode {batch} rows at {scale.context}, {'paged' if decoding.paged else 'gathered'}"
        lines.append({"step": name, "ms": bench.ms(decode), "floor_ms": floor_ms(batch, 1, scale.context)})
    return lines


def linear_numbers(llama: LiveLlama) -> int:
    """Weights that every position meets."""
    return sum(
        torch.Size(size).numel()
        for name, size in llama.shape.tensors().items()
        if "embed" not in name and "head" not in name
    )


async def talk(engine: LiveEngine, seed: int, scale: Scale, ends_s: float) -> list[float]:
    """One person: a history, then turns in real time; milliseconds from the end of speech to the first token."""
    rng, found = random.Random(seed), []
    noise = np.random.default_rng(seed).standard_normal(int(scale.spoken_s * SAMPLE_RATE)).astype(np.float32) * 0.1
    words = WORDS * (scale.context // len(engine.core.language.planner.prompts.encode(WORDS)))
    context, past = engine.open_context(), [Exchange(words, reply="three")]
    context.prepare("", past)
    await asyncio.sleep(rng.uniform(0, scale.thinking_s + scale.spoken_s))
    while not found or time.perf_counter() < ends_s:
        found.append(await turn(context, noise, past, scale))
        await asyncio.sleep(rng.uniform(0, 2 * scale.thinking_s))
    context.close()
    return found


async def turn(context: LiveContext, waveform: np.ndarray, past: Sequence[Exchange], scale: Scale) -> float:
    utterance, due_s = context.open_utterance(), time.perf_counter()
    for chunk in np.array_split(waveform, max(1, round(scale.spoken_s / CHUNK_S))):
        due_s += len(chunk) / SAMPLE_RATE
        await asyncio.sleep(due_s - time.perf_counter())
        utterance.push(chunk)
    started, first_s = time.perf_counter(), None
    heard = await utterance.hear()
    sampling = Sampling(scale.reply_tokens)
    async for _ in context.reply("", [*past, Exchange(heard=heard)], sampling):
        first_s = first_s or time.perf_counter()
    utterance.cancel()
    return 1000 * ((first_s or time.perf_counter()) - started)


async def turns(engine: LiveEngine, scale: Scale) -> list[dict[str, float]]:
    """Whole turns, nothing answered ahead; so many conversations at a time. Closes the engine."""
    levels: list[dict[str, float]] = []
    for people in scale.conversations:
        evicted = (await engine.load_figures()).evictions
        ends_s = time.perf_counter() + scale.level_s
        found = await asyncio.gather(*(talk(engine, seed, scale, ends_s) for seed in range(people)))
        ms = [took for person in found for took in person]
        figures = await engine.load_figures()
        shares = {name: percentile(ms, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        steps = {"decoder_step_ms": figures.decoder_step_ms, "queue_wait_ms": figures.queue_wait_ms}
        levels.append({"people": people, "turns": len(ms), **shares, **steps, "evictions": figures.evictions - evicted})
    await engine.close()
    return levels


def measure(bench: Bench) -> dict[str, Any]:
    model, processor = build(bench)
    lines = encoding(model, bench)
    kv_mib = 64
    if bench.device.type == "cuda":
        packed = sum(p.numel() * p.element_size() for p in model.llm.parameters())
        kv_mib = int(LEFT_FREE * (torch.cuda.mem_get_info()[0] - packed)) // MIB
    limits = EngineLimits(
        conversations=max(bench.scale.conversations),
        kv_mib=kv_mib,
        device=str(bench.device),
        dtype="bfloat16" if bench.dtype == torch.bfloat16 else "float32",
        speculation=SpeculationLimits(per_utterance=0),
    )
    engine = LiveEngine(stock(model, processor), limits)
    slots = engine.core.store.slots
    levels = asyncio.run(turns(engine, bench.scale))
    language = engine.core.language
    del engine  # and its keys and values
    lines += language_steps(language, bench)
    return {"lines": lines, "levels": levels, "slots": slots, "bandwidth": bench.bandwidth, "rate": bench.rate}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--repeats", type=int, default=20)
    options.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    args = options.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU here: nothing is measured; docs/benchmarks.md keeps the last table, if there was ever one")
        return
    torch.set_num_threads(args.threads)
    bench = Bench(args.device, args.repeats, TINY if args.tiny else Scale())
    found = measure(bench)
    where = machine()
    if bench.device.type == "cuda":
        where["gpu"] = torch.cuda.get_device_name(bench.device)
        print(where["gpu"])
    announce(where)
    print(f"copies {bench.bandwidth / 1e9:.0f} GB/s, products {bench.rate / 1e12:.2f} TFLOP/s\n")
    rows = [[line["step"], line["ms"], line["floor_ms"], line["floor_ms"] / line["ms"]] for line in found["lines"]]
    table(["step", "ms", "floor ms", "share of the floor's rate"], [[*row[:3], f"{row[3]:.0%}"] for row in rows])
    heads = [
        "conversations",
        "turns",
        "first token p50 ms",
        "p95",
        "p99",
        "decoder step ms",
        "queue wait ms",
        "evictions",
    ]
    table(heads, [list(level.values()) for level in found["levels"]])
    print(f"{found['slots']} conversations fit into the store of keys and values")
    save(args.out, "gpu", where, found)
    steps = [(float(i), float(line["ms"])) for i, line in enumerate(found["lines"])]
    floors = [(float(i), float(line["floor_ms"])) for i, line in enumerate(found["lines"])]
    plot(args.out, "gpu", "Steps and their floors", ("step of the table", "ms"), {"measured": steps, "floor": floors})


if __name__ == "__main__":
    main()
