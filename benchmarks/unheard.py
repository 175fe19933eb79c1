"""What a model makes of people and sentences that no training heard: recorded orders, and the digits of one person.

    python benchmarks/unheard.py PACK --checkpoint FOLDER --person fsgeorge

For a checkpoint that was trained from nothing without them (`wavllm prepare --keep-out s2i --keep-out fsgeorge`; the
recipes are `configs/train/strict-*.yaml`): then clips of both splits are unheard. The shipped model has heard those of
train, so it is asked about dev alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch
from _report import PACK, announce, machine, parser, require, save, table

from wavllm_core.checkpoint import NANO, load
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import normalise, share
from wavllm_core.evaluate.tasks import is_right
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.corpus import Clip, Pcm, read_pack


def ask(listener: Listener, clip: Clip, pcm: Pcm) -> dict[str, bool]:
    """Whether each answer about a clip is right, by what was asked."""
    heard = listener.hear(pcm)
    reply = listener.ask(heard)
    if clip.order:
        return {"orders, all slots right": is_right(clip, reply)}
    return {
        f"digits of {clip.speaker}, written down": normalise(listener.ask(heard, TRANSCRIBE)) == clip.text,
        f"digits of {clip.speaker}, answered": is_right(clip, reply),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("pack", type=Path, nargs="?", help=PACK)
    options.add_argument("--checkpoint", type=Path, default=NANO)
    options.add_argument("--person", default="fsgeorge", help="speaker of the pack whose digits are asked about")
    given = options.parse_args()
    require(given.pack, PACK)
    torch.set_num_threads(given.threads)
    where, listener = machine(), Listener(load(given.checkpoint))
    splits = ("dev",) if given.checkpoint == NANO else ("train", "dev")
    answers: dict[str, list[bool]] = defaultdict(list)
    for clip, pcm in read_pack(
        given.pack, lambda clip: clip.split in splits and (clip.speaker == given.person or clip.order is not None)
    ):
        for name, right in ask(listener, clip, pcm).items():
            answers[f"{name} ({clip.split})"].append(right)
    found = {name: share(rows) for name, rows in answers.items()}
    announce(where)
    figures = [(name, figure.percent, *figure.interval(), figure.total) for name, figure in found.items()]
    table([given.checkpoint.name, "% right", "from", "to (95 % interval)", "clips"], figures)
    save(given.out, "unheard", where, {name: asdict(figure) for name, figure in found.items()})


if __name__ == "__main__":
    main()
