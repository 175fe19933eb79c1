"""The commands around models: prepare, train, convert, export, ask and score them. `__main__.py` adds them to `wavllm`.

Every import of a part waits until its command runs.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.commands.terminal import console, told_what_to_install

ANSWERS: Final = Path("runs/infer/answers.jsonl")

models = typer.Typer()


@models.command()
def prepare(
    packs: Annotated[
        list[Path], typer.Argument(metavar="PACK...", help="Tar files with a manifest.csv each, or TSV lists.")
    ],
    sentences: Annotated[Path, typer.Option(help="Sentences for synthetic speech, one a line.")],
    out: Annotated[Path, typer.Option(help="Folder for the corpus.")] = Path("runs/corpus"),
    orders: Annotated[int, typer.Option(min=0, help="Synthetic coffee orders.")] = 4000,
    digits: Annotated[int, typer.Option(min=0, help="Synthetic digits.")] = 800,
    wake_phrases: Annotated[int, typer.Option(min=0, help="Synthetic wake phrases.")] = 800,
    questions: Annotated[int, typer.Option(min=0, help="Synthetic questions about an order.")] = 1000,
    plain: Annotated[int, typer.Option(min=0, help="Synthetic sentences.")] = 2000,
    keep_out: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A source or speaker to leave out. May be repeated.")
    ] = None,
    seed: int = 7,
) -> None:
    """Lay out recorded packs and synthetic speech for training, and learn a tokenizer from them."""
    logging.getLogger().setLevel(logging.INFO)
    with told_what_to_install("train"):
        from wavllm_core.train.corpus import Corpus, Synthetic
        from wavllm_core.train.prepare import VOCAB_SIZE, prepare_corpus, prepare_tokenizer

    counts = Synthetic(orders, digits, wake_phrases, questions, plain, seed)
    prepare_corpus(packs, sentences, counts, out, frozenset(keep_out or ()))
    prepare_tokenizer(Corpus(out), VOCAB_SIZE, out.parent / "tokenizer.json")


@models.command()
def train(recipe: Annotated[Path, typer.Argument(help="A file of configs/train.")]) -> None:
    """Run one stage of training; a run that was killed goes on from its last checkpoint."""
    logging.getLogger().setLevel(logging.INFO)
    with told_what_to_install("train"):
        from wavllm_core.train.recipe import Recipe, load_recipe, read_recipe

        if "lists" in read_recipe(recipe):  # each loop brings in only what it needs
            from wavllm_core.train.finetune import FineTuner, FineTuneRecipe

            FineTuner(load_recipe(recipe, FineTuneRecipe)).run()
        else:
            from wavllm_core.train.loop import Trainer

            Trainer(load_recipe(recipe, Recipe)).run()


@models.command()
def transcribe_orders(
    corpus: Annotated[Path, typer.Argument(help="Folder made by prepare.")] = Path("runs/corpus"),
    checkpoint: Annotated[Path, typer.Option(help="Of stage 0.")] = Path("runs/0-encoders/last.pt"),
    model: Annotated[Path, typer.Option(help="Its configuration.")] = Path("configs/train/nano-model.json"),
    spliced: Annotated[int, typer.Option(min=0, help="Orders to make of recorded phrases, beside.")] = 0,
) -> None:
    """Give the recorded orders of the train split, labelled with slots alone, their likeliest words."""
    logging.getLogger().setLevel(logging.INFO)
    with told_what_to_install("train"):
        from wavllm_core.train.prepare import splice_orders, transcribe_orders

    print(f"{transcribe_orders(corpus, checkpoint, model)} orders transcribed")
    if spliced:
        print(f"{splice_orders(corpus, checkpoint, model, spliced)} orders spliced")


@models.command()
def export(
    trained: Annotated[Path, typer.Argument(help="Checkpoint of the last stage.")],
    out: Annotated[Path, typer.Argument(help="Folder for config, tokenizer and weights.")],
    model: Annotated[Path, typer.Option(help="Its configuration.")] = Path("configs/train/nano-model.json"),
    tokenizer: Annotated[Path, typer.Option(help="Made by prepare.")] = Path("runs/tokenizer.json"),
    mean_with: Annotated[
        list[Path] | None, typer.Option(help="Another checkpoint; the mean of the weights is written. May be repeated.")
    ] = None,
    adapters_of: Annotated[
        Path | None, typer.Option(help="Folder that the training began from; LoRA and gate alone are written.")
    ] = None,
) -> None:
    """Write a trained model in the form that `serve` loads."""
    if adapters_of and mean_with:
        raise typer.BadParameter("adapters are written of one checkpoint", param_hint="--mean-with")
    with told_what_to_install("train"):
        from wavllm_core.train.export import export, export_adapters

    if adapters_of:
        export_adapters(trained, adapters_of, out)
        return
    export([trained, *(mean_with or [])], model, tokenizer, out)


@models.command()
def fit_voices(
    checkpoint: Annotated[Path, typer.Argument(help="Folder made by export.")],
    out: Annotated[Path, typer.Argument(help="Folder for the same with more in its speaker vector.")],
    corpus: Annotated[Path, typer.Option(help="Folder made by prepare.")] = Path("runs/corpus"),
    seed: int = 0,
) -> None:
    """Let the speaker vector of a trained model tell how people sound, too; then run `wavllm voices calibrate`."""
    with told_what_to_install("train"):
        from wavllm_core.train.corpus import Corpus
        from wavllm_core.train.voices import fit_voices

    fit_voices(checkpoint, Corpus(corpus), out, seed)


@models.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The published final.pt.")],
    out: Annotated[Path, typer.Argument(help="Folder for config, weights and processor.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a Llama tokenizer; without it no processor.")
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Mask padding and keep the true first token, unlike the release.")
    ] = False,
    semantic_head_dim: Annotated[int, typer.Option(min=1, help="Channels of a Whisper head.")] = 64,
    llm_head_dim: Annotated[int, typer.Option(min=1, help="Channels of a Llama head.")] = 128,
    max_shard_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one file of weights.")] = 2048,
) -> None:
    """Bring the published WavLLM checkpoint into Hugging Face form."""
    with told_what_to_install("train"):
        from wavllm_core.hf.convert import Heads, convert

    heads = Heads(semantic_head_dim, llm_head_dim)
    config = convert(source, out, heads, max_shard_mb << 20, "corrected" if corrected else "published", tokenizer)
    if tokenizer is None:
        print("No tokenizer was given: the model is whole, but `infer` and `export-lora` need one.", file=sys.stderr)
    print(f"{out}: {config.profile} profile, {config.text_config.num_hidden_layers} layers of LLM")


@models.command()
def assemble(
    semantic: Annotated[Path, typer.Argument(help="Folder of a Whisper.")],
    acoustic: Annotated[Path, typer.Argument(help="Folder of a WavLM.")],
    llm: Annotated[Path, typer.Argument(help="Folder of a Llama- or Qwen-like language model with its tokenizer.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model, its adapters untrained.")],
    gate: Annotated[bool, typer.Option(help="With the prompt-aware gate; without, for the first stage.")] = True,
    unpadded: Annotated[
        bool, typer.Option("--unpadded", help="Let Whisper hear audio as long as it is, as live encoding needs.")
    ] = False,
) -> None:
    """Build an untrained WavLLM from other people's checkpoints on disk."""
    with told_what_to_install("train"):
        from wavllm_core.hf.parts import from_parts

    model, processor = from_parts(semantic, acoustic, llm, use_gate=gate, windows="unpadded" if unpadded else "padded")
    model.save_pretrained(out)
    processor.save_pretrained(out)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{out}: {model.num_parameters():,} parameters, {trained:,} of them to be trained")


@models.command()
def export_lora(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model in Hugging Face form.")],
    out: Annotated[Path, typer.Argument(help="Folder for the adapter.")],
    instruction: Annotated[str, typer.Option(help="The one instruction that the adapter is for.")],
) -> None:
    """Fold the gate of one instruction into a plain peft adapter, for engines that serve those."""
    with told_what_to_install("train"):
        from wavllm_core.hf.adapters import export_lora
        from wavllm_core.hf.answer import PublishedAnswerer

    answerer = PublishedAnswerer(folder)
    gate = export_lora(answerer.model, answerer.processor.instruction_ids(instruction), out)
    spread = f"{gate.mean():.2f} on average, {gate.min():.2f} to {gate.max():.2f}"
    print(f"{out}: adapter for {instruction!r}; the gate is {spread}")


@models.command()
def infer(
    manifest: Annotated[Path, typer.Argument(help="TSV with columns id, audio, prompt, tgt_text, with_speech.")],
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint, else the shipped one.")] = None,
    audio_root: Annotated[Path | None, typer.Option(help="What relative paths of sound files start from.")] = None,
    out: Annotated[Path, typer.Option(help="For the answers; .tsv: a table, else JSON lines.")] = ANSWERS,
    task: Annotated[str, typer.Option(help="Of rows that do not tell theirs: asr, st, sv, er, ...")] = "",
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Answer a list row by row; rows that cannot be answered are named, and make the exit status 1."""
    if out.resolve() == manifest.resolve():
        raise typer.BadParameter("the manifest would be written over", param_hint="--out")
    with told_what_to_install("train"):
        from wavllm_core.manifest import read_manifest

        rows = read_manifest(manifest, audio_root, task)  # before the model, which takes seconds to import
        import torch

        from wavllm_core.evaluate.answerer import load_answerer
        from wavllm_core.evaluate.answers import Answer, answer_rows
    from rich.progress import Progress

    torch.set_num_threads(threads)
    answerer = load_answerer(model)
    with Progress(console=console()) as bar:
        answering = bar.add_task("answering", total=len(rows))

        def tell(answer: Answer) -> None:
            bar.console.print(f"{answer.id}: {answer.problem or answer.answer}", style="red" if answer.problem else "")
            bar.advance(answering)

        answers = answer_rows(rows, answerer, out, tell)
    failed = sum(bool(answer.problem) for answer in answers)
    print(f"{len(answers) - failed} of {len(answers)} rows answered, {failed} failed: {out}")
    if failed:
        raise typer.Exit(1)


@models.command("eval")
def evaluate(
    source: Annotated[Path, typer.Argument(help="A pack (its dev split), a manifest, or answers of infer.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "--model", help="Folder of a checkpoint, else the shipped one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and all answers.")] = Path("runs/eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="Rows, or clips of each source, at most.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    audio_root: Annotated[Path | None, typer.Option(help="Of a manifest: as for infer.")] = None,
    task: Annotated[str, typer.Option(help="Of a manifest or answers: as for infer.")] = "",
) -> None:
    """Score a checkpoint on recorded people, or the answers to a list."""
    with told_what_to_install("train"):
        import torch

        from wavllm_core.evaluate.command import evaluate, evaluate_list, is_pack
    from rich.status import Status

    with Status("listening") as status:
        if is_pack(source):
            page = evaluate(source, checkpoint, out, limit, threads, status.update)
        else:
            torch.set_num_threads(threads)
            page = evaluate_list(source, checkpoint, audio_root, task, limit, out, status.update)
    print(page)
