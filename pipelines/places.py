"""Where a verb reads and writes: which fields of a recipe name it, and whether every node of a cluster sees it.

What is on one node's disk alone would be found by some workers and not by others, hours later.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pyarrow import fs

from pipelines.config import Experiment
from pipelines.sections import Flow
from pipelines.storage import check_bucket, open_storage, reach
from rtnet.errors import UserError

_SETTLES = 5.0  # seconds after which a network file system shows a new file to all
_ANSWERS = 60.0  # seconds that a node may take
_SQLITE = "sqlite:///"

Use = Literal["driver", "read", "written"]


@dataclass(frozen=True)
class Place:
    """A local path or URI that a recipe's field names."""

    field: str
    uri: str
    use: Use
    """`read` and `written` are by workers, on any node."""
    below: str = ""
    """What of it, where not all."""

    @property
    def local(self) -> str | None:
        """The path on a disk, of the folder where it is a database's; None elsewhere."""
        if self.uri.startswith(_SQLITE):
            return str(Path(self.uri.removeprefix(_SQLITE)).resolve().parent)
        system, path = open_storage(self.uri)
        return str(Path(path) / self.below) if isinstance(system, fs.LocalFileSystem) else None


def places_of(experiment: Experiment, verb: str) -> list[Place]:
    """Every place that the verb uses, those of stages apart. What a field leaves to a default is called by the field
    that the default comes from. UserError for one that names no bucket."""
    given = {"prepare": _of_prepare, "predict": _of_predict, "evaluate": _of_evaluate}.get(verb)
    found = given(experiment) if given else _of_training(experiment, verb)
    if verb != "prepare" and (uri := experiment.tracking.uri) is not None and _is_path(uri):
        found.append(Place("tracking.uri", uri, "written" if verb in ("train", "tune") else "driver"))
    for place in found:
        check_bucket(place.uri, f"{place.field}={place.uri}")
    return found


def check_reachable(places: Iterable[Place]) -> None:
    """UserError where an object store does not answer, or does not let us look."""
    for place in places:
        if "://" in place.uri and not place.uri.startswith(_SQLITE):
            reach(place.uri, place.field)


def check_shared(places: Iterable[Place]) -> None:
    """UserError where a node of the open session's cluster does not see what this one sees; nothing on one node alone.

    In a folder that workers write a file is left for them to find; of one that they read, what is in it is compared.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    others = {
        key: node["NodeManagerAddress"]
        for key, node in nodes.items()
        if key != here and node["Resources"].keys() & {"CPU", "GPU"}
    }
    if not others:
        return
    local = {place: path for place in places if place.use != "driver" and (path := place.local) is not None}
    written = sorted({path for place, path in local.items() if place.use == "written"})
    with _marked(written) as marker:
        read = {path: content_of(path) for place, path in local.items() if place.use == "read"}
        answers = _ask(others, written, marker, read)
    for key, blind in answers.items():
        for place, path in local.items():
            if path in blind:
                what = "does not see what is written there" if place.use == "written" else "has not the same there"
                raise UserError(
                    f"{place.field}={place.uri} is on the disk of node {nodes[here]['NodeManagerAddress']}, and node "
                    f"{others[key]} {what}: name a folder that all nodes mount, or a URI such as s3://bucket/folder"
                )


def look(written: list[str], marker: str, read: dict[str, str]) -> list[str]:
    """On another node: the paths at which the marker, or the same content, isn't."""
    deadline = time.monotonic() + _SETTLES
    while True:
        blind = [path for path in written if not _marker(path, marker).is_file()]
        blind += [path for path, content in read.items() if content_of(path) != content]
        if not blind or time.monotonic() > deadline:
            return blind
        time.sleep(0.5)


def content_of(path: str) -> str:
    """What is at a path, by a folder's names, or a file's size and first mebibyte: a copy elsewhere has the same."""
    try:
        if Path(path).is_dir():
            names = sorted(inner.name for inner in Path(path).iterdir())
            return hashlib.sha256("\0".join(names).encode()).hexdigest()
        with Path(path).open("rb") as file:
            return f"{os.fstat(file.fileno()).st_size} {hashlib.sha256(file.read(1 << 20)).hexdigest()}"
    except OSError:
        return "nothing"


def _ask(nodes: dict[str, str], written: list[str], marker: str, read: dict[str, str]) -> dict[str, list[str]]:
    """node -> the paths that it does not see; without nodes that have gone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked: dict[Any, str] = {}
    for key in nodes:
        there = NodeAffinitySchedulingStrategy(key, soft=False)
        asked[task.options(scheduling_strategy=there).remote(written, marker, read)] = key
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWERS)
    if late:
        raise UserError(
            f"node {nodes[asked[late[0]]]} does not answer within {_ANSWERS:.0f} seconds: wait until it does, or take "
            "it out of the cluster"
        )
    answers = {}
    for answer in done:
        with suppress(ray.exceptions.RayError):
            answers[asked[answer]] = ray.get(answer)
    return answers


@contextmanager
def _marked(folders: list[str]) -> Iterator[str]:
    """Leaves an empty file in each, where claims of writers lie too; its name."""
    name = f"seen-{uuid4().hex}"
    try:
        for folder in folders:
            try:
                _marker(folder, name).parent.mkdir(parents=True, exist_ok=True)
                _marker(folder, name).touch()
            except OSError as error:
                raise UserError(f"{folder} can't be written ({error.strerror}): choose another place") from error
        yield name
    finally:
        for folder in folders:
            with suppress(OSError):
                _marker(folder, name).unlink()
            with suppress(OSError):
                _marker(folder, name).parent.rmdir()  # where no claim is in it


def _marker(folder: str, name: str) -> Path:
    return Path(folder) / "claims" / name


def _of_prepare(experiment: Experiment) -> list[Place]:
    return [Place("data.dataset", experiment.data.dataset, "written"), *_sources(experiment), *_flows(experiment)]


def _of_training(experiment: Experiment, verb: str) -> list[Place]:
    places = [Place("storage", experiment.storage, "written"), _dataset(experiment)]
    use: Use = "read" if verb == "tune" else "driver"  # a sweep's trials begin on any node
    weights = experiment.model.encoder_weights
    if weights is not None and weights != "torchvision":
        places.append(Place("model.encoder_weights", weights, use))
    starts = [start for start in experiment.model.starts if not start.startswith(("models:/", "run:", "stage:"))]
    return places + [Place("model.start_from", start, use) for start in starts]


def _of_predict(experiment: Experiment) -> list[Place]:
    options = experiment.prediction
    places = [_output(experiment, "written")]
    if options.input == "dataset":
        places.append(_dataset(experiment))
    else:
        places += [*_sources(experiment), *_flows(experiment)]
    if options.model is not None and not options.model.startswith("models:/"):
        places.append(Place("prediction.model", options.model, "driver"))
    return places


def _of_evaluate(experiment: Experiment) -> list[Place]:
    options = experiment.evaluation
    masks = _output(experiment, "read", "masks")
    if options.masks is not None:
        masks = Place("evaluation.masks", options.masks, "read")
    written = ("storage", experiment.storage) if options.output is None else ("evaluation.output", options.output)
    return [masks, Place(*written, "driver"), *_sources(experiment)]


def _dataset(experiment: Experiment) -> Place:
    return Place("data.dataset", experiment.data.dataset, "read", "index.parquet")


def _output(experiment: Experiment, use: Use, below: str = "") -> Place:
    if (output := experiment.prediction.output) is not None:
        return Place("prediction.output", output, use, below)
    return Place("storage", experiment.storage, use, f"{experiment.name}/predictions/{below}")


def _sources(experiment: Experiment) -> list[Place]:
    places = []
    for name, source in experiment.data.sources.items():
        places.append(Place(f"data.sources.{name}.path", source.path, "read"))
        if source.annotations is not None:
            places.append(Place(f"data.sources.{name}.annotations", source.annotations, "read"))
    return places


def _flows(experiment: Experiment) -> list[Place]:
    """RAFT's weights, where they are a file, and folders of flow."""
    flows: dict[str, Flow | None] = {"flow": experiment.flow}
    flows |= {f"data.sources.{name}.flow": source.flow for name, source in experiment.data.sources.items()}
    places = []
    for section, flow in flows.items():
        if flow is None:
            continue
        if flow.weights is not None and "/" in flow.weights and "://" not in flow.weights:
            places.append(Place(f"{section}.weights", flow.weights, "read"))
        for field, pattern in (("forward", flow.forward), ("backward", flow.backward)):
            if pattern is not None:
                places.append(Place(f"{section}.{field}", pattern.partition("{")[0].rpartition("/")[0], "read"))
    return places


def _is_path(uri: str) -> bool:
    return uri.startswith(_SQLITE) or "://" not in uri
