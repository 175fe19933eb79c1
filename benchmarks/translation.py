"""What people ask of assistants, in German: BLEU against the translations that people made for xSID.

    python benchmarks/translation.py TEXT [--limit 300]

TEXT is a tar with xSID's `xsid/de.valid.conll`: what is said about weather, alarms, music, films and restaurants, in
English and German. The speech is synthetic: every sentence is spoken by espeak-ng in a voice drawn from one seed, and
put to the shipped model with the published prompt. BLEU is sacrebleu's, of answers as they are; the interval is over
sentences.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from _report import announce, machine, parser, require, save, table

from wavllm_core.checkpoint import NANO, load
from wavllm_core.engine.api import SAMPLE_RATE
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import SEED, bleu, bleu_counts, bleu_metric, estimate
from wavllm_core.tasks import TASKS
from wavllm_core.train.synthesis import speak_all

PART = "xsid/de.valid.conll"
SHOWN = 5  # sentences, below the figure


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Each sentence in English and German. Raises ValueError where there are none."""
    with tarfile.open(path) as tar:
        member = next((one for one in tar if one.isfile() and f"/{one.name}".endswith(f"/{PART}")), None)
        stream = member and tar.extractfile(member)
        text = stream.read().decode() if stream else ""
    pairs = re.findall(r"^# text-en = (.+)\n# text = (.+)$", text, re.MULTILINE)
    if not pairs:
        raise ValueError(f"{path}: holds no sentences of {PART}")
    return pairs


def main() -> None:
    options = parser(__doc__)
    options.add_argument("text", type=Path, nargs="?", help="a tar of texts")
    options.add_argument("--checkpoint", type=Path, default=NANO)
    options.add_argument("--limit", type=int, help="sentences, at most")
    given = options.parse_args()
    require(given.text, f"TEXT, a tar with {PART}")
    torch.set_num_threads(given.threads)
    where = machine()
    english, german = zip(*read_pairs(given.text)[: given.limit], strict=True)
    listener, answers = Listener(load(given.checkpoint)), []
    for waveform in speak_all(english, SEED, SAMPLE_RATE):
        pcm = (np.clip(waveform, -1, 1) * 32_767).astype(np.int16)
        answers.append(listener.ask(listener.hear(pcm), TASKS["st"].prompt))
    metric = bleu_metric(german)
    scored = {"the model": answers, "the English unchanged": english}
    found = {}
    for name, texts in scored.items():
        counts = bleu_counts(metric, german, texts)
        found[name] = estimate(len(counts), lambda drawn, counts=counts: bleu(counts[drawn]))
    signature = str(metric.get_signature())
    announce(where)
    figures = [[name, f"{one.value:.2f} ({one.low:.2f}-{one.high:.2f})", one.items] for name, one in found.items()]
    table(["synthetic speech, espeak-ng", "BLEU (95 % interval)", "sentences"], figures)
    print(f"{TASKS['st'].prompt} sacrebleu {signature}\n")
    rows = list(zip(english, german, answers, strict=True))
    table(["said", "by a person", "by the model"], rows[:SHOWN])
    save(
        given.out,
        "translation",
        where,
        {"bleu": {name: asdict(one) for name, one in found.items()}, "signature": signature, "rows": rows},
    )


if __name__ == "__main__":
    main()
