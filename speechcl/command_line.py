"""What all commands share: options, and errors of one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

INTERRUPTED = 130

Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
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
    return " ".join(text.split()) or type(error).__name__
