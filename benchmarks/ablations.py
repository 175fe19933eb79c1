"""What each part of the method buys, at nano's size: variants of one training with one budget, asked the same.

    python benchmarks/ablations.py PACK EMOTIONS --corpus runs/corpus --init runs/ear/last.pt runs/8-language/last.pt
    python benchmarks/ablations.py PACK EMOTIONS --blocks          # the shipped model, in blocks of other lengths

Every variant begins from the same ears and the same language model, whose encoders stay as they are, and has the steps
of both stages (configs/train/ablation-1.yaml, ablation-2.yaml). PACK is recorded speech, EMOTIONS is RAVDESS: what is
trained here is for no other use. A run that was stopped goes on; variants that are done are only printed. Each is
trained once: the intervals are over clips, not over trainings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _report import PACK, announce, machine, parser, require, save, table

from wavllm_core.checkpoint import NANO, load
from wavllm_core.evaluate import instructed, speakers
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import Share, normalise, share
from wavllm_core.evaluate.tasks import SEED
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.batches import event_of
from wavllm_core.train.corpus import Clip, Pcm, read_pack
from wavllm_core.train.dialogue import Scene
from wavllm_core.train.export import export
from wavllm_core.train.german import parse_german
from wavllm_core.train.lessons import TRANSLATE
from wavllm_core.train.loop import Trainer
from wavllm_core.train.orders import parse
from wavllm_core.train.phrasings import UNSEEN
from wavllm_core.train.recipe import Recipe, load_recipe
from wavllm_core.train.speakers import EMOTION, ONE_SPEAKER

STAGES = Path("configs/train/ablation-1.yaml"), Path("configs/train/ablation-2.yaml")
BLOCK_FRAMES = (4, 8, 16, 32, 750)  # the last is as long as an utterance may be: offline
OTHER_WORDS = ", in words never trained on"


class Variant(NamedTuple):
    """What is different from the first one, by stage; None leaves the stage out, and gives the other its steps."""

    first: dict[str, Any] | None
    second: dict[str, Any]
    first_of: str = ""  # another variant whose first stage is the same


FULL = "both encoders, two stages, gate"
VARIANTS = {
    FULL: Variant({}, {}),
    "Whisper type alone": Variant({"unheard": "acoustic"}, {"unheard": "acoustic"}),
    "WavLM type alone": Variant({"unheard": "semantic"}, {"unheard": "semantic"}),
    "one stage": Variant(None, {}),
    "no gate": Variant({}, {"gate": False}, first_of=FULL),
}


def train(name: str, variant: Variant, folder: Path, corpus: Path, init: list[Path] | None) -> Path:
    """The checkpoint of a variant, trained if it is not there."""
    first, second = (load_recipe(path, Recipe) for path in STAGES)
    start = tuple(init or first.init)
    if variant.first is None:
        second = replace(second, steps=first.steps + second.steps, init_only=first.init_only, peak_lr=first.peak_lr)
    else:
        at = folder / slug(variant.first_of or name) / "1"
        Trainer(replace(first, out=at, corpus=corpus, init=start, **variant.first)).run()
        start = (at / "last.pt",)
    at = folder / slug(name) / "2"
    at.parent.mkdir(parents=True, exist_ok=True)
    recipe = replace(second, out=at, corpus=corpus, init=start, **variant.second)
    Trainer(recipe).run()
    export([at / "last.pt"], recipe.model, recipe.tokenizer, at.parent / "export")
    return at.parent / "export"


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def clips(packs: list[Path], limit: int | None) -> Iterator[tuple[Clip, Pcm]]:
    """Of the dev split, at most so many of a source."""
    seen: dict[str, int] = {}
    wanted = ("fsdd", "wake", "s2i", "so762", "ravdess")
    for pack in packs:
        for clip, pcm in read_pack(pack, lambda clip: clip.split == "dev" and clip.source in wanted):
            seen[clip.source] = seen.get(clip.source, 0) + 1
            if limit is None or seen[clip.source] <= limit:
                yield clip, pcm


def ask(listener: Listener, packs: list[Path], limit: int | None) -> dict[str, Share]:
    """Every task, and those with one fixed instruction in other words, too."""
    rng, joiner = random.Random(SEED), speakers.Joiner(random.Random(SEED))
    right: dict[str, list[bool]] = {}
    lessons: list[instructed.Answered] = []
    pairs: dict[str, list[tuple[bool, str]]] = {"": [], OTHER_WORDS: []}
    emotions: dict[str, list[tuple[str, str]]] = {"": [], OTHER_WORDS: []}

    def phrasings(instruction: str) -> dict[str, str]:
        return {"": instruction, OTHER_WORDS: rng.choice(UNSEEN[instruction])}

    for clip, pcm in clips(packs, limit):
        heard = None if clip.source == "so762" else listener.hear(pcm)
        if heard is None:
            for same, pair in joiner.pairs(clip.speaker, pcm):
                both = listener.hear(pair)
                for words, instruction in phrasings(ONE_SPEAKER).items():
                    pairs[words].append((same, listener.ask(both, instruction)))
        elif clip.prompt == EMOTION:
            for words, instruction in phrasings(EMOTION).items():
                emotions[words].append((clip.label, listener.ask(heard, instruction)))
        elif clip.order:
            right.setdefault("orders answered", []).append(parse(listener.ask(heard)) == clip.order)
            said = instructed.ask(clip.order, rng, partial(listener.ask, heard, max_tokens=instructed.MAX_TOKENS))
            lessons += said
            given = listener.ask(heard, rng.choice(UNSEEN[TRANSLATE]))
            right.setdefault(f"{instructed.GERMAN}, all slots right{OTHER_WORDS}", []).append(
                parse_german(given) == clip.order
            )
        else:
            for words, instruction in phrasings(TRANSCRIBE).items():
                right.setdefault(f"digits and wake phrases transcribed{words}", []).append(
                    normalise(listener.ask(heard, instruction)) == clip.text
                )
            wanted = normalise(Scene().reply(event_of(clip), None))
            right.setdefault("digits and wake phrases answered", []).append(normalise(listener.ask(heard)) == wanted)
    figures = {name: share(rows) for name, rows in right.items()} | dict(instructed.instructed_figures(lessons))
    for words in pairs:
        figures |= {f"{name}{words}": one for name, one in speakers.figures(pairs[words], emotions[words]).items()}
    return dict(sorted(figures.items()))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("packs", type=Path, nargs="*", metavar="PACK")
    options.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    options.add_argument("--init", type=Path, nargs="+", help="ears and language model, else as the recipe says")
    options.add_argument("--only", choices=VARIANTS, action="append", help="train these, print what is there")
    options.add_argument("--blocks", action="store_true", help="do not train: other blocks of the shipped model")
    options.add_argument("--limit", type=int, help="clips of each source, at most")
    given = options.parse_args()
    require(given.packs, PACK)
    torch.set_num_threads(given.threads)
    where = machine()
    announce(where)
    name, found = "ablations", {}
    folder = given.out / name
    if given.blocks:
        name, checkpoint = "ablations-blocks", load(NANO)
        context = checkpoint.config.block_frames * checkpoint.config.left_blocks  # frames, whatever the block
        for frames in BLOCK_FRAMES:
            config = replace(checkpoint.config, block_frames=frames, left_blocks=-(-context // frames))
            title = f"{frames * config.frame_samples * 1000 // config.sample_rate} ms"
            found[title] = ask(Listener(replace(checkpoint, config=config)), given.packs, given.limit)
    else:
        for title in given.only or VARIANTS:
            scores = folder / slug(title) / "scores.json"
            if not scores.is_file():
                trained = train(title, VARIANTS[title], folder, given.corpus, given.init)
                measured = ask(Listener(load(trained)), given.packs, given.limit)
                scores.write_text(json.dumps({name: asdict(one) for name, one in measured.items()}, indent=2))
        for title in VARIANTS:
            scores = folder / slug(title) / "scores.json"
            if scores.is_file():
                found[title] = {key: Share(**one) for key, one in json.loads(scores.read_text()).items()}
    asked = sorted({key for figures in found.values() for key in figures})
    table(["% right (95 % interval)", "items", *found], [[key, *row(key, found)] for key in asked])
    save(given.out, name, where, {title: {k: asdict(v) for k, v in one.items()} for title, one in found.items()})


def row(key: str, found: dict[str, dict[str, Share]]) -> Iterator[object]:
    """How many items, and each variant's share with its interval."""
    yield next(figures[key].total for figures in found.values() if key in figures)
    for figures in found.values():
        low, high = figures[key].interval()
        yield f"{figures[key].percent:.1f} ({low:.0f}-{high:.0f})"


if __name__ == "__main__":
    main()
