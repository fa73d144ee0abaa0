"""`rtnet show`: what is in a prepared dataset, and a contact sheet of it."""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rtnet.errors import UserError

if TYPE_CHECKING:
    from pipelines.dataset import Dataset

_SECONDS_BETWEEN_LINES = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="folder or URI that `rtnet prepare` made")
    parser.add_argument("sequence", metavar="SEQUENCE", nargs="?", help="NAME, SPLIT/NAME or DATASET/SPLIT/NAME")
    parser.add_argument("--sheet", metavar="PATH", help="where the contact sheet goes; default: NAME-sheet.png, here")
    parser.add_argument("--digest", action="store_true", help="check every picture and print a digest of the content")


def run_command(options: argparse.Namespace) -> None:
    """Prints and draws. Raises UserError for what is no dataset, an unknown sequence, and a damaged picture."""
    from pipelines.contact_sheet import contact_sheet
    from pipelines.contents import frames_and_flips, one_frame_of_each, print_sequence, print_sources, sequence_rows
    from pipelines.dataset import Dataset
    from pipelines.storage import absolute

    dataset = Dataset(absolute(options.dataset))
    if options.digest:
        print(f"digest {content_digest(dataset)}")
        return
    if options.sequence is None:
        print_sources(dataset)
        shown = one_frame_of_each(dataset)
    else:
        rows = sequence_rows(dataset, options.sequence)
        print_sequence(dataset, rows)
        shown = frames_and_flips(dataset, rows)
    name = "-".join(filter(None, [Path(options.dataset.split("?")[0]).name, options.sequence]))
    target = Path(options.sheet or f"{name.replace('/', '-')}-sheet.png")
    try:
        target.write_bytes(contact_sheet(dataset, shown))
    except OSError as error:
        raise UserError(f"{target}: {error.strerror}: give another place with --sheet") from error
    print(f"contact sheet (frame with annotation, forward flow, backward flow): {target}")


def content_digest(dataset: "Dataset") -> str:
    """SHA-256, in hex, of all rows and pictures, read and checked; the same however they lie in files.

    Raises UserError naming the file of a picture that is not what the index says.
    """
    from pipelines.dataset import KEYS
    from pipelines.dataset_writer import picture_digest

    facts, shown = [], time.monotonic()
    names = [name for name, _ in KEYS]
    for number, row in enumerate(dataset.index.select(names).to_pylist()):
        if picture_digest(dataset.read_encoded(number)) != row["digest"]:
            file = dataset.column("file")[number]
            raise UserError(
                f"{dataset.uri}/{file}: a picture of {row['sequence']}/{row['name']} ({row['view']}) is damaged: "
                "delete this file and index.parquet, and run `rtnet prepare` again"
            )
        facts.append([str(row[name]) for name in names])
        if time.monotonic() - shown > _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            print(f"[{number + 1}/{dataset.index.num_rows}] pictures are as the index says", flush=True)
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()
