"""WavLM's encoder against transformers' own: the same weights, the same audio, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from _report import announce, machine, parser, percentile, save, table
from transformers import WavLMConfig, WavLMModel

from wavllm_core.hf.wavlm import WavLM


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="of audio")
    options.add_argument("--repeats", type=int, default=9)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    where = machine()
    announce(where)
    config = WavLMConfig()  # WavLM-base
    theirs, ours = WavLMModel(config).eval(), WavLM(config).eval()
    ours.load_state_dict(theirs.state_dict())
    waveform = torch.randn(1, int(args.seconds * 16_000)) * 0.1
    states = theirs(waveform, output_hidden_states=True).hidden_states
    difference = max(float((a - b).abs().max()) for a, b in zip(states, ours(waveform)[0], strict=True))
    their_layer, our_layer = theirs.encoder.layers[0].attention, ours.encoder.layers[0].attention
    bias = their_layer.compute_bias(states[0].shape[1], states[0].shape[1])
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "attention of one layer": (
            lambda: their_layer(states[0], position_bias=bias),
            lambda: our_layer.attend(states[0], bias, None),
        ),
        "whole encoder": (lambda: theirs(waveform, output_hidden_states=True), lambda: ours(waveform)),
    }
    rows = []
    for name, (their_work, our_work) in pairs.items():
        times = [(spent_ms(their_work), spent_ms(our_work)) for _ in range(args.repeats)]
        ratios = [theirs / ours for theirs, ours in times]
        medians = [percentile(column, 0.5) for column in zip(*times, strict=True)]
        rows.append((name, *medians, f"{percentile(ratios, 0.5):.2f}", f"{min(ratios):.2f}"))
    table(("", "transformers, ms", "ours, ms", "ratio of pairs, median", "least"), rows)
    print(f"{args.seconds:g} s of audio, float32; largest difference of any state: {difference:.1e}")
    save(args.out, "wavlm", where, {"rows": rows, "largest_difference": difference})


def spent_ms(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
