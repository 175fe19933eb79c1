"""WavLLM-7B sizes with random weights on a GPU: reading and decoding, each beside its floor. Without a GPU it says so.

The floor of a step is the larger of its bytes over the measured bandwidth and its operations over the measured rate.
`--device cpu --tiny` runs the same code anywhere, for its own sake.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from _report import announce, machine, parser, percentile, plot, save, table

from wavllm_core.engine.kv import KeyValueStore
from wavllm_core.engine.llama import PREFIX, LiveLlama, LlamaShape, Row

SEVEN_B = LlamaShape(4096, 11008, 32, 32, 32, 128, 32_000, 32, 1e-5, 10_000.0, tied=True)
TINY = LlamaShape(64, 128, 2, 4, 4, 16, 300, 4, 1e-5, 10_000.0, tied=True)
PREFILL = (13, 50, 125, 400)
BATCHES = (1, 32, 128)
CONTEXT = 512


class Bench:
    """A device, and how long things take on it."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = torch.device(device), repeats
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32

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

    def bandwidth(self, size: int) -> float:
        """Bytes a second, read and written, of a copy."""
        block = torch.empty(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(block)
        return 2 * size / (self.ms(lambda: target.copy_(block)) / 1000)

    def rate(self, size: int) -> float:
        """Operations a second of a matrix product."""
        a, b = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * size**3 / (self.ms(lambda: a @ b) / 1000)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_llama(shape: LlamaShape, bench: Bench) -> LiveLlama:
    """Weights that keep numbers finite."""
    made = {
        name: torch.randn(size, device=bench.device, dtype=bench.dtype) * 0.02 for name, size in shape.tensors().items()
    }
    made |= {name: torch.ones_like(value) for name, value in made.items() if "norm" in name}
    assert f"{PREFIX}norm.weight" in made
    return LiveLlama(shape, made, CONTEXT + max(PREFILL) + 1, bench.device, bench.dtype)


def filled(store: KeyValueStore, rows: int, length: int) -> None:
    """Take so many slots and pretend that they hold so much."""
    store.tensor.normal_(std=0.1)
    for _ in range(rows):
        store.acquire().keys += [0] * length


@torch.inference_mode()
def measure(shape: LlamaShape, bench: Bench) -> list[dict[str, float | str]]:
    llama, size = random_llama(shape, bench), bench.dtype.itemsize
    weights = sum(torch.Size(wanted).numel() for name, wanted in shape.tensors().items() if "embed" not in name)
    read = (weights + shape.vocab * shape.dim) * size
    per_position = 2 * shape.layers * shape.kv_heads * shape.head_dim * size
    big = bench.device.type == "cuda"
    bandwidth, rate = bench.bandwidth(2**32 if big else 2**26), bench.rate(8192 if big else 512)
    gate = torch.ones(sum(shape.widths.values()), device=bench.device, dtype=bench.dtype)
    rows: list[dict[str, float | str]] = []

    def add(name: str, batch: int, new: int, length: int) -> None:
        store = llama.new_store(batch)
        filled(store, batch, length)
        slots, inputs = list(store._held), torch.randn(new, shape.dim, device=bench.device, dtype=bench.dtype)

        def step() -> None:
            for slot in slots:
                del slot.keys[length:]
            states = llama.step(store, [Row(slot, [0] * new, inputs, gate) for slot in slots])
            llama.logits(states[:: max(1, new)])

        traffic = read + batch * (length + new) * per_position
        floor_ms = 1000 * max(traffic / bandwidth, 2 * weights * batch * new / rate)
        rows.append({"step": name, "ms": bench.ms(step), "floor_ms": floor_ms})

    for count in PREFILL:
        add(f"read {count} positions", 1, count, 0)
    for batch in BATCHES:
        add(f"decode {batch} rows at {CONTEXT}", batch, 1, CONTEXT)
    rows.append({"step": "bandwidth, GB/s", "ms": bandwidth / 1e9, "floor_ms": 0.0})
    rows.append({"step": "rate, TFLOP/s", "ms": rate / 1e12, "floor_ms": 0.0})
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--repeats", type=int, default=20)
    options.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    args = options.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured; docs/benchmarks.md keeps the last table, if there was ever one")
        return
    torch.set_num_threads(args.threads)
    rows = measure(TINY if args.tiny else SEVEN_B, Bench(args.device, args.repeats))
    where = machine()
    if args.device == "cuda":
        where["gpu"] = torch.cuda.get_device_name()
        print(where["gpu"])
    announce(where)
    table(["step", "ms", "floor ms"], [list(row.values()) for row in rows])
    save(args.out, "gpu", where, {"rows": rows})
    steps = [(float(i), float(row["ms"])) for i, row in enumerate(rows[:-2])]
    floors = [(float(i), float(row["floor_ms"])) for i, row in enumerate(rows[:-2])]
    plot(args.out, "gpu", "Steps and their floors", ("step of the table", "ms"), {"measured": steps, "floor": floors})


if __name__ == "__main__":
    main()
