"""Packs to corpora and batches, and a run of a few steps that is killed and goes on."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
import yaml
from typer.testing import CliRunner

from agent.__main__ import app
from tests.core.tiny import tiny_config, tiny_model, write_tokenizer
from wavllm_core.checkpoint import TIED_HEAD, load, load_tokenizer, save
from wavllm_core.errors import CheckpointError, InputError
from wavllm_core.prompt import TRANSCRIBE, PromptTemplate, Turn
from wavllm_core.speech import Encoded
from wavllm_core.train import synthesis
from wavllm_core.train.augment import Augmentation
from wavllm_core.train.batches import Batch, ExampleMaker
from wavllm_core.train.corpus import Clip, Corpus, Synthetic, read_pack, synthetic_clips
from wavllm_core.train.loop import Trainer
from wavllm_core.train.losses import Heads, gates, word_loss
from wavllm_core.train.orders import Order
from wavllm_core.train.prepare import without
from wavllm_core.train.recipe import Recipe, load_recipe

MOCHA = Order("mocha", size="large", milkAmount="soy milk")
LATTE = Order("latte", sugarAmount="lots of brown sugar")


def test_the_prompt_has_audio_between_its_tags_and_the_instruction_after(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json"))
    template = PromptTemplate(tokenizer)
    history = [Turn("what did i order", speaker=1, reply="three"), Turn("not answered")]
    prompt = template.build(history, Turn(spoken=True, speaker=2), "be short")
    before, after = (tokenizer.decode(ids, skip_special_tokens=False) for ids in (prompt.before, prompt.after))
    assert before == "<s>[INST]speaker 1: what did i order[/INST]three</s>[INST]<SPEECH>"
    assert after == "</SPEECH>speaker 2:  be short[/INST]"
    typed = template.build([], Turn("one"), "")
    assert tokenizer.decode(typed.before, skip_special_tokens=False) == "<s>[INST]one[/INST]" and not typed.after


def write_pack(path: Path) -> Path:
    """Three readable rows, two bad ones."""
    import io
    import tarfile

    rows = ["split,source,task,file,speaker,text,label"]
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        for i, (split, word) in enumerate([("train", "three"), ("train", "seven"), ("dev", "three")]):
            sound = io.BytesIO()
            soundfile.write(sound, rng.standard_normal(6_000) * 0.1, 16_000, format="FLAC")
            add(f"pack/audio/{i}.flac", sound.getvalue())
            rows.append(f"{split},fsdd,commands,audio/{i}.flac,speaker{i % 2},{word},{word}")
        add("pack/audio/broken.flac", b"this is not a sound file")
        rows.append("train,fsdd,commands,audio/broken.flac,,one,one")
        rows.append("train,fsdd,commands,audio/absent.flac,,one,one")
        add("pack/manifest.csv", "\n".join(rows).encode())
    return path


def test_bad_rows_of_a_pack_are_named_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = [clip for clip, _ in read_pack(write_pack(tmp_path / "pack.tar"))]
    assert [clip.text for clip in clips] == ["three", "seven", "three"]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3
    assert "line 5: audio/broken.flac" in warnings[0] and "line 6: audio/absent.flac" in warnings[1]
    assert "2 of 5 rows skipped" in warnings[2]


def test_a_file_that_is_no_pack_is_named(tmp_path: Path) -> None:
    whole = write_pack(tmp_path / "pack.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:10_000])
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1_000)
    for name in ("absent", "cut", "junk"):
        with pytest.raises(InputError, match=rf"{name}\.tar: cannot be read as a pack"):
            list(read_pack(tmp_path / f"{name}.tar"))


def test_a_corpus_that_was_not_finished_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the clips of one would be trained on with the samples of the other."""
    sounds = [np.full(1_000, number, np.int16) for number in range(3)]
    Corpus.write(tmp_path, [(Clip(str(number), "noise", "train"), pcm) for number, pcm in enumerate(sounds)])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("wavllm_core.train.corpus.write_table", stop)
        Corpus.write(tmp_path, [(Clip("other", "noise", "train"), sounds[2])])
    with pytest.raises(InputError, match="no corpus there"):
        Corpus(tmp_path)
    (tmp_path / "clips.json").write_text('{"clips": [')
    with pytest.raises(InputError, match="a damaged corpus"):
        Corpus(tmp_path)
    with pytest.raises(InputError, match="no clips"):
        Corpus.write(tmp_path, [])


def test_what_is_kept_out_of_training_is_named_by_source_or_person(tmp_path: Path) -> None:
    recorded = list(read_pack(write_pack(tmp_path / "pack.tar")))
    name = recorded[0][0].speaker
    kept = [clip for clip, _ in without(frozenset({name}), recorded)]
    assert kept == [clip for clip, _ in recorded if clip.speaker != name] and len(kept) < len(recorded)
    assert not list(without(frozenset({recorded[0][0].source}), [recorded[0]]))
    with pytest.raises(InputError, match="keep-out: no recording has the source or speaker nobody"):
        list(without(frozenset({name, "nobody"}), recorded))


def test_every_recipe_of_the_project_is_readable() -> None:
    recipes = sorted((Path(__file__).parents[2] / "configs" / "train").glob("[0-9as]*.yaml"))
    assert [load_recipe(path, Recipe).out.name for path in recipes] == [path.stem for path in recipes]
    assert len(recipes) == 29


def test_a_recipe_with_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("out: a\ncorpus: b\nmodel: c\ntokenizer: d\nsteps: 1\npeak_lr: 1\nlosses: {}\nspeed: 3\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: speed"):
        load_recipe(path, Recipe)
    with pytest.raises(InputError, match=r"absent\.yaml: cannot be read"):
        load_recipe(tmp_path / "absent.yaml", Recipe)


@pytest.mark.needs("espeak-ng")
def test_synthetic_speech_is_the_same_for_the_same_seed() -> None:
    counts = Synthetic(orders=1, digits=2, seed=5)
    once, again = list(synthetic_clips(counts, [])), list(synthetic_clips(counts, []))
    assert [clip for clip, _ in once] == [clip for clip, _ in again]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(once, again, strict=True))
    assert min(len(pcm) for _, pcm in once) > 1_600


@pytest.mark.needs("espeak-ng")
def test_phonemes_have_no_stress_and_survive_punctuation() -> None:
    three, order = synthesis.phonemes(["three", "a mocha, please"])
    assert three == ["T", "r", "i"]
    assert not set("',|") & set("".join(order))


def write_recipe(folder: Path, **changes: object) -> Path:
    """A recipe for a tiny model on a tiny corpus, both made in the folder."""
    folder.mkdir(exist_ok=True)
    if not (folder / "corpus").exists():
        Corpus.write(folder / "corpus", read_pack(write_pack(folder / "pack.tar")))
        (folder / "model.json").write_text(tiny_config().to_json())
    recipe = {
        "out": str(folder / "run"),
        "corpus": str(folder / "corpus"),
        "model": str(folder / "model.json"),
        "tokenizer": str(write_tokenizer(folder / "tokenizer.json")),
        "steps": 10,
        "peak_lr": 3e-3,
        "warmup_steps": 2,
        "batch_seconds": 4,
        "text_rows": 2,
        "gate": True,
        "losses": {"ctc": 1.0, "words": 1.0, "speaker": 0.1, "reply": 1.0},
        "sources": {"fsdd": 1.0},
        "threads": 1,
        "log_every": 5,
        "save_every": 5,
        "validate_every": 10,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
    return folder / "recipe.yaml"


@pytest.mark.needs("espeak-ng")
@pytest.mark.timeout(60)
def test_a_killed_run_goes_on_and_its_loss_falls(tmp_path: Path) -> None:
    def train(steps: int) -> Trainer:
        trainer = Trainer(load_recipe(write_recipe(tmp_path, steps=steps), Recipe))
        trainer.run()
        return trainer

    first = train(10)
    kept = first.model.state_dict()["projection.weight"].clone()
    resumed = train(10)  # nothing left to do
    assert resumed.step == 10
    assert torch.equal(resumed.model.state_dict()["projection.weight"], kept)
    assert train(30).step == 30
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["reply"] for line in log if "reply" in line]
    assert losses[-1] < losses[0]
    assert any("dev_fsdd_reply" in line for line in log)


def test_every_reply_of_a_history_is_practised_but_those_to_turns_without_words(tmp_path: Path) -> None:
    Corpus.write(tmp_path / "corpus", read_pack(write_pack(tmp_path / "pack.tar")))
    template = PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))
    maker = ExampleMaker(Corpus(tmp_path / "corpus"), template, Augmentation(), seed=0)
    batch = maker.text_batch(1)
    for field in (batch.before, batch.after, batch.wanted, batch.instructions):
        field.clear()
    history = [Turn("one", reply="You said one."), Turn("", speaker=2, reply="A latte."), Turn("not answered")]
    maker.add_prompt(batch, history, Turn(spoken=True), "", "You said two.", heard=[30, 31])
    ids = batch.before[0] + batch.after[0]
    said = [token for token, wanted in zip(ids, batch.wanted[0], strict=True) if wanted]
    assert template.tokenizer.decode(said, skip_special_tokens=False) == "You said one.</s>You said two.</s>"


def test_a_run_starts_from_a_shipped_checkpoint(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, init=[str(tmp_path / "shipped")], frozen=[""], precision="bf16", steps=2)
    shipped = {name: value + 0.5 for name, value in tiny_model().state_dict().items()}
    save(tmp_path / "shipped", tiny_config(), shipped, tmp_path / "tokenizer.json")
    trainer = Trainer(load_recipe(recipe, Recipe))
    heads = trainer.heads.phonemes.weight.clone()
    trainer.run()
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, shipped[name].to(torch.bfloat16).float())  # nothing but the heads moved
    assert not torch.equal(trainer.heads.phonemes.weight, heads)


def test_what_a_run_cannot_start_from_is_named(tmp_path: Path) -> None:
    def start(**changes: object) -> None:
        Trainer(load_recipe(write_recipe(tmp_path, **changes), Recipe))

    with pytest.raises(InputError, match=r"init: .*absent\.pt: no such checkpoint"):
        start(init=[str(tmp_path / "absent.pt")])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file|config\.json: no such file"):
        start(init=[str(tmp_path)])
    with pytest.raises(InputError, match="init_only: 1 lists for 2 checkpoints"):
        start(init=["a.pt", "b.pt"], init_only=[["llm."]])
    other = {"model": {"projection.weight": torch.zeros(2, 2)}, "heads": {}}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: does not fit .*model\.json: .*projection\.weight"):
        start(init=[str(tmp_path / "other.pt")])


def test_a_killed_run_ends_where_it_would_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trainer(load_recipe(write_recipe(tmp_path / "whole", steps=6, save_every=3, dropout=0.2), Recipe))
    whole.run()
    path = write_recipe(tmp_path / "killed", steps=6, save_every=3, dropout=0.2)
    killed = Trainer(load_recipe(path, Recipe))
    save_once = killed.save

    def save_and_die() -> None:
        save_once()
        raise KeyboardInterrupt

    monkeypatch.setattr(killed, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    resumed = Trainer(load_recipe(path, Recipe))
    assert resumed.step == 3
    resumed.run()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)


def test_the_language_model_learns_to_copy_without_its_adapters(tmp_path: Path) -> None:
    trainer = Trainer(load_recipe(write_recipe(tmp_path, adapters=False, gate=False, copies=1.0, sources={}), Recipe))
    before = {name: value.clone() for name, value in trainer.model.llm.state_dict().items()}
    trainer.run()
    changed = {name for name, value in trainer.model.llm.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any("lora" in name for name in changed)


@pytest.mark.needs("espeak-ng")
def test_what_was_trained_without_adapters_is_served_as_it_was_trained(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, adapters=False, gate=False, steps=2), Recipe)
    trainer = Trainer(recipe)
    trainer.run()
    out = tmp_path / "out"
    given = ["export", str(trainer.last), str(out), "--model", str(recipe.model), "--tokenizer", str(recipe.tokenizer)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    served = load(out)
    llm = {name: value for name, value in trainer.model.state_dict().items() if name.startswith("llm.")}
    kept = {name: served.tensors[name] for name in llm if name != TIED_HEAD}
    assert all(torch.equal(value, llm[name].bfloat16().float()) for name, value in kept.items())
    assert not any(value.any() for name, value in kept.items() if "lora_B" in name), "which the server would add"


def test_a_compiled_language_model_is_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the compiler makes of it."""
    calls: list[str] = []

    def compile(forward: Callable[..., object], **how: object) -> Callable[..., object]:
        calls.append(f"made, dynamic={how['dynamic']}")

        def compiled(*args: object, **kwargs: object) -> object:
            calls.append("called")
            return forward(*args, **kwargs)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    changes = {"gate": False, "copies": 1.0, "sources": {}, "steps": 1}
    plain = Trainer(load_recipe(write_recipe(tmp_path / "plain", **changes), Recipe))
    plain.run()
    assert calls == []
    compiled = Trainer(load_recipe(write_recipe(tmp_path / "compiled", compiled=True, **changes), Recipe))
    compiled.run()
    assert calls[0] == "made, dynamic=True" and "called" in calls[1:]
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], value)  # saved under the same names, too


def test_a_gate_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gate: it scales adapters"):
        Trainer(load_recipe(write_recipe(tmp_path, adapters=False, gate=True), Recipe))


@pytest.mark.needs("espeak-ng")
def test_adapters_that_are_there_are_not_turned_off_unnoticed(tmp_path: Path) -> None:
    """The training would go on without them, and the export would have them."""
    first = Trainer(load_recipe(write_recipe(tmp_path / "first", steps=2), Recipe))
    first.run()
    path = write_recipe(tmp_path / "second", adapters=False, gate=False, init=[str(first.last)])
    with pytest.raises(InputError, match="adapters: false, and `init` has some"):
        Trainer(load_recipe(path, Recipe))


def test_copies_are_tokens_at_random_and_nothing_else(orders: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = orders
    maker = ExampleMaker(corpus, template, Augmentation(), seed=0, copies=1.0)
    batch = maker.text_batch(20)
    lengths = {sum(wanted) - 1 for wanted in batch.wanted}  # without the end
    assert len(lengths) == 1 and 2 <= lengths.pop() <= 24
    assert len({tuple(row) for row in batch.instructions}) == 1
    said = [row[-sum(wanted) : -1] for row, wanted in zip(batch.after, batch.wanted, strict=True)]
    assert len({tuple(row) for row in said}) == 20
    heard = [set(row) for row in batch.before]
    kept = sum(set(tokens) <= there for tokens, there in zip(said, heard, strict=True))
    assert kept > 10  # what was said was heard, but for a token here and there


def test_dropout_changes_what_is_learned_from_and_nothing_else(tmp_path: Path) -> None:
    trainer = Trainer(load_recipe(write_recipe(tmp_path, dropout=0.5), Recipe))
    frames = torch.randn(1, trainer.model.config.semantic.mels, 32)
    assert not torch.equal(trainer.model.semantic(frames), trainer.model.semantic(frames))
    trainer.model.eval()
    assert torch.equal(trainer.model.semantic(frames), trainer.model.semantic(frames))


@pytest.mark.needs("espeak-ng")
@pytest.mark.timeout(60)
def test_the_log_tells_how_the_gate_stands(tmp_path: Path) -> None:
    Trainer(load_recipe(write_recipe(tmp_path, steps=2, log_every=1), Recipe)).run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 0.5 < lines[0]["gate_mean"] < 1.5  # it starts near plain LoRA
    off = Trainer(load_recipe(write_recipe(tmp_path / "off", gate=False), Recipe))
    assert off.gate_figures() == {}


def test_speeds_make_speakers_of_their_own(tmp_path: Path) -> None:
    Corpus.write(tmp_path / "corpus", read_pack(write_pack(tmp_path / "pack.tar")))
    template = PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))
    how = Augmentation(voice_speeds=(0.5, 1.0, 2.0), lead_seconds=(0.0, 0.0), tail_seconds=(0.0, 0.0))
    maker = ExampleMaker(Corpus(tmp_path / "corpus"), template, how, seed=0)
    assert maker.speakers == 6
    batch = maker.batch([0, 1] * 20, with_prompts=False)
    lengths = {}
    for samples, speaker in zip(batch.samples.tolist(), batch.speakers.tolist(), strict=True):
        lengths.setdefault(speaker // 2, []).append(samples)
    assert set(batch.speakers.tolist()) == set(range(6))
    assert min(lengths[0]) > max(lengths[1]) > max(lengths[2])  # half as fast is twice as long


@pytest.mark.parametrize(("trim", "samples"), [(0.0, 6_000 + 32_000), (1.0, 6_000)])
def test_clips_that_are_not_cut_begin_anywhere(tmp_path: Path, trim: float, samples: int) -> None:
    Corpus.write(tmp_path / "corpus", read_pack(write_pack(tmp_path / "pack.tar")))
    template = PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))
    nothing, second = (0.0, 0.0), (1.0, 1.0)
    how = Augmentation(trim=trim, wide_seconds=second, lead_seconds=nothing, tail_seconds=nothing)
    maker = ExampleMaker(Corpus(tmp_path / "corpus"), template, how, seed=0)
    assert maker.batch([0], with_prompts=False).samples.item() == pytest.approx(samples, abs=320)


def test_tokens_as_if_heard_hold_the_words_in_their_order(tmp_path: Path) -> None:
    Corpus.write(tmp_path / "corpus", read_pack(write_pack(tmp_path / "pack.tar")))
    template = PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))
    maker = ExampleMaker(Corpus(tmp_path / "corpus"), template, Augmentation(), seed=0)
    words = maker.words("three times a mocha")
    assert template.tokenizer.decode(words) == " three times a mocha"
    kept = 0
    for _ in range(50):
        heard = [token for token in maker.as_if_heard(words) if token != template.blank_id]
        places = iter(heard)
        kept += all(token in places for token in words)  # a subsequence
    assert 25 < kept < 50  # most of the time all of them, not always


def test_equal_tokens_as_if_heard_stay_two_after_collapsing(tmp_path: Path) -> None:
    Corpus.write(tmp_path / "corpus", read_pack(write_pack(tmp_path / "pack.tar")))
    template = PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))
    maker = ExampleMaker(Corpus(tmp_path / "corpus"), template, Augmentation(), seed=0)
    token = template.blank_id - 1
    heard = [
        [one for one, _ in itertools.groupby(maker.as_if_heard([token, token])) if one == token] for _ in range(100)
    ]
    assert heard.count([token, token]) > 85  # the others lost one, or heard another


def test_rows_with_the_same_instruction_share_a_gate() -> None:
    model, rows = tiny_model(), [[20, 30], [40], [20, 30]]
    torch.testing.assert_close(gates(model, rows), model.gate_for(rows))


def test_word_loss_falls_when_vectors_resemble_the_words(tmp_path: Path) -> None:
    model, heads = copy.deepcopy(tiny_model()), Heads(tiny_model(), phonemes=3, speakers=2)
    none = torch.zeros(1, dtype=torch.long)
    words = torch.tensor([[20, 30]])
    with torch.no_grad():  # the tokens that are heard resemble no other
        table = model.llm.get_input_embeddings().weight
        table[:, :4], table[:, 4:] = 0, F.normalize(table[:, 4:], dim=-1)
        table[[4, 20, 30, 31]] = torch.eye(4, table.shape[1])
    batch = Batch(none[:, None].float(), none, none[:, None], none, words, torch.tensor([2]), none - 1)
    embeddings = model.llm.get_input_embeddings().weight

    def loss(ids: list[int]) -> float:
        encoded = Encoded(embeddings[torch.tensor([ids])], torch.zeros(1), model.speaker_head.init_state(1))
        return word_loss(heads, model, replace(encoded, vectors=torch.tensor([len(ids)])), batch, blank_id=4).item()

    assert loss([4, 20, 4, 30, 4]) < 0.1 < loss([4, 20, 4, 31, 4]) < loss([4, 4, 4, 4, 4])
    batch = replace(batch, words=words[:, :0], word_lengths=none)  # nothing is said
    assert loss([4, 4, 4, 4, 4]) < 0.1 < loss([4, 4, 20, 4, 4])
    batch = replace(batch, word_lengths=none - 1)  # who knows
    assert loss([4, 4, 20, 4, 4]) == 0


def test_noise_teaches_to_hear_no_words_and_to_say_nothing(orders: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = orders
    maker = ExampleMaker(corpus, template, Augmentation(), seed=0)
    batches = [maker.batch([0, 2], with_prompts=True) for _ in range(20)]
    assert all(batch.word_lengths[0] > 0 and batch.word_lengths[1] == 0 for batch in batches)
    said = {tuple(batch.after[1][batch.wanted[1].index(True) - len(batch.before[1]) :]) for batch in batches}
    assert said == {tuple(template.target(""))}  # the end, at once
    asked = {tuple(batch.instructions[1]) for batch in batches}
    assert asked == {tuple(template.gate_ids(instruction)) for instruction in (TRANSCRIBE, "")}


def test_what_is_said_in_a_clip_without_transcript_is_not_known(tmp_path: Path) -> None:
    clips = [(Clip("", "librispeech", "train", speaker="a"), np.ones(8_000, np.int16))]
    Corpus.write(tmp_path / "corpus", clips)
    template = PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))
    batch = ExampleMaker(Corpus(tmp_path / "corpus"), template, Augmentation(), seed=0).batch([0], with_prompts=True)
    assert batch.word_lengths.tolist() == batch.phoneme_lengths.tolist() == [-1]


@pytest.fixture
def orders(tmp_path: Path) -> tuple[Corpus, PromptTemplate]:
    sound, words = np.ones(8_000, np.int16), "get me a large mocha with soy milk"
    clips = [(Clip("", "s2i", "train", words, order=MOCHA), sound), (Clip("", "fsdd", "train", "two"), sound)]
    noise = [(Clip("", "noise", "train"), np.full(8_000, 200, np.int16))]
    Corpus.write(tmp_path / "corpus", clips + noise)
    return Corpus(tmp_path / "corpus"), PromptTemplate(load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json")))


def test_orders_are_asked_about_as_often_as_the_recipe_says(orders: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = orders
    spell = template.tokenizer.decode
    asked = ExampleMaker(corpus, template, Augmentation(), seed=0, lessons={"st": 1.0})
    order, digit = (spell(row) for row in asked.batch([0, 1], with_prompts=True).after)
    assert "into German." in order and "einen großen Mokka mit Sojamilch" in order
    assert "German" not in digit  # only orders are asked about
    never = ExampleMaker(corpus, template, Augmentation(), seed=0)
    assert not any("German" in spell(row) for _ in range(10) for row in never.text_batch(4).after)
    half = ExampleMaker(corpus, template, Augmentation(), seed=0, lessons={"sqa": 0.5})
    batches = ["A." in spell(half.text_batch(2).after[0]) for _ in range(200)]
    assert 25 < sum(batches) < 80  # of the half that is orders, half


def test_noise_may_be_people_who_talk(orders: tuple[Corpus, PromptTemplate]) -> None:
    corpus, template = orders
    alone = ExampleMaker(corpus, template, Augmentation(babble=0.0), seed=0)
    assert set(alone.background(20_000).tolist()) == {np.float32(200 / 32768)}
    babble = ExampleMaker(corpus, template, Augmentation(babble=1.0), seed=0).background(20_000)
    assert len(babble) == 20_000 and babble.min() > 0 and 200 / 32768 not in babble.tolist()
