"""``speechcl voices``: a folder of enrolled voices, listed, verified, tested, made smaller."""

# Whatever takes long to import is imported inside the commands, so that help comes at once.
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from speechcl.command_line import Base, Debug, one_line_errors, show_table

voices = typer.Typer(no_args_is_help=True, help="Look after the voices in a folder.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of voices.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@voices.command("list", epilog="Example: speechcl voices list voices/")
def list_voices(folder: Folder, as_json: AsJson = False, debug: Debug = False) -> None:
    """List voices: who agreed, since when, from how much speech, of which base."""
    with one_line_errors(debug):
        from speechcl.inference.voice_registry import VoiceRegistry

        rows = VoiceRegistry(folder).records()
        columns = ("voice", "consent", "date", "speech_s", "mb", "fingerprint", "problem")
        show_table([{key: row.get(key, "") for key in columns} for row in rows], as_json)


@voices.command(epilog="Example: speechcl voices verify voices/")
def verify(
    folder: Folder, model: Base = "usat_small", as_json: AsJson = False, debug: Debug = False
) -> None:
    """Load every voice beside the base; exit with 1 if one is broken or without a consent."""
    with one_line_errors(debug):
        from speechcl.inference import VoiceCloner
        from speechcl.inference.voice_registry import VoiceRegistry

        registry = VoiceRegistry(folder)
        problems = registry.verify(VoiceCloner.from_pretrained(model))
        rows = [{"voice": name, "problem": problems.get(name, "")} for name in registry.voices()]
        show_table(rows, as_json)
        if problems:
            raise typer.Exit(1)


@voices.command("test", epilog="Example: speechcl voices test voices/ --most-db 1")
def speak_again(
    folder: Folder,
    model: Base = "usat_small",
    least_similarity: Annotated[float, typer.Option(help="Of who speaks, to the first.")] = 0.9,
    most_duration: Annotated[float, typer.Option(help="Change of a length, as a share.")] = 0.05,
    most_db: Annotated[float, typer.Option(help="Difference of spectrograms.")] = 1.0,
    accept: Annotated[
        bool, typer.Option("--accept", help="Compare later tests with what is said now.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let every voice speak and compare with its first test; exit with 1 beyond a limit."""
    with one_line_errors(debug):
        from speechcl.inference.voice_registry import Limits

        _speak_again(
            folder, model, Limits(least_similarity, most_duration, most_db), accept, as_json
        )


def _speak_again(folder: Path, model: str, limits: Any, accept: bool, as_json: bool) -> None:
    from speechcl.inference import VoiceCloner
    from speechcl.inference.voice_registry import VoiceRegistry, as_rows
    from speechcl.safety.verifier import SpeakerVerifier

    registry, cloner = VoiceRegistry(folder), VoiceCloner.from_pretrained(model)
    try:
        verifier = SpeakerVerifier()
    except ImportError as error:
        print(f"who speaks is not compared: {error}", file=sys.stderr)
        verifier = None
    rows = as_rows(registry.test(cloner, verifier), limits)
    show_table([{**row, "beyond": " ".join(row["beyond"])} for row in rows], as_json)
    if rows and all(row["duration"] is None for row in rows):
        print("what was said is kept: the next test compares with it", file=sys.stderr)
    if accept:
        registry.accept(cloner)
    elif any(row["beyond"] for row in rows):
        raise typer.Exit(1)


@voices.command(epilog="Example: speechcl voices remove voices/ ann")
def remove(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Of the voice.")],
    model: Base = "usat_small",
    debug: Debug = False,
) -> None:
    """Delete a voice, and show that the base is byte for byte what it was enrolled on."""
    with one_line_errors(debug):
        _remove(folder, name, model)


@voices.command(epilog="Example: speechcl voices protect protected.safetensors ann clips/*.wav")
def protect(
    file: Annotated[Path, typer.Argument(help="List of protected voices, made if need be.")],
    name: Annotated[str, typer.Argument(help="Whose voice it is.")],
    recordings: Annotated[list[Path], typer.Argument(help="Recordings of the voice.")],
    debug: Debug = False,
) -> None:
    """Add a voice to a list that say and enroll refuse, given as --protected."""
    with one_line_errors(debug):
        from speechcl.data.audio import read_audio
        from speechcl.safety.protected import ProtectedVoices
        from speechcl.safety.verifier import SpeakerVerifier

        listed = ProtectedVoices.load(file) if file.exists() else ProtectedVoices()
        sounds = ((read_audio(path, 16_000), 16_000) for path in recordings)
        listed.add_recordings(name, sounds, SpeakerVerifier())
        listed.save(file)
        print(f"{file}: {', '.join(listed.names)}")


def _remove(folder: Path, name: str, model: str) -> None:
    from speechcl.inference import VoiceCloner
    from speechcl.inference.voice_registry import VoiceRegistry

    registry, base = VoiceRegistry(folder), VoiceCloner.from_pretrained(model).fingerprint
    record = registry.remove(name)
    print(f"removed {name}; {len(registry.voices())} voices are left in {folder}")
    if record.get("fingerprint") != base:
        raise ValueError(
            f"{name} is removed, but {model} is not the base that it was enrolled on, so nothing "
            "can be said of that one: give it as --model next time"
        )
    print(f"{model} is byte for byte what it was when {name} was enrolled: SHA-256 {base}")
