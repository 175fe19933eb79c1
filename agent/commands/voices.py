"""`wavllm voices`: who is known by voice. Every import of a part waits until its command runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.commands.terminal import told_what_to_install

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.voices.listening import Recording
    from agent.voices.people import Match, People, Sample

voices = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Of the person; letter case does not matter.")]
SoundFile = Annotated[Path, typer.Argument(metavar="FILE", help="A recording of one person.")]


@voices.callback(help="Enrol, identify and forget people by voice.")
def choose_config(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="The server's file, like configs/nano.yaml.")] = None,
) -> None:
    """Read the configuration that all of them share."""
    if context.resilient_parsing:
        return
    with told_what_to_install("server"):
        from agent.config import load_config

    context.obj = load_config(config)


@voices.command()
def enrol(
    context: typer.Context,
    name: Name,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Three utterances or more, alone and clear.")],
) -> None:
    """Remember a voice; vectors are kept, recordings are not."""
    from agent.voices.people import check_voicing

    people, recordings = _people(context.obj), _read(files, enrol=True)
    check_voicing({recording.label: recording.voicing for recording in recordings})  # before the model is loaded
    person = people.enrol(name, _hear(context.obj, recordings, enrol=True))
    print(f"{person.name} is known from {len(person.vectors)} utterances")


@voices.command("list")
def list_people(context: typer.Context) -> None:
    """Tell who is known."""
    from agent.voices.spelling import folded

    people = _people(context.obj)
    for person in sorted([*people.known, *people.refused], key=lambda person: folded(person.name)):
        foreign = "  enrolled with another model: enrol again" if person in people.refused else ""
        print(f"{person.name}  {len(person.vectors)} utterances  {person.enrolled}{foreign}")


@voices.command()
def rename(context: typer.Context, name: Name, new_name: Annotated[str, typer.Argument(metavar="NEW_NAME")]) -> None:
    """Give somebody another name."""
    print(f"{name} is now {_people(context.obj).rename(name, new_name).name}")


@voices.command()
def forget(context: typer.Context, name: Name) -> None:
    """Take somebody out for good."""
    print(f"{_people(context.obj).forget(name).name} is forgotten")


@voices.command()
def identify(context: typer.Context, file: SoundFile) -> None:
    """Tell who speaks; exit status 1 when it is nobody known."""
    people = _people(context.obj)
    match = people.identify(_hear(context.obj, _read([file]))[0].vector)
    if match is None:
        print("unknown: nobody is enrolled")
    else:
        print("" if match.accepted else "unknown; nearest is ", _likeness(match), sep="")
    if match is None or not match.accepted:
        raise typer.Exit(1)


@voices.command()
def verify(context: typer.Context, name: Name, file: SoundFile) -> None:
    """Tell whether it is this person; exit status 1 when not."""
    match = _people(context.obj).verify(name, _hear(context.obj, _read([file]))[0].vector)
    print("yes:" if match.accepted else "no:", _likeness(match))
    if not match.accepted:
        raise typer.Exit(1)


@voices.command()
def new_key(path: Annotated[Path, typer.Argument(metavar="FILE", help="To be made, for speakers.key_file.")]) -> None:
    """Make a key that encrypts the registry; whoever loses it loses the registry."""
    with told_what_to_install("server"):
        from cryptography.fernet import Fernet

    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(Fernet.generate_key().decode() + "\n")
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="FILE") from error
    print(f"{path}: keep it apart from the registry")


@voices.command()
def calibrate(
    pack: Annotated[Path, typer.Argument(help="Tar file with a manifest.csv that names speakers.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of a rolling model, else the shipped one.")] = None,
    source: Annotated[str, typer.Option(help="Of the clips.")] = "so762",
    split: Annotated[str, typer.Option(help="Of the clips; not one that was trained on.")] = "dev",
) -> None:
    """Measure how alike two utterances of one voice are, and put that beside the weights, as voices.json."""
    with told_what_to_install("train"):
        from wavllm_core.checkpoint import NANO
        from wavllm_core.evaluate.calibrate import calibrate
        from wavllm_core.voices import save_scale

    scale = calibrate(pack, checkpoint or NANO, source, split)
    path = save_scale(checkpoint or NANO, scale)
    print(f"{path}: EER {scale.eer_percent} % at a similarity of {scale.same_similarity}; {scale.measured_on}")


def _people(config: AgentConfig) -> People:
    from agent.voices.setup import build_scale, open_people

    return open_people(config.speakers, build_scale(config.speakers, config.model.checkpoint))


def _read(files: list[Path], *, enrol: bool = False) -> list[Recording]:
    from agent.voices.listening import read_recordings
    from agent.voices.setup import build_detector

    return read_recordings(files, build_detector() if enrol else None)


def _hear(config: AgentConfig, recordings: list[Recording], *, enrol: bool = False) -> list[Sample]:
    """What the model makes of recordings."""
    from agent.voices.enrolment import hear_samples
    from wavllm_core.engine.core import EngineLimits
    from wavllm_core.engine.live import LiveEngine

    model = config.model
    limits = EngineLimits(conversations=1, kv_mib=model.kv_mib, threads=model.threads, device=model.device)
    engine = LiveEngine.load(model.checkpoint, limits)

    async def hear() -> list[Sample]:
        try:
            return await hear_samples(engine, recordings, by_parts=enrol)
        finally:
            await engine.close()

    return asyncio.run(hear())


def _likeness(match: Match) -> str:
    return f"{match.person.name}  similarity {match.similarity:.2f}  confidence {match.confidence:.2f}"
