"""What a language model does with words that reach it as well as words can: what it gets wrong here, no ear can mend.

Each row is a turn in tokens as if heard (every token right, blanks between, some twice), or typed, and the one right
answer, of which every token has to be the likeliest one. Copies are words at random; two extras are orders with milk
and sugar, whose amounts have to stay with their nouns; lessons are those of `wavllm_core/train/lessons.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from _report import announce, machine, parser, require, save, table

from wavllm_core.checkpoint import TIED_HEAD, load_tokenizer
from wavllm_core.config import RollingConfig
from wavllm_core.evaluate.history import Question, questions
from wavllm_core.lora import gated
from wavllm_core.model import RollingWavLLM
from wavllm_core.prompt import TRANSCRIBE, PromptTemplate, Turn
from wavllm_core.train.dialogue import DIGITS, Event, Scene
from wavllm_core.train.lessons import Kind, lesson
from wavllm_core.train.loop import read_weights
from wavllm_core.train.orders import Order, random_order, random_spoken_form

BATCH = 20
LEXICON = """
after again along animal answer around before behind better bicycle bottle bridge brother butter candle castle
centre change children circle clock corner country cousin dinner doctor dragon engine evening family father
finger flower forest friend garden giraffe glass hammer history house island jacket kitchen ladder letter light
little machine market minute monday morning mother mountain music number ocean orange paper people picture
pocket police question rabbit raincoat remember river school second sister station street summer sunday table
teacher thunder ticket tomorrow travel umbrella village walk water weather window winter yellow yesterday
"""


@dataclass(frozen=True)
class Row:
    """One turn and its right answer."""

    reply: str
    heard: str = ""  # words as if heard
    typed: str = ""
    history: tuple[Turn, ...] = ()
    speaker: int | None = None
    instruction: str = ""


def copies(words: int, rng: random.Random) -> Row:
    said = " ".join(rng.choices(LEXICON.split(), k=words))
    return Row(f" {said}", said, instruction=TRANSCRIBE)


def repeated(extras: bool, typed: bool, rng: random.Random) -> Row:
    """An order, with milk and sugar both or not."""
    order, words = _order(rng, lambda one: bool(one.milkAmount and one.sugarAmount) == extras)
    reply = Scene().reply(Event(words, order=order), None)
    return Row(reply, typed=words) if typed else Row(reply, words)


def counted(rng: random.Random) -> Row:
    """A digit after an order."""
    scene, (order, words), digit = Scene(), _order(rng), rng.choice(DIGITS)
    before = Turn(words, reply=scene.reply(Event(words, order=order), None))
    return Row(scene.reply(Event(digit, digit=digit), None), digit, history=(before,))


def asked(question: Question) -> Row:
    history = tuple(Turn(past.text, speaker=past.speaker, reply=past.reply) for past in question.history)
    return Row(question.reply, typed=question.asked.text, history=history, speaker=question.asked.speaker)


def instructed(kind: Kind, rng: random.Random) -> Row:
    order, words = _order(rng)
    learned = lesson(kind, order, words, rng)
    return Row(learned.answer, words, instruction=learned.instruction)


def _order(rng: random.Random, wanted: Callable[[Order], bool] = lambda order: True) -> tuple[Order, str]:
    while not wanted(order := random_order(rng)):
        pass
    return order, random_spoken_form(order, rng)


def abilities(rows: int) -> dict[str, list[Row]]:
    """The same for every model."""
    rng = random.Random(20261125)
    kinds: dict[str, Callable[[], Row]] = {
        "copies of 3 words": lambda: copies(3, rng),
        "copies of 8 words": lambda: copies(8, rng),
        "orders": lambda: repeated(False, False, rng),
        "orders with two extras": lambda: repeated(True, False, rng),
        "the same, typed": lambda: repeated(True, True, rng),
        "a digit after an order": lambda: counted(rng),
        "multiple choice": lambda: instructed("sqa", rng),
        "translation into German": lambda: instructed("st", rng),
        "many instructions at once": lambda: instructed("ii", rng),
        "chain of thought": lambda: instructed("cot", rng),
    }
    typed = [asked(one) for one in islice(questions(), rows)]
    return {name: [make() for _ in range(rows)] for name, make in kinds.items()} | {"typed questions": typed}


def as_heard(tokens: Sequence[int], blank_id: int, rng: random.Random) -> list[int]:
    heard: list[int] = []
    for token in tokens:
        blanks = max(min(6, int(rng.expovariate(0.6))), heard[-1:] == [token])
        heard += [blank_id] * blanks + [token] * rng.choice((1, 1, 2))
    return heard


@torch.no_grad()
def right(model: RollingWavLLM, template: PromptTemplate, rows: Sequence[Row], adapters: bool) -> int:
    """Of how many rows each token of the answer is the likeliest."""
    rng, good = random.Random(1), 0
    llama = model.llm.get_base_model()
    for start in range(0, len(rows), BATCH):
        part, inputs, targets = rows[start : start + BATCH], [], []
        for row in part:
            prompt = template.build(row.history, Turn(row.typed, bool(row.heard), row.speaker), row.instruction)
            heard = as_heard(template.encode(f" {row.heard}"), template.blank_id, rng) if row.heard else []
            targets.append(template.target(row.reply))
            inputs.append([*prompt.before, *heard, *prompt.after])
        longest = max(len(ids) + len(target) for ids, target in zip(inputs, targets, strict=True))
        padded = torch.tensor(
            [[*i, *t, *[0] * (longest - len(i) - len(t))] for i, t in zip(inputs, targets, strict=True)]
        )
        gates = model.gate_for([template.gate_ids(row.instruction) for row in part]) if adapters else None
        with nullcontext() if gates is None else gated(model.llm, gates):
            guessed = llama(input_ids=padded, use_cache=False).logits.argmax(-1)
        for row, ids, target in zip(guessed, inputs, targets, strict=True):
            good += row[len(ids) - 1 : len(ids) - 1 + len(target)].tolist() == target
    return good


def main() -> None:
    options = parser(__doc__)
    options.add_argument("checkpoint", type=Path, nargs="*", help="of a training, or exported folders")
    options.add_argument("--model", type=Path, default=Path("configs/train/nano-model.json"))
    options.add_argument("--tokenizer", type=Path, default=Path("wavllm_core/nano/tokenizer.json"))
    options.add_argument("--no-adapters", action="store_true", help="the language model without LoRA and gate")
    options.add_argument("--rows", type=int, default=200, help="of each kind")
    given = options.parse_args()
    require(given.checkpoint, "CHECKPOINT, of a training")
    torch.set_num_threads(given.threads)
    where = machine()
    announce(where)
    config = RollingConfig.from_json(given.model)
    template = PromptTemplate(load_tokenizer(given.tokenizer), config.system_prompt)
    figures: dict[str, list[float]] = {}
    for path in given.checkpoint:
        model = RollingWavLLM(config).eval()
        missing, unexpected = model.load_state_dict(read_weights(path)[0], strict=False)
        if unexpected or set(missing) - {TIED_HEAD}:
            raise SystemExit(f"{path}: does not fit {given.model}")
        if given.no_adapters:
            model.llm.base_model.disable_adapter_layers()
        for name, rows in abilities(given.rows).items():
            good = right(model, template, rows, not given.no_adapters)
            figures.setdefault(name, []).append(100 * good / len(rows))
    table(["% right", *(str(path) for path in given.checkpoint)], [[name, *each] for name, each in figures.items()])
    save(given.out, "listening", where, {"rows": given.rows, "right_percent": figures})


if __name__ == "__main__":
    main()
