"""`rtnet models`: the registry of models; what is in it, which is better, what goes in and comes out.

`load` gives a registered model to Python.
"""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.store_option import add_store_option, default_store
from rtnet.errors import UserError

if TYPE_CHECKING:
    from rtnet.model.network import Network
    from rtnet.segmenter import Segmenter


def load(model: str, tracking: str | None = None, device: str | None = None, height: int = 384) -> "Segmenter":
    """What `rtnet.load` gives, of models:/NAME@ALIAS or models:/NAME/VERSION: `load(...).segment(frames)`.

    tracking: MLflow's tracking URI; None for MLFLOW_TRACKING_URI, else runs/mlflow.db. device: None for a GPU where
    there is one. height: as of `rtnet.load`. Raises UserError where the store does not have the model or its file is
    not the one registered.
    """
    import rtnet
    from pipelines.registry import download_model, resolve_model
    from pipelines.tracking import absolute_store

    uri = absolute_store(tracking or default_store())
    with tempfile.TemporaryDirectory() as scratch:
        return rtnet.load(download_model(uri, resolve_model(uri, model), Path(scratch)), device, height)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions, each with where the store is."""
    store = argparse.ArgumentParser(add_help=False)
    add_store_option(store)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, purpose: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, parents=[store], help=purpose, description=purpose)

    any_version = "NAME@ALIAS|NAME/VERSION"
    one = action("list", "all versions, of one model or of all")
    one.add_argument("name", nargs="?", metavar="NAME")
    one = action("show", "one version: recipe, data, scores, where it comes from")
    one.add_argument("model", metavar=any_version)
    one = action("compare", "two versions side by side")
    one.add_argument("first", metavar=any_version)
    one.add_argument("second", metavar=any_version)
    one = action("promote", "point an alias to a version that scores no less than the one that has it")
    one.add_argument("model", metavar=any_version)
    one.add_argument("alias", metavar="ALIAS")
    one.add_argument("--evaluation", metavar="NAME", help="whose J&F decides; by default the only one that both have")
    one.add_argument("--force", action="store_true", help="promote whatever the scores are; kept with the version")
    one = action("import", "register the network of a published .pth, or a .safetensors or .pt of ours")
    one.add_argument("file", metavar="FILE", help="or a URI")
    one.add_argument(
        "--name", default="rtnet", help="of the model (default: %(default)s); -STREAM is added to a stream"
    )
    one.add_argument("--alias", metavar="ALIAS", help="that points to it; one that another version has goes by promote")
    one = action("export", "write a version as .safetensors, .pt2 (torch.export) or .onnx; the suffix says which")
    one.add_argument("model", metavar=any_version)
    one.add_argument("output", metavar="FILE", help="or a URI")
    one.add_argument(
        "--check", type=Path, metavar="CLIP", help="video or frames to compare its maps on (a made-up one)"
    )


def run_command(arguments: argparse.Namespace) -> None:
    """Does one action. Raises UserError naming what is missing or refused."""
    from pipelines.tracking import absolute_store, open_store

    uri = absolute_store(arguments.tracking)
    if arguments.action == "import":
        _import(uri, arguments)
        return
    open_store(uri)
    {"list": _list, "show": _show, "compare": _compare, "promote": _promote, "export": _export}[arguments.action](
        uri, arguments
    )


def _list(uri: str, arguments: argparse.Namespace) -> None:
    from pipelines.model_text import list_lines
    from pipelines.registry import list_versions
    from pipelines.tracking import explained

    with explained(uri):
        versions = list_versions(uri, arguments.name)
    print("\n".join(list_lines(versions)) if versions else f"no registered models in {uri}")


def _show(uri: str, arguments: argparse.Namespace) -> None:
    from pipelines.lineage import lineage_of
    from pipelines.model_text import show_lines
    from pipelines.registry import resolve_model

    model = resolve_model(uri, arguments.model)
    print("\n".join(show_lines(model, lineage_of(uri, model))))


def _compare(uri: str, arguments: argparse.Namespace) -> None:
    from pipelines.lineage import lineage_of
    from pipelines.model_text import compare_lines
    from pipelines.registry import resolve_model

    first, second = (resolve_model(uri, model) for model in (arguments.first, arguments.second))
    print("\n".join(compare_lines((first, lineage_of(uri, first)), (second, lineage_of(uri, second)))))


def _promote(uri: str, arguments: argparse.Namespace) -> None:
    from pipelines.promotion import promote
    from pipelines.registry import check_alias, resolve_model

    check_alias(arguments.alias, "ALIAS")
    model = resolve_model(uri, arguments.model)
    said = promote(uri, model, arguments.alias, arguments.evaluation, arguments.force)
    print(f"models:/{model.name}@{arguments.alias} is now version {model.version}: {said}")


def _import(uri: str, arguments: argparse.Namespace) -> None:
    from pipelines.model_import import import_model
    from pipelines.registry import check_alias, check_name
    from pipelines.storage import local_copy

    check_name(arguments.name, "--name")
    if arguments.alias is not None:
        check_alias(arguments.alias, "--alias")
    with tempfile.TemporaryDirectory() as scratch:
        file = local_copy(arguments.file, Path(scratch))
        model, new = import_model(uri, file, arguments.name, arguments.alias)
    what = "is registered as" if new else "was registered before: nothing new; it is"
    aliases = f" ({', '.join(model.aliases)})" if model.aliases else ""
    print(f"{arguments.file} {what} {model.uri}{aliases}: {model.tags['backbone']}, sha256 {model.digest[:12]}")


def _export(uri: str, arguments: argparse.Namespace) -> None:
    from pipelines.storage import open_storage, refuse_existing, write_whole
    from rtnet.export import SIZES, TOLERANCE, check_output, export_model

    with tempfile.TemporaryDirectory() as scratch:
        remote = "://" in arguments.output
        output = Path(scratch, arguments.output.rsplit("/", 1)[-1]) if remote else Path(arguments.output).expanduser()
        check_output(output)  # before the network is fetched
        refuse_existing(arguments.output)
        error = export_model(_network(uri, arguments.model), output, arguments.check, SIZES)
        size = output.stat().st_size / 2**20
        if remote:
            write_whole(*open_storage(arguments.output), output.read_bytes())
    clip = arguments.check or "a generated clip"
    print(
        f"{arguments.output}: {size:.1f} MiB; its maps on {clip}, two sizes and two batch sizes, "
        f"differ from the network's by {error:.1e} (allowed {TOLERANCE})"
    )


def _network(uri: str, model: str) -> "Network":
    from pipelines.registry import download_model, resolve_model
    from rtnet.checkpoint import load_network

    with tempfile.TemporaryDirectory() as scratch:
        path = download_model(uri, resolve_model(uri, model), Path(scratch))
        try:
            return load_network(path)
        except UserError as error:
            raise UserError(f"{model}: {error}") from error
