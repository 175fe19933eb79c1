"""WavLM's encoder against transformers' own: the same weights, the same audio, in turn."""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformers
from transformers import WavLMConfig, WavLMModel
from transformers.modeling_outputs import BaseModelOutput

from wavllm_core.hf.wavlm import WavLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"$ python {' '.join(sys.argv)}")
    print(
        f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; WavLM-base widths, {options.seconds:g} s of audio, float32\n"
    )
    config = WavLMConfig()
    theirs, ours = WavLMModel(config).eval(), WavLM(config).eval()
    ours.load_state_dict(theirs.state_dict())
    waveform = torch.randn(1, int(options.seconds * 16_000)) * 0.1

    @torch.inference_mode()
    def timed(run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - started)

    def by_transformers() -> BaseModelOutput:
        return theirs(waveform, output_hidden_states=True)

    def compare(what: str, theirs: Callable[[], object], ours: Callable[[], object]) -> None:
        times = [(timed(theirs), timed(ours)) for _ in range(options.repeats)]
        left, right = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [a / b for a, b in times]
        print(f"| {what} | {left:.1f} ms | {right:.1f} ms | {statistics.median(ratios):.2f} | {min(ratios):.2f} |")

    with torch.inference_mode():
        states = by_transformers().hidden_states
        pairs = zip(states, ours(waveform)[0], strict=True)
        difference = max(float((a - b).abs().max()) for a, b in pairs)
        their_layer, our_layer = theirs.encoder.layers[0].attention, ours.encoder.layers[0].attention
        bias = their_layer.compute_bias(states[0].shape[1], states[0].shape[1])
    print("| | transformers p50 | ours p50 | ratio of pairs, p50 | least |\n| --- | --- | --- | --- | --- |")
    compare(
        "attention of one layer",
        lambda: their_layer(states[0], position_bias=bias),
        lambda: our_layer.attend(states[0], bias, None),
    )
    compare("whole encoder", by_transformers, lambda: ours(waveform))
    print(f"\nlargest difference of any state: {difference:.1e}")


if __name__ == "__main__":
    main()
