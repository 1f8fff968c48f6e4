"""The ``speechcl`` command: every subcommand is a thin layer over one library call."""

# Whatever takes long to import is imported inside the commands, so that help comes at once.
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from speechcl.command_line import (
    Base,
    Debug,
    Protected,
    one_line_errors,
    protected_voices,
    show_table,
)
from speechcl.voices_cli import voices

SPOOF_CLIP_S = 4.0
_DETECTED = ("file", "made_by", "watermark", "voice", "date")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(voices, name="voices")


def main() -> None:
    """Run the command line.

    Example
    -------
    >>> import pytest
    >>> monkeypatch = getfixture("monkeypatch")
    >>> monkeypatch.setattr(sys, "argv", ["speechcl", "--version"])
    >>> with pytest.raises(SystemExit) as stopped:
    ...     main()
    speechcl ...
    >>> stopped.value.code
    0
    """
    app(prog_name="speechcl")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"speechcl {importlib.metadata.version('speechcl')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A speech toolkit that keeps learning without forgetting."""


@app.command(epilog="Example: speechcl spoof recordings/ --attack griffin_lim,world --out spoofed/")
def spoof(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR...", help="Folders or manifests of genuine speech."),
    ] = None,
    attack: Annotated[
        str, typer.Option(help="Attacks to make, separated by commas; see --list.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the clips and their manifest.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same clips.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 2,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken clips out instead of stopping.")
    ] = False,
    list_attacks: Annotated[bool, typer.Option("--list", help="List the attacks.")] = False,
    debug: Debug = False,
) -> None:
    """Make spoofed copies of genuine speech."""
    with one_line_errors(debug):
        if list_attacks:
            _print_attacks()
        else:
            _spoof(sources or [], _attack_names(attack), out, seed, workers, skip_broken)


def _print_attacks() -> None:
    from rich.console import Console
    from rich.table import Table

    from speechcl.attacks import ATTACKS

    table = Table("attack", "family", "description", box=None)
    for name, attack in ATTACKS.items():
        table.add_row(name, attack.family, attack.description)
    Console().print(table)


def _attack_names(text: str) -> list[str]:
    from speechcl.attacks import ATTACKS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in ATTACKS]
    if unknown or not names:
        problem = f"unknown: {', '.join(unknown)}" if unknown else "none given"
        raise typer.BadParameter(
            f"{problem}; choose among {', '.join(ATTACKS)}", param_hint="--attack"
        )
    return names


def _spoof(
    sources: list[Path],
    attacks: list[str],
    out: Path | None,
    seed: int,
    workers: int,
    skip_broken: bool,
) -> None:
    if not sources:
        raise typer.BadParameter("give at least one", param_hint="DIR")
    if out is None:
        raise typer.BadParameter("give a folder for the spoofed clips", param_hint="--out")
    for source in sources:
        # The next run would take the spoofed clips in there for genuine ones.
        if out.resolve().is_relative_to(source.resolve()):
            raise typer.BadParameter(f"{out} lies inside {source}", param_hint="--out")
    from speechcl.data.corpus import build_attack_corpus
    from speechcl.data.scan import scan_folder

    genuine = scan_folder(sources, skip_broken=skip_broken)
    build_attack_corpus(
        genuine, attacks, out, seed=seed, workers=workers, max_duration_s=SPOOF_CLIP_S
    )
    print(f"{len(genuine)} genuine clips, {len(attacks)} attacks: {out}")


@app.command(epilog='Example: speechcl say "Good morning." --reference clip.wav -o morning.wav')
def say(
    text: Annotated[str, typer.Argument(help="What to say, in English; - reads it from stdin.")],
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recording of the voice, 0.5 s of speech to 10 min; several are averaged."
        ),
    ] = None,
    voice: Annotated[Path | None, typer.Option(help="File of an enrolled voice instead.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Sound to write: .wav, .flac, .ogg or .mp3.")
    ] = Path("speech.wav"),
    accent: Annotated[str, typer.Option(help="Whose pronunciation.")] = "American",
    length_scale: Annotated[float, typer.Option(help="Above 1 for slower speech.")] = 1.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="The same seed says it the same way.")
    ] = 0,
    model: Base = "usat_small",
    protected: Protected = None,
    debug: Debug = False,
) -> None:
    """Speak a text in the voice of a recording, or in an enrolled one."""
    with one_line_errors(debug):
        options = {"accent": accent, "length_scale": length_scale, "seed": seed}
        text = sys.stdin.read() if text == "-" else text
        _say(text, reference, voice, output, model, protected, options)


def _say(
    text: str,
    references: list[Path] | None,
    voice: Path | None,
    output: Path,
    model: str,
    protected: Path | None,
    options: dict[str, Any],
) -> None:
    if bool(references) == bool(voice):
        raise typer.BadParameter("give one or the other", param_hint="--reference, --voice")
    if output.resolve() in [path.resolve() for path in references or []]:
        raise typer.BadParameter(f"{output} is the recording of the voice", param_hint="--output")
    from speechcl.inference import VoiceCloner
    from speechcl.safety.provenance import check_target, describe, write_speech

    check_target(output)  # before a model is read and a long text is spoken
    cloner = VoiceCloner.from_pretrained(model, protected=protected_voices(protected))
    check_target(output, cloner.rate_hz)
    for path in references or []:
        for remark in cloner.hear(path)[0].remarks:
            print(f"{path} {remark}", file=sys.stderr)
    options |= {"reference": references} if references else {"voice": voice}
    spoken = cloner.say(text, progress=True, **options)
    fields = describe(text, voice.stem if voice else "reference", cloner.fingerprint)
    write_speech(output, spoken, cloner.rate_hz, fields)
    print(f"{output}: {len(spoken) / cloner.rate_hz:.1f} s")


@app.command(
    epilog='Example: speechcl enroll --recordings ann/ --name ann --consent "Ann Lee, by letter"'
)
def enroll(
    recordings: Annotated[
        list[Path], typer.Option(help="Clips of one speaker with transcripts: a.wav and a.txt.")
    ],
    name: Annotated[str, typer.Option(help="Of the voice.")],
    consent: Annotated[str, typer.Option(help="Who agreed and how; kept in the voice's file.")],
    out: Annotated[Path, typer.Option(help="Folder of voices.")] = Path("voices"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the clips, at most.")] = 30,
    model: Base = "usat_small",
    protected: Protected = None,
    debug: Debug = False,
) -> None:
    """Learn a voice from minutes of speech into a small file; no other voice changes."""
    with one_line_errors(debug):
        _enroll(recordings, name, consent, out, epochs, model, protected)


def _enroll(
    recordings: list[Path],
    name: str,
    consent: str,
    out: Path,
    epochs: int,
    model: str,
    protected: Path | None,
) -> None:
    from speechcl.inference import VoiceCloner

    cloner = VoiceCloner.from_pretrained(model, protected=protected_voices(protected))
    found = cloner.enroll(recordings, name, consent=consent, folder=out, epochs=epochs)
    for remark in found.remarks:
        print(remark, file=sys.stderr)
    print(
        f"{found.file}: {found.file.stat().st_size / 1e6:.2f} MB, from {found.clips} clips, "
        f"{found.speech_s:.0f} s; {found.before_db:.2f} dB from the recordings before, "
        f"{found.after_db:.2f} dB after"
    )


@app.command(epilog="Example: speechcl detect clips/ more/a.mp3 --json")
def detect(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER...", help="Sound files, or folders."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Tell which files speechcl has made: by what they say of themselves, and by a watermark."""
    with one_line_errors(debug):
        from speechcl.safety.detection import detect_files

        rows = detect_files(sources)
        if not as_json:  # figures are for machines
            rows = [{key: row[key] for key in _DETECTED} for row in rows]
            rows = [row | {"made_by": row["made_by"] or "unknown"} for row in rows]
        show_table(rows, as_json)


@app.command(epilog="Example: speechcl report results/rwm results/fine_tune -o report.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write.")] = Path(
        "report.html"
    ),
    debug: Debug = False,
) -> None:
    """Compare runs side by side, as a table here and as a web page."""
    with one_line_errors(debug):
        _report(runs, output)


def _report(runs: list[Path], output: Path) -> None:
    from speechcl.reports import render_report, summary_table

    render_report(runs, output)
    print(summary_table(runs))
    print(f"\n{output}")


@app.command(epilog="Example: speechcl doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, devices and missing extras with their remedy; exit with 1 on a problem."""
    with one_line_errors(debug):
        _doctor(as_json)


def _doctor(as_json: bool) -> None:
    from speechcl.doctor import describe, examine

    found = examine()
    print(json.dumps(found, indent=2) if as_json else describe(found))
    if found["problems"]:
        raise typer.Exit(1)


@app.command(
    epilog="Example: speechcl compare recipes/OwnSpeech/detection/study.yaml --data_folder mine/",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def compare(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Methods and seeds to run.")],
    debug: Debug = False,
) -> None:
    """Run methods x seeds of a recipe and compare them; other --key value go to every run.

    An interrupted study goes on where it stopped.
    """
    with one_line_errors(debug):
        _compare(study, context.args)


def _compare(file: Path, overrides: list[str]) -> None:
    from speechcl.reports import summary_table
    from speechcl.study import read_study, run_study, write_study

    study = read_study(file)
    folders = run_study(study, overrides)
    page = write_study(study, folders)
    print(f"\n{summary_table(folders)}\n\n{page}")
