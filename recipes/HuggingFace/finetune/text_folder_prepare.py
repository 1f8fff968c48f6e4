"""Turns a folder of texts, one subfolder a domain, into the table that train.py reads.

Example: python recipes/HuggingFace/finetune/text_folder_prepare.py my_texts texts.csv
"""

import argparse
import csv
import sys
from pathlib import Path

from speechcl.data import atomic_path

BLOCK_CHARS = 2000  # a row; train.py cuts rows into items


def prepare(folder: Path, file: Path, domains: list[str] | None, most_chars: int) -> int:
    """Write the table; return its number of rows.

    A domain is a subfolder with train.txt and valid.txt, on which it is tested, or test.txt.
    """
    names = domains or sorted(path.parent.name for path in folder.glob("*/train.txt"))
    if not names:
        raise ValueError(f"{folder}: no subfolder has a train.txt")
    rows = []
    for name in names:
        held_out = [folder / name / f"{split}.txt" for split in ("test", "valid")]
        test = next((path for path in held_out if path.is_file()), held_out[1])
        for split, path in (("train", folder / name / "train.txt"), ("test", test)):
            text = path.read_text(encoding="utf-8")[:most_chars]
            rows += [(name, split, block) for block in blocks(text)]
    with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([("task", "split", "text"), *rows])
    return len(rows)


def blocks(text: str) -> list[str]:
    """Cut a text at line ends into blocks of about ``BLOCK_CHARS`` characters."""
    found, size = [[]], 0
    for line in text.splitlines(keepends=True):
        if size >= BLOCK_CHARS:
            found.append([])
            size = 0
        found[-1].append(line)
        size += len(line)
    return [block for block in ("".join(lines).strip() for lines in found) if block]


def main(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--domains", help="names of subfolders, with commas; by default all")
    parser.add_argument("--most_chars", type=int, default=1_000_000, help="of each file")
    given = parser.parse_args(argv)
    domains = given.domains.split(",") if given.domains else None
    try:
        count = prepare(given.folder, given.csv, domains, given.most_chars)
    except (ValueError, OSError) as error:
        print(f"text_folder_prepare.py: {error}", file=sys.stderr)
        return 1
    print(f"{given.csv}: {count} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
