"""The command `wavllm`: where the parts are put together.

Every import of a part waits until its command runs, so that `wavllm play` loads no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from agent.commands.addresses import MICROPHONE, address_here, is_loopback
from agent.commands.models import models
from agent.commands.terminal import console, told_what_to_install
from agent.commands.voices import voices

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from wavllm_core.engine.live import LiveEngine

STARTED_S: Final = time.perf_counter()
PORT: Final = 8710
URL: Final = f"ws://127.0.0.1:{PORT}/v1/realtime"
STATE: Final = Path("~/.local/share/wavllm/mqtt.db")
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
app.add_typer(models)  # without a name: its commands are the app's own
app.add_typer(voices, name="voices")
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
    with told_what_to_install("server"):
        from agent.config import load_config, load_keys

        settings = load_config(config)  # before the model, which takes seconds to import
        keys = load_keys(settings.access, os.environ)
        from agent.transport.frontdoor import PATH
        from agent.transport.server import serve
        from agent.voices.setup import build_speakers

    if host is not None:
        settings = replace(settings, server=replace(settings.server, host=host))
    if port is not None:
        settings = replace(settings, server=replace(settings.server, port=port))
    speakers = build_speakers(settings.speakers, settings.model.checkpoint)
    engine = load_engine(settings)

    def announce(port: int) -> None:
        seconds = time.perf_counter() - STARTED_S
        secure, here = settings.access.certificate is not None, f"{address_here(settings.server.host)}:{port}"
        print(f"Ready after {seconds:.1f} s: {'wss' if secure else 'ws'}://{here}{PATH}", flush=True)
        if settings.server.page:
            print(f"In a browser: {'https' if secure else 'http'}://{here}/", flush=True)
            if not secure and not is_loopback(settings.server.host):
                print(MICROPHONE, flush=True)

    async def run() -> None:
        try:
            await serve(settings, engine, keys=keys, on_ready=announce, speakers=speakers)
        finally:
            await engine.close()

    asyncio.run(run())


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(metavar="FILE", help="That the server wrote: server.recordings.")],
    config: Annotated[Path | None, typer.Option(help="What the server was started with.")] = None,
) -> None:
    """Hold a recorded session again, at full speed, and tell the first byte that is different."""
    with told_what_to_install("server"):
        from agent.config import load_config
        from agent.hearing.vad import find_vad
        from agent.sessions.recording import Recording
        from agent.sessions.replay import replay
        from agent.speech.voice import find_voice
        from agent.transport.server import build_options
        from agent.voices.setup import build_speakers

        settings, recorded = load_config(config), Recording.read(recording)
    speakers = build_speakers(settings.speakers, settings.model.checkpoint)
    options = build_options(settings, find_vad(settings.turns.detector), find_voice, speakers)

    async def run() -> bool:
        engine = load_engine(settings)
        try:
            different = await replay(recorded, engine, options)
        finally:
            await engine.close()
        if different:
            print(f"line {different.line}\n  recorded: {different.recorded}\n  replayed: {different.replayed}")
        return different is None

    if not asyncio.run(run()):
        raise typer.Exit(1)
    print(f"{sum('out' in line for line in recorded.lines)} events, the same to the last byte")


@app.command(context_settings={"ignore_unknown_options": True})
def play(
    lines: Annotated[list[str], typer.Argument(metavar="FILE | --text TEXT ...", help="What to say, in this order.")],
    url: Url = URL,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for an answer.")] = 20.0,
    voice_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Have the replies spoken, into this sound file.")
    ] = None,
) -> None:
    """Stream sound files in real time, as the turns of one conversation.

    Lines may be typed in between: wavllm play order.flac --text "what did i order"
    """
    from clients.file import parse_lines, play

    turns = asyncio.run(play(parse_lines(lines), console(), url, patience, voice_out))
    if not turns or not all(turn.complete and not turn.problem for turn in turns):
        raise typer.Exit(1)


@app.command()
@app.command("talk")
def speaker(
    url: Url = URL,
    device: Annotated[str | None, typer.Option(help="Microphone, by name or number.")] = None,
    output_device: Annotated[str | None, typer.Option(help="Loudspeaker, by name or number.")] = None,
    wake: Annotated[
        list[str] | None, typer.Option(metavar="PHRASE", help="Answer only when called; may come again.")
    ] = None,
    window: Annotated[float, typer.Option(min=0, help="Seconds after a reply in which no call is needed.")] = 8.0,
    push_to_talk: Annotated[bool, typer.Option("--push-to-talk", help="Enter begins and ends what you say.")] = False,
    full_duplex: Annotated[
        bool, typer.Option("--full-duplex", help="Listen while a reply sounds; for headphones.")
    ] = False,
    cancel_echo: Annotated[
        bool, typer.Option("--cancel-echo", help="Likewise, for loudspeakers: needs the extra 'echo'.")
    ] = False,
) -> None:
    """Be a smart speaker: talk with the assistant through a microphone and a loudspeaker."""
    from clients.keyboard import typed_lines
    from clients.speaker import SpeakerOptions, talk

    duplex: Literal["half", "full", "cancel"] = "cancel" if cancel_echo else "full" if full_duplex else "half"
    options = SpeakerOptions(device, output_device, duplex, tuple(wake or ()), window)

    async def run() -> None:
        await talk(console(), url, options, typed_lines() if push_to_talk else None)

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


@app.command(context_settings={"ignore_unknown_options": True})
def meeting(
    lines: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE | --text QUESTION ...]", help="Recordings; none: the microphone."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the record and the minutes.")] = Path("runs/meeting"),
    url: Url = URL,
    mic: Annotated[bool, typer.Option("--mic", help="Listen to the microphone; type questions meanwhile.")] = False,
    device: Annotated[str | None, typer.Option(help="Microphone, by name or number.")] = None,
    speed: Annotated[float, typer.Option(min=0.1, help="At which recordings are played; 1 is real time.")] = 1.0,
) -> None:
    """Show who says what in a meeting, answer questions about it, and write its minutes."""
    from clients.file import parse_lines
    from clients.meeting.run import hold_meeting

    if mic == bool(lines):
        raise typer.BadParameter("either --mic or recordings", param_hint="FILE")
    with suppress(KeyboardInterrupt):
        asyncio.run(hold_meeting(parse_lines(lines or []), console(), out, url, device=device, speed=speed))
    print(f"minutes: {out}/minutes.md, .json and .vtt")


@app.command()
def demo(
    port: Annotated[int | None, typer.Option(help="Of the server; 0: any free one.")] = None,
    stay: Annotated[
        bool | None,
        typer.Option("--stay/--no-stay", help="Leave the server running until Ctrl-C; as it is on a terminal."),
    ] = None,
    home: Annotated[bool, typer.Option("--home", help="Over MQTT, with broker, gateway and coffee machine.")] = False,
) -> None:
    """Start a server, let recorded people talk with it, and sum up."""
    from clients.demo.run import free_port, run_demo

    run = run_demo
    if home:
        with told_what_to_install("home"):
            from clients.demo.home import run_home_demo as run
    if stay is None:
        stay = sys.stdin.isatty() and sys.stdout.isatty() and not home
    if port is None:
        port = free_port(PORT) if stay else 0
    with suppress(KeyboardInterrupt):
        if not run(console(), port, stay):
            raise typer.Exit(1)


@app.command()
def mqtt(
    broker: Broker = BROKER,
    url: Url = URL,
    ca: Certificates = None,
    max_devices: Annotated[int, typer.Option(min=1, help="More are refused.")] = 256,
    idle_seconds: Annotated[float, typer.Option(min=1, help="Of silence, then a conversation is closed.")] = 300.0,
    discovery_prefix: Annotated[str, typer.Option(help="Of Home Assistant; empty: do without.")] = "homeassistant",
    state: Annotated[Path, typer.Option(help="File of what a restart must not forget.")] = STATE,
    hermes_site: Annotated[list[str] | None, typer.Option(help="Of Rhasspy, to be served; may come again.")] = None,
) -> None:
    """Serve devices on an MQTT broker until Ctrl-C: the gateway between them and the server."""
    logging.getLogger().setLevel(logging.INFO)
    with told_what_to_install("mqtt"):
        from clients.mqtt.bridge import BridgeLimits
        from clients.mqtt.broker import PASSWORD_VARIABLE, parse_broker
        from clients.mqtt.gateway import Gateway, GatewaySettings
        from clients.mqtt.store import open_store

    sites = tuple(hermes_site or ())
    settings = GatewaySettings(url, max_devices, discovery_prefix, sites, limits=BridgeLimits(idle_seconds))
    address = parse_broker(broker, os.environ.get(PASSWORD_VARIABLE), ca)
    with suppress(KeyboardInterrupt), open_store(state.expanduser()) as store:
        asyncio.run(Gateway(address, settings, store).run())


@app.command(context_settings={"ignore_unknown_options": True})
def device(
    name: Annotated[str, typer.Argument(help="Of the device: letters, digits, _ and -.")],
    lines: Annotated[list[str], typer.Argument(metavar="FILE | --text TEXT ...", help="What to say, in this order.")],
    broker: Broker = BROKER,
    ca: Certificates = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for a reply.")] = 20.0,
) -> None:
    """Be a device: say sound files and typed lines over MQTT, and print what comes back."""
    with told_what_to_install("mqtt"):
        from clients.device import run_device
        from clients.file import parse_lines
        from clients.mqtt.broker import PASSWORD_VARIABLE, parse_broker

    address = parse_broker(broker, os.environ.get(PASSWORD_VARIABLE), ca)
    answers = asyncio.run(run_device(name, parse_lines(lines), console(), address, patience))
    if not all(answer.complete for answer in answers):
        raise typer.Exit(1)


def load_engine(settings: AgentConfig) -> LiveEngine:
    """The model that the configuration names, at work. Raises CheckpointError."""
    with told_what_to_install("server"):
        from wavllm_core.engine.core import EngineLimits
        from wavllm_core.engine.live import LiveEngine
        from wavllm_core.engine.speculation import SpeculationLimits

    model = settings.model
    limits = EngineLimits(
        conversations=settings.server.max_sessions + 1,  # one may still be leaving
        kv_mib=model.kv_mib,
        threads=model.threads,
        device=model.device,
        dtype=model.dtype,
        speculation=SpeculationLimits(per_utterance=model.speculations),
    )
    return LiveEngine.load(model.checkpoint, limits)


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


if __name__ == "__main__":
    main()
