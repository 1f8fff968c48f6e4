"""What all commands share: options, and errors of one line."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

INTERRUPTED = 130
_HASH = re.compile(r"[0-9a-f]{64}")  # shown by how it begins

Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
Protected = Annotated[
    Path | None, typer.Option(help="List of protected voices, which are refused.")
]
Base = Annotated[
    str, typer.Option("--model", help="Voice model: a folder, or the name of a published one.")
]


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn errors about the user's data, model or installation into one line and exit code 1.

    Others are our own mistakes and keep their traceback. Ctrl-C exits with 130.

    Arguments
    ---------
    debug : bool
        Let every error through with its traceback.

    Example
    -------
    >>> try:
    ...     with one_line_errors(debug=False):
    ...         raise ValueError("clip.wav: holds no samples")
    ... except typer.Exit as stopped:
    ...     stopped.exit_code
    1
    """
    try:
        yield
    except KeyboardInterrupt:
        print("speechcl: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        print(f"speechcl: {_one_line(error)}", file=sys.stderr)
        raise typer.Exit(1) from None


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return _printable(" ".join(text.split())) or type(error).__name__


def _printable(text: str) -> str:
    """Escape what would act on a terminal: texts come from files that anybody can have written."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def protected_voices(file: Path | None) -> Any:
    """Return the list of protected voices in a file, if one is given."""
    if file is None:
        return None
    from speechcl.safety.protected import ProtectedVoices

    return ProtectedVoices.load(file)


def show_table(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table without its empty columns, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    keys = rows[0] if rows else ()
    columns = [key for key in keys if any(row[key] not in ("", None) for row in rows)]
    table = Table(box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[key])) for key in columns))
    Console().print(table if rows else "nothing is there")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = _printable(str("" if value is None else value))
    return f"{text[:12]}..." if _HASH.fullmatch(text) else text
