"""A file becomes a registered model: published checkpoints, and model files and checkpoints of our own."""

import tempfile
from pathlib import Path

from pipelines import registry
from pipelines.registry import MODEL_FILE, ModelVersion, file_digest
from pipelines.tracking import explained, open_store, start_plain_run
from rtnet.checkpoint import load_network, save_model
from rtnet.errors import UserError
from rtnet.model.network import Network

_ORIGIN_DIGEST = "origin.sha256"


def import_model(uri: str, file: Path, name: str, alias: str | None = None) -> tuple[ModelVersion, bool]:
    """The version that holds the file's network, and whether it is new: the same file is registered once.

    file: what `rtnet.checkpoint.load_network` reads, none of which can run code. name: one stream alone goes to
    NAME-appearance or NAME-motion. alias: then points to it, unless another version has it: that is for `promote`. An
    SQLite store is made where there is none. Raises UserError for another file and an alias that is taken.
    """
    network = load_network(file)
    digest = file_digest(file)
    streams = network.config.streams
    name = name if streams == "both" else f"{name}-{streams}"
    open_store(uri, create=True)
    with explained(uri):
        versions = registry.list_versions(uri, name) if name in registry.model_names(uri) else []
    known = next((found for found in versions if found.tags.get(_ORIGIN_DIGEST) == digest), None)
    for found in versions:
        if alias in found.aliases and found != known:
            raise UserError(f"{alias} is version {found.version} of {name}: import without --alias, then promote")
    number = _register(uri, network, name, file.name, digest) if known is None else known.version
    model = registry.resolve_model(uri, f"{name}/{number}")
    if alias is not None:
        registry.set_alias(uri, model, alias)
    return registry.resolve_model(uri, model.uri), known is None


def _register(uri: str, network: Network, name: str, origin: str, digest: str) -> int:
    tags = {
        "origin": origin,
        _ORIGIN_DIGEST: digest,
        "backbone": network.config.backbone,
        "streams": network.config.streams,
    }
    run = start_plain_run(uri, f"import of {origin}", tags)
    try:
        with tempfile.TemporaryDirectory() as scratch, explained(uri):
            save_model(Path(scratch) / MODEL_FILE, network)
            number = registry.register_model(run, Path(scratch), name, tags=tags)
            run.finish()
    except BaseException:
        run.try_finish("FAILED")
        raise
    return number
