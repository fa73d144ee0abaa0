"""`rtnet models`: look registered models up, and move aliases between their versions."""

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.registry import ModelVersion

_DEFAULT_STORE = "sqlite:///runs/mlflow.db"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions list, show and promote."""
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--tracking",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI", _DEFAULT_STORE),
        help="MLflow's tracking URI (default: MLFLOW_TRACKING_URI, else %(default)s)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("list", parents=[store], help="all versions, of one model or of all")
    action.add_argument("name", nargs="?", metavar="NAME")
    action = actions.add_parser("show", parents=[store], help="all that is known of one version")
    action.add_argument("model", metavar="NAME@ALIAS|NAME/VERSION")
    action = actions.add_parser("promote", parents=[store], help="point an alias to a version")
    action.add_argument("model", metavar="NAME/VERSION")
    action.add_argument("alias", metavar="ALIAS")


def run_command(arguments: argparse.Namespace) -> None:
    """Does one action. Raises UserError naming what the store does not have."""
    from pipelines.registry import list_versions, promote, resolve_model
    from pipelines.tracking import absolute_store, open_store

    uri = absolute_store(arguments.tracking)
    open_store(uri)
    if arguments.action == "list":
        _print_list(uri, list_versions(uri, arguments.name))
    elif arguments.action == "show":
        _print_version(resolve_model(uri, arguments.model))
    else:
        model = resolve_model(uri, arguments.model)
        promote(uri, model, arguments.alias)
        print(f"models:/{model.name}@{arguments.alias} is now version {model.version}")


def _print_list(uri: str, versions: "Sequence[ModelVersion]") -> None:
    if not versions:
        print(f"no registered models in {uri}")
        return
    rows = [("model", "version", "aliases", "created (UTC)", "run", "sha256")]
    for found in versions:
        aliases = ", ".join(found.aliases) or "-"
        rows.append((found.name, str(found.version), aliases, _time(found), found.run_id[:8], found.digest[:12] or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_version(found: "ModelVersion") -> None:
    facts = {
        "model": found.uri,
        "aliases": ", ".join(found.aliases) or "-",
        "created": f"{_time(found)} UTC",
        "run": found.run_id or "-",
        "source": found.source,
        "sha256": found.digest or "-",
        **dict(sorted(found.tags.items())),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {value}")


def _time(found: "ModelVersion") -> str:
    return datetime.fromtimestamp(found.created, UTC).strftime("%Y-%m-%d %H:%M")
