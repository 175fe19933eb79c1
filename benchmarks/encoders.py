"""What both encoders and adapters cost per second of audio: by chunk size and mode, alone and in company.

Modes: `rolling` keeps states and takes each chunk as it comes; `anew` encodes the whole open turn again at each
chunk, which is what an encoder without states has to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from _report import announce, machine, parser, percentile, plot, save, table

from wavllm_core.checkpoint import NANO, load
from wavllm_core.engine.decoder import Decoder
from wavllm_core.engine.encoders import RollingEncoders

TURN_S = 10
CHUNKS_MS = (80, 160, 320, 640, 1280, 2560)
COMPANY = (1, 2, 4, 8, 16, 32)


def spent_ms(work: Callable[[int], object], size: int, repeats: int) -> float:
    """Median milliseconds of `work(size)`."""
    work(size)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work(size)
        times.append(1000 * (time.perf_counter() - started))
    return percentile(times, 0.5)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    speech = Decoder(load(NANO)).speech
    config, rate = speech.config, speech.config.sample_rate
    turn = torch.randn(1, TURN_S * rate) * 0.1

    def roll(chunk: int) -> None:
        encoders = RollingEncoders(speech, 1)
        stream, pending = encoders.open(), turn[0, :0]
        for piece in turn[0].split(chunk):
            pending = torch.cat([pending, piece])
            while len(pending) >= config.block_samples:
                encoders.step([stream], [pending[: config.block_samples]])
                pending = pending[config.block_samples :]
        if len(pending):
            encoders.step([stream], [pending])

    def anew(chunk: int) -> None:
        for end in range(chunk, turn.shape[1] + 1, chunk):
            speech.encode(turn[:, :end])

    def together(streams: int) -> None:
        encoders = RollingEncoders(speech, streams)
        opened = [encoders.open() for _ in range(streams)]
        for block in turn[0].split(config.block_samples):
            encoders.step(opened, [block] * streams)

    with torch.inference_mode():
        modes = {
            name: [(ms, spent_ms(work, ms * rate // 1000, args.repeats) / TURN_S) for ms in CHUNKS_MS]
            for name, work in (("rolling", roll), ("anew", anew))
        }
        whole = spent_ms(lambda _: speech.encode(turn), 0, args.repeats) / TURN_S
        company = [(n, spent_ms(together, n, args.repeats) / TURN_S / n) for n in COMPANY]
    where = machine()
    announce(where)
    table(["chunk ms", *modes], [[ms, *(line[i][1] for line in modes.values())] for i, ms in enumerate(CHUNKS_MS)])
    block_ms = 1000 * config.block_samples // rate
    print(f"milliseconds a second of audio, a turn of {TURN_S} s; all of it at once: {whole:.1f}")
    print(f"rolling encoders wait for a whole block of {block_ms} ms, so smaller chunks cost no more\n")
    table(["streams in one step", "ms a second of audio and stream"], [list(point) for point in company])
    save(args.out, "encoders", where, {"modes": modes, "whole": whole, "company": company})
    plot(args.out, "encoders", "Encoding, per second of audio", ("chunk, milliseconds", "milliseconds"), modes)


if __name__ == "__main__":
    main()
