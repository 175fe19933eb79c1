"""What is asked about voices: pairs and emotions in training, and how their answers are scored."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from tests.core.test_training import write_recipe
from tests.core.tiny import tiny_model, write_tokenizer
from wavllm_core.checkpoint import NANO, load, load_tokenizer
from wavllm_core.engine.api import Heard
from wavllm_core.evaluate.dev_plots import draw
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.speakers import FEELING, ONE_OR_TWO, Joiner, confusions, figures
from wavllm_core.evaluate.tasks import Answers, baselines, collect, score
from wavllm_core.prompt import TRANSCRIBE, PromptTemplate, Turn
from wavllm_core.tasks import EMOTIONS, TASKS, read_emotion, read_yes_no
from wavllm_core.train.augment import Augmentation
from wavllm_core.train.batches import Batch, ExampleMaker
from wavllm_core.train.corpus import Clip, Corpus, read_pack
from wavllm_core.train.loop import Trainer
from wavllm_core.train.losses import reply_loss
from wavllm_core.train.phrasings import SEEN, UNSEEN, phrased
from wavllm_core.train.recipe import Recipe, load_recipe
from wavllm_core.train.speakers import EMOTION, MIN_PEOPLE, ONE_SPEAKER, Partners, emotion_answer, speakers_answer

PEOPLE = MIN_PEOPLE


@pytest.fixture
def people(tmp_path: Path) -> tuple[Corpus, PromptTemplate]:
    """Two clips of each of some people, each person as loud as nobody else, and one clip of nobody known."""
    clips = [
        (Clip("", "so762", "train", "a word", f"p{person}"), np.full(8_000, 1_000 * (person + 1), np.int16))
        for person in range(PEOPLE)
        for _ in range(2)
    ]
    stranger = (Clip("", "s2i", "train", "an order"), np.full(8_000, 500, np.int16))
    Corpus.write(tmp_path / "corpus", [*clips, stranger])
    return Corpus(tmp_path / "corpus"), PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))


@pytest.mark.parametrize("same", [True, False])
def test_answers_are_read_as_they_are_written(same: bool) -> None:
    assert read_yes_no(speakers_answer(same)) is same


@pytest.mark.parametrize("label", EMOTIONS)
def test_emotions_are_read_as_they_are_written(label: str) -> None:
    assert read_emotion(emotion_answer(label)) == label


def test_partners_are_of_the_same_circumstance_and_enough_people() -> None:
    rng = random.Random(0)
    clips: list[tuple[int, str, str]] = [(i, "studio", f"p{i // 2}") for i in range(2 * PEOPLE)]
    clips += [(100 + i, "street", f"p{i // 2}") for i in range(2 * (PEOPLE - 1))]
    partners = Partners(clips)
    assert partners.usable(0) and not partners.usable(100) and not partners.usable(999)
    assert {partners.draw(0, True, rng) for _ in range(50)} == {1}
    assert {partners.draw(0, False, rng) for _ in range(500)} == set(range(2, 2 * PEOPLE))


@pytest.mark.needs("espeak-ng")
def test_a_pair_is_asked_about_as_its_voices_are(people: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = people
    bare = {"gain_db": (0.0, 0.0), "lead_seconds": (0.0, 0.0), "tail_seconds": (0.0, 0.0), "trim": 1.0}
    how = Augmentation(**bare, speed=(0.8, 1.2), formants=(0.8, 1.2))
    maker = ExampleMaker(corpus, template, how, seed=0, lessons={"sv": 1.0})
    yes, no = (template.target(speakers_answer(same)) for same in (True, False))
    heard = []
    for _ in range(20):
        batch = maker.batch(range(2 * PEOPLE + 1), with_prompts=True)
        assert len(batch) == PEOPLE + 1  # half of the rows, as they are twice as long
        for wave, samples, after in zip(batch.waveform, batch.samples.tolist(), batch.after, strict=True):
            levels = (wave[100:200].median(), wave[samples - 200 : samples - 100].median())
            same = abs(levels[0] - levels[1]) < 500 / 32768
            assert after[-len(yes if same else no) :] == (yes if same else no)
            heard.append(same)
        assert {tuple(row) for row in batch.instructions} == {tuple(template.gate_ids(ONE_SPEAKER))}
        assert batch.word_lengths.max() == batch.phoneme_lengths.max() == batch.speakers.max() == -1
    assert 0.4 < np.mean(heard) < 0.6


@pytest.mark.needs("espeak-ng")
def test_the_token_that_decides_is_where_answers_part(people: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = people
    spell = template.tokenizer.decode
    maker = ExampleMaker(corpus, template, Augmentation(), seed=0, lessons={"sv": 1.0})
    pairs = maker.batch(range(2 * PEOPLE), with_prompts=True)
    for after, place in zip(pairs.after, pairs.decides, strict=True):
        assert place is not None
        assert spell(after[place:]) in [speakers_answer(True), speakers_answer(False)]  # from the first word on
    stranger = maker.batch([2 * PEOPLE], with_prompts=True)
    assert stranger.decides == [None]  # nobody has listed what else could be said to an order
    maker.add_prompt(stranger, [], Turn(spoken=True), EMOTION, emotion_answer("sad"))
    place, shared = stranger.decides[1], "The emotion of the speaker is "
    assert place is not None
    said = spell(stranger.after[1][place:])
    assert emotion_answer("sad").endswith(said) and len(said) > len("ad.")
    assert spell(stranger.after[1][:place]).endswith(shared.rstrip())


def test_a_decision_costs_what_its_token_does() -> None:
    model, none = tiny_model(), torch.zeros(2, dtype=torch.long)
    nothing = (torch.zeros(2, 0), none, torch.zeros(2, 0).long(), none, torch.zeros(2, 0).long(), none, none)
    asked = [[40, 41, 42], [43]], [[20, 30, 50, 60], [20, 30, 51, 61]], [[False] * 4 + [True] * 3] * 2
    batch = Batch(*nothing, *asked, [[20], [20]], [2, None])
    batch.wanted[1] = [False, False, True, True, True]
    found = reply_loss(model, None, batch, use_gate=False)
    states = model.llm.get_base_model().model(inputs_embeds=model.embed(torch.tensor([[40, 41, 42, 20, 30]])))
    logits = model.llm.get_base_model().lm_head(states.last_hidden_state[0, -1:])
    assert found.decision is not None and found.decided is not None
    torch.testing.assert_close(found.decision, F.cross_entropy(logits, torch.tensor([50])))
    assert found.decided == float(logits.argmax() == 50)
    assert reply_loss(model, None, replace(batch, decides=[None, None]), use_gate=False).decision is None


@pytest.mark.needs("espeak-ng")
def test_clips_without_partners_have_their_own_tasks(people: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = people
    maker = ExampleMaker(corpus, template, Augmentation(), seed=0, lessons={"sv": 1.0})
    batch = maker.batch([2 * PEOPLE], with_prompts=True)
    assert batch.instructions[0] != template.gate_ids(ONE_SPEAKER)


@pytest.mark.needs("espeak-ng")
def test_instructions_come_in_other_words_only_where_the_recipe_wants_it(
    people: tuple[Corpus, PromptTemplate],
) -> None:
    corpus, template = people

    def asked(rephrased: bool) -> set[tuple[int, ...]]:
        maker = ExampleMaker(corpus, template, Augmentation(), 0, lessons={"sv": 1.0}, rephrased=rephrased)
        return {tuple(row) for _ in range(10) for row in maker.batch(range(10), True).instructions}

    assert asked(False) == {tuple(template.gate_ids(ONE_SPEAKER))}
    assert asked(True) == {tuple(template.gate_ids(words)) for words in (ONE_SPEAKER, *SEEN[ONE_SPEAKER])}


def test_no_words_of_the_evaluation_are_trained_on() -> None:
    assert SEEN.keys() == UNSEEN.keys() == {TASKS[task].prompt for task in ("asr", "st", "sv", "er")}
    trained = {words for instruction, others in SEEN.items() for words in (instruction, *others)}
    assert not trained & {words for others in UNSEEN.values() for words in others}
    rng = random.Random(0)
    assert {phrased(TRANSCRIBE, rng) for _ in range(100)} == {TRANSCRIBE, *SEEN[TRANSCRIBE]}
    assert phrased("", rng) == "" and phrased("count to three", rng) == "count to three"


def write_emotions(path: Path, *labels: str, readers: int = 0) -> Path:
    """With four read sentences of each of so many readers."""
    rows = ["split,source,task,file,speaker,text,label"]
    sound = io.BytesIO()
    soundfile.write(sound, np.ones(8_000) * 0.1, 16_000, format="FLAC")
    rows += [f'dev,ravdess,"er,sv",one.flac,rv01,dogs are sitting by the door,{label}' for label in labels]
    rows += [f'dev,so762,"asr,sv",one.flac,p{reader},a word,' for reader in range(readers) for _ in range(4)]
    with tarfile.open(path, "w") as tar:
        for name, data in (("one.flac", sound.getvalue()), ("manifest.csv", "\n".join(rows).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_pack_of_emotions_brings_question_and_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = [clip for clip, _ in read_pack(write_emotions(tmp_path / "pack.tar", "fearful", "bored", "sad"))]
    assert [(clip.prompt, clip.answer) for clip in clips] == [
        (EMOTION, "The emotion of the speaker is fearful."),
        (EMOTION, "The emotion of the speaker is sad."),
    ]
    assert "line 3: one.flac: label: 'bored' is none of neutral, happy" in caplog.text


def test_an_evaluation_asks_about_voices_in_the_published_words(tmp_path: Path) -> None:
    asked: list[str] = []

    class Asked(Listener):
        def ask(self, heard: Heard, instruction: str = "", *more: Any, **options: Any) -> str:
            asked.append(instruction)
            return super().ask(heard, instruction, *more, **options)

    pack = write_emotions(tmp_path / "pack.tar", "sad", "calm", readers=2)
    answers = collect(Asked(load(NANO)), pack, limit=8, progress=lambda _: None)
    assert [label for label, _ in answers.emotions] == ["sad", "calm"] and asked.count(EMOTION) == 2
    assert [same for same, _ in answers.pairs] == [True, False] and asked.count(ONE_SPEAKER) == 2
    assert {FEELING, ONE_OR_TWO} <= score(answers).keys() & baselines(answers).keys()


@pytest.mark.needs("espeak-ng")
@pytest.mark.parametrize("encoder", ["semantic", "acoustic"])
def test_an_encoder_can_be_left_unheard(tmp_path: Path, encoder: str) -> None:
    trainer = Trainer(load_recipe(write_recipe(tmp_path, unheard=encoder, steps=3, frozen=["llm."]), Recipe))
    waveform = torch.randn(1, trainer.model.config.block_samples) * 0.1
    before = trainer.model.projection.weight.clone()
    trainer.run()
    assert not torch.equal(trainer.model.projection.weight, before)  # the other one's columns go on learning
    heard = trainer.model.encode(waveform).speech_embeds
    with torch.no_grad():
        for parameter in getattr(trainer.model, f"{encoder}_adapter").parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(trainer.model.encode(waveform).speech_embeds, heard)
    other = "acoustic" if encoder == "semantic" else "semantic"
    with torch.no_grad():
        for parameter in getattr(trainer.model, f"{other}_adapter").parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.equal(trainer.model.encode(waveform).speech_embeds, heard)


@pytest.mark.needs("espeak-ng")
def test_an_encoder_is_left_unheard_by_a_projection_that_does_not_learn_either(tmp_path: Path) -> None:
    trainer = Trainer(load_recipe(write_recipe(tmp_path, unheard="acoustic", frozen=["projection."]), Recipe))
    silent = trainer.model.projection.weight[:, trainer.model.config.semantic_adapter.out_dim :]
    assert silent.numel() and not silent.any()


@pytest.mark.needs("espeak-ng")
@pytest.mark.parametrize(("prompts", "rephrased"), [("published", False), ("varied", True)])
def test_a_recipe_says_whether_instructions_come_in_other_words(tmp_path: Path, prompts: str, rephrased: bool) -> None:
    trainer = Trainer(load_recipe(write_recipe(tmp_path, prompts=prompts), Recipe))
    assert trainer.maker.rephrased is rephrased


@pytest.mark.needs("espeak-ng")
def test_adapters_alone_can_be_trained(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, trained=["lora_", "gate."], frozen=["acoustic.", "semantic."], steps=2)
    trainer = Trainer(load_recipe(path, Recipe))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name or name.startswith("gate.") for name in changed)


@pytest.mark.needs("espeak-ng")
def test_a_recipe_says_what_a_decision_weighs(tmp_path: Path) -> None:
    losses = {"reply": 1.0, "decision": 2.5}
    trainer = Trainer(load_recipe(write_recipe(tmp_path, losses=losses, gate=False), Recipe))
    audio = trainer.maker.batch([0], with_prompts=False)
    trainer.maker.add_prompt(audio, [], Turn(spoken=True), EMOTION, emotion_answer("sad"))
    total, parts = trainer.loss(audio, None)
    assert parts["decision"] > 0
    assert total.item() == pytest.approx(parts["reply"] + 2.5 * parts["decision"], rel=1e-5)


def test_every_fourth_clip_of_a_person_is_joined_with_one_of_the_same_and_one_of_another() -> None:
    joiner, pairs = Joiner(random.Random(0)), []
    for turn in range(8):
        for person in (1, 2):
            made = joiner.pairs(f"p{person}", np.full(100 + turn, person, np.int16))
            assert len(made) == (2 if turn in (3, 7) else 0)
            pairs += made
    assert [same for same, _ in pairs] == [True, False] * 4
    for same, pcm in pairs:
        first, second = pcm[0], pcm[-1]
        assert (first == second) is np.bool_(same)
        assert len(pcm) < 8_000 + 2 * 108 and len(pcm) - np.count_nonzero(pcm) == 8_000


def test_the_first_person_has_nobody_to_be_joined_with() -> None:
    joiner = Joiner(random.Random(0))
    assert not any(joiner.pairs("p1", np.ones(10, np.int16)) for _ in range(8))


EMOTIONS_SAID: Sequence[tuple[str, str]] = [
    ("happy", "The emotion of the speaker is happy."),
    ("happy", "The emotion of the speaker is sad."),
    ("angry", "what?"),
]


def test_answers_about_voices_are_scored_beside_the_most_frequent() -> None:
    pairs = [(True, "Yes, there is only one speaker."), (False, "Yes."), (False, "No, there are two."), (False, "")]
    found = figures(pairs, EMOTIONS_SAID)
    assert (found[ONE_OR_TWO].right, found[ONE_OR_TWO].total) == (2, 4)
    assert (found[FEELING].right, found[FEELING].total) == (1, 3)
    assert figures([], []) == {} == baselines(Answers())
    assert baselines(Answers(pairs=pairs, emotions=list(EMOTIONS_SAID))) == {
        ONE_OR_TWO: "75.0 (the most frequent)",
        FEELING: "66.7 (the most frequent)",
    }


def test_confusions_are_counted_and_drawn(tmp_path: Path) -> None:
    table = confusions(EMOTIONS_SAID)
    assert table == {"happy": {"happy": 1, "sad": 1}, "angry": {"none": 1}}
    drawn = draw(Answers(emotions=list(EMOTIONS_SAID)), tmp_path)
    picture = drawn["emotions"].read_text()
    assert all(f"<!-- {name} -->" in picture for name in ("happy", "angry", "none"))


def test_a_page_has_no_figures_of_what_a_pack_does_not_hold() -> None:
    assert list(score(Answers(emotions=list(EMOTIONS_SAID)))) == [FEELING]
