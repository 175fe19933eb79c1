"""The command `wavllm`: where the parts are put together.

Every import of a part waits until its command runs, so that `wavllm play` loads no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

STARTED_S: Final = time.perf_counter()
PORT: Final = 8710
URL: Final = f"ws://127.0.0.1:{PORT}/v1/realtime"
ANSWERS: Final = Path("runs/infer/answers.jsonl")
BROKER: Final = "mqtt://127.0.0.1:1883"
Url = Annotated[str, typer.Option(metavar="URL", help="Address of the server.")]
Broker = Annotated[
    str,
    typer.Option(metavar="URL", help="mqtt://[USER@]HOST[:PORT], or mqtts: for TLS; password in WAVLLM_MQTT_PASSWORD."),
]
Certificates = Annotated[Path | None, typer.Option(help="File of certificates to trust, instead of the system's.")]

app = typer.Typer(
    help="A voice assistant that hears what was said and who said it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
log = logging.getLogger("wavllm")


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="A file like configs/nano.yaml.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the file's.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Likewise; 0: any free one.")] = None,
) -> None:
    """Run the server until Ctrl-C; the shipped model and the defaults need no configuration."""
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("websockets").setLevel(logging.WARNING)  # it takes every health check for a failed handshake
    with _told_what_to_install("server"):
        from agent.config import load_config

        settings = load_config(config)  # before the model, which takes seconds to import
        from agent.server import PATH, serve
        from wavllm_core.engine.live import LiveEngine

    if host is not None:
        settings = replace(settings, server=replace(settings.server, host=host))
    if port is not None:
        settings = replace(settings, server=replace(settings.server, port=port))
    engine = LiveEngine.load(settings.model.checkpoint, settings.model.threads)

    def announce(port: int) -> None:
        seconds = time.perf_counter() - STARTED_S
        print(f"Ready after {seconds:.1f} s: ws://{settings.server.host}:{port}{PATH}", flush=True)

    async def run() -> None:
        try:
            await serve(settings, engine, on_ready=announce)
        finally:
            await engine.close()

    asyncio.run(run())


@app.command(context_settings={"ignore_unknown_options": True})
def play(
    lines: Annotated[list[str], typer.Argument(metavar="FILE | --text TEXT ...", help="What to say, in this order.")],
    url: Url = URL,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for an answer.")] = 20.0,
) -> None:
    """Stream sound files in real time, as the turns of one conversation.

    Lines may be typed in between: wavllm play order.flac --text "what did i order"
    """
    from clients.file import parse_lines, play

    turns = asyncio.run(play(parse_lines(lines), _console(), url, patience))
    if not turns or not all(turn.complete and not turn.problem for turn in turns):
        raise typer.Exit(1)


@app.command()
def talk(
    url: Url = URL,
    device: Annotated[str | None, typer.Option(help="Microphone, by name or number.")] = None,
) -> None:
    """Talk with the assistant through a microphone."""
    from clients.speaker import talk

    with suppress(KeyboardInterrupt):
        asyncio.run(talk(_console(), url, device))


@app.command()
def demo(
    port: Annotated[int | None, typer.Option(help="Of the server; 0: any free one.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """Start a server, let recorded people talk with it, and sum up."""
    from clients.demo.run import run_demo

    if port is None:
        port = PORT if stay else 0
    with suppress(KeyboardInterrupt):
        if not run_demo(_console(), port, stay):
            raise typer.Exit(1)


@app.command()
def mqtt(
    broker: Broker = BROKER,
    url: Url = URL,
    ca: Certificates = None,
    max_devices: Annotated[int, typer.Option(min=1, help="More are refused.")] = 256,
    idle_seconds: Annotated[float, typer.Option(min=1, help="Of silence, then a conversation is closed.")] = 300.0,
    discovery_prefix: Annotated[str, typer.Option(help="Of Home Assistant; empty: do without.")] = "homeassistant",
) -> None:
    """Serve devices on an MQTT broker until Ctrl-C: the gateway between them and the server."""
    logging.getLogger().setLevel(logging.INFO)
    with _told_what_to_install("mqtt"):
        from clients.mqtt.bridge import BridgeLimits
        from clients.mqtt.broker import PASSWORD_VARIABLE, parse_broker
        from clients.mqtt.gateway import Gateway, GatewaySettings

    settings = GatewaySettings(url, max_devices, discovery_prefix, BridgeLimits(idle_seconds))
    gateway = Gateway(parse_broker(broker, os.environ.get(PASSWORD_VARIABLE), ca), settings)
    with suppress(KeyboardInterrupt):
        asyncio.run(gateway.run())


@app.command(context_settings={"ignore_unknown_options": True})
def device(
    name: Annotated[str, typer.Argument(help="Of the device: letters, digits, _ and -.")],
    lines: Annotated[list[str], typer.Argument(metavar="FILE | --text TEXT ...", help="What to say, in this order.")],
    broker: Broker = BROKER,
    ca: Certificates = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for a reply.")] = 20.0,
) -> None:
    """Be a device: say sound files and typed lines over MQTT, and print what comes back."""
    with _told_what_to_install("mqtt"):
        from clients.device import run_device
        from clients.file import parse_lines
        from clients.mqtt.broker import PASSWORD_VARIABLE, parse_broker

    address = parse_broker(broker, os.environ.get(PASSWORD_VARIABLE), ca)
    if not asyncio.run(run_device(name, parse_lines(lines), _console(), address, patience)):
        raise typer.Exit(1)


@app.command()
def prepare(
    packs: Annotated[list[Path], typer.Argument(metavar="PACK...", help="Tar files with a manifest.csv each.")],
    sentences: Annotated[Path, typer.Option(help="Sentences for synthetic speech, one a line.")],
    out: Annotated[Path, typer.Option(help="Folder for the corpus.")] = Path("runs/corpus"),
    orders: Annotated[int, typer.Option(min=0, help="Synthetic coffee orders.")] = 4000,
    digits: Annotated[int, typer.Option(min=0, help="Synthetic digits.")] = 800,
    wake_phrases: Annotated[int, typer.Option(min=0, help="Synthetic wake phrases.")] = 800,
    questions: Annotated[int, typer.Option(min=0, help="Synthetic questions about an order.")] = 1000,
    plain: Annotated[int, typer.Option(min=0, help="Synthetic sentences.")] = 2000,
    seed: int = 7,
) -> None:
    """Lay out recorded packs and synthetic speech for training, and learn a tokenizer from them."""
    logging.getLogger().setLevel(logging.INFO)
    with _told_what_to_install("train"):
        from wavllm_core.train.corpus import Corpus, Synthetic
        from wavllm_core.train.prepare import VOCAB_SIZE, prepare_corpus, prepare_tokenizer

    counts = Synthetic(orders, digits, wake_phrases, questions, plain, seed)
    prepare_corpus(packs, sentences, counts, out)
    prepare_tokenizer(Corpus(out), VOCAB_SIZE, out.parent / "tokenizer.json")


@app.command()
def train(recipe: Annotated[Path, typer.Argument(help="A file of configs/train.")]) -> None:
    """Run one stage of training; a run that was killed goes on from its last checkpoint."""
    logging.getLogger().setLevel(logging.INFO)
    with _told_what_to_install("train"):
        from wavllm_core.train.recipe import Recipe, load_recipe, read_recipe

        if "lists" in read_recipe(recipe):  # each loop brings in only what it needs
            from wavllm_core.train.finetune import FineTuner, FineTuneRecipe

            FineTuner(load_recipe(recipe, FineTuneRecipe)).run()
        else:
            from wavllm_core.train.loop import Trainer

            Trainer(load_recipe(recipe, Recipe)).run()


@app.command()
def transcribe_orders(
    corpus: Annotated[Path, typer.Argument(help="Folder made by prepare.")] = Path("runs/corpus"),
    checkpoint: Annotated[Path, typer.Option(help="Of stage 0.")] = Path("runs/0-encoders/last.pt"),
    model: Annotated[Path, typer.Option(help="Its configuration.")] = Path("configs/train/nano-model.json"),
) -> None:
    """Give the recorded orders of the train split, labelled with slots alone, their likeliest words."""
    logging.getLogger().setLevel(logging.INFO)
    with _told_what_to_install("train"):
        from wavllm_core.train.prepare import transcribe_orders

    print(f"{transcribe_orders(corpus, checkpoint, model)} orders transcribed")


@app.command()
def export(
    trained: Annotated[Path, typer.Argument(help="Checkpoint of the last stage.")],
    out: Annotated[Path, typer.Argument(help="Folder for config, tokenizer and weights.")],
    model: Annotated[Path, typer.Option(help="Its configuration.")] = Path("configs/train/nano-model.json"),
    tokenizer: Annotated[Path, typer.Option(help="Made by prepare.")] = Path("runs/tokenizer.json"),
) -> None:
    """Write a trained model in the form that `serve` loads."""
    with _told_what_to_install("train"):
        from wavllm_core.train.export import export

    export(trained, model, tokenizer, out)


@app.command()
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
    with _told_what_to_install("train"):
        from wavllm_core.hf.convert import Heads, convert

    heads = Heads(semantic_head_dim, llm_head_dim)
    config = convert(source, out, heads, max_shard_mb << 20, "corrected" if corrected else "published", tokenizer)
    if tokenizer is None:
        print("No tokenizer was given: the model is whole, but `infer` and `export-lora` need one.", file=sys.stderr)
    print(f"{out}: {config.profile} profile, {config.text_config.num_hidden_layers} layers of LLM")


@app.command()
def assemble(
    semantic: Annotated[Path, typer.Argument(help="Folder of a Whisper.")],
    acoustic: Annotated[Path, typer.Argument(help="Folder of a WavLM.")],
    llm: Annotated[Path, typer.Argument(help="Folder of a Llama- or Qwen-like language model with its tokenizer.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model, its adapters untrained.")],
) -> None:
    """Build an untrained WavLLM from other people's checkpoints on disk."""
    with _told_what_to_install("train"):
        from wavllm_core.hf.parts import from_parts

    model, processor = from_parts(semantic, acoustic, llm)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{out}: {model.num_parameters():,} parameters, {trained:,} of them to be trained")


@app.command()
def export_lora(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model in Hugging Face form.")],
    out: Annotated[Path, typer.Argument(help="Folder for the adapter.")],
    instruction: Annotated[str, typer.Option(help="The one instruction that the adapter is for.")],
) -> None:
    """Fold the gate of one instruction into a plain peft adapter, for engines that serve those."""
    with _told_what_to_install("train"):
        from wavllm_core.hf.adapters import export_lora
        from wavllm_core.hf.answer import PublishedAnswerer

    answerer = PublishedAnswerer(folder)
    gate = export_lora(answerer.model, answerer.processor.instruction_ids(instruction), out)
    spread = f"{gate.mean():.2f} on average, {gate.min():.2f} to {gate.max():.2f}"
    print(f"{out}: adapter for {instruction!r}; the gate is {spread}")


@app.command()
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
    with _told_what_to_install("train"):
        from wavllm_core.manifest import read_manifest

        rows = read_manifest(manifest, audio_root, task)  # before the model, which takes seconds to import
        import torch

        from wavllm_core.evaluate.answerer import load_answerer
        from wavllm_core.evaluate.answers import Answer, answer_rows
    from rich.progress import Progress

    torch.set_num_threads(threads)
    answerer = load_answerer(model)
    with Progress(console=_console()) as bar:
        answering = bar.add_task("answering", total=len(rows))

        def tell(answer: Answer) -> None:
            bar.console.print(f"{answer.id}: {answer.problem or answer.answer}", style="red" if answer.problem else "")
            bar.advance(answering)

        answers = answer_rows(rows, answerer, out, tell)
    failed = sum(bool(answer.problem) for answer in answers)
    print(f"{len(answers) - failed} of {len(answers)} rows answered, {failed} failed: {out}")
    if failed:
        raise typer.Exit(1)


@app.command("eval")
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
    with _told_what_to_install("train"):
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


def main() -> None:
    """Run the command line; faults end in one line, surprises in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:
        if _is_told_in_a_line(error):
            sys.exit(f"wavllm: {error}")
        log.exception("unexpected error")
        sys.exit(70)  # EX_SOFTWARE


def _is_told_in_a_line(error: Exception) -> bool:
    """Whether the message is for the person at the command line, and a traceback would say no more."""
    from agent.errors import AgentError
    from clients.realtime import ClientError
    from wavllm_core.errors import CoreError

    return isinstance(error, AgentError | ClientError | CoreError)


@contextmanager
def _told_what_to_install(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"wavllm: {error.name} is not installed: pip install 'wavllm-agent[{extra}]'")


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


if __name__ == "__main__":
    main()
