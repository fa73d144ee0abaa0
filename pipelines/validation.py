"""J and F of the validation split, its frames shared among the workers of a training."""

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from rtnet.data.images import encode_jpeg, overlay
from rtnet.data.inputs import network_input
from rtnet.data.pairs import fixed_partners
from rtnet.errors import UserError
from rtnet.metrics import contour_accuracy, region_similarity
from rtnet.model.network import Network
from rtnet.model.rtnet import RTNet
from rtnet.prediction import for_prediction, predict_maps, predict_stream_maps

Scores = dict[str, float]


def validate(
    model: Network, dataset: Dataset, experiment: Experiment, rank: int, device: torch.device
) -> tuple[Scores, dict[str, bytes]]:
    """({"J", "F", "JF"} in 0..1: means over sequences of means over frames, {name: JPEG overlay}).

    The first and the last frame of a sequence are left out, as in the official DAVIS evaluation; single images all
    count. All ranks must call this; all get the same scores, and rank 0 the pictures of all.
    """
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rows = validation_rows(dataset, experiment)
    partners = rows[fixed_partners(dataset.groups(rows), experiment.seed, experiment.training.reach)]
    scored = _scored(dataset.groups(rows), dataset.column("still")[rows])
    shown = set(_evenly(scored, experiment.validation.pictures))
    precision: Literal["bfloat16", "float32"] = "bfloat16" if experiment.training.precision == "bfloat16" else "float32"
    model = for_prediction(model, device, precision)
    mine: list[tuple[str, float, float]] = []
    pictures: dict[str, bytes] = {}
    for place in scored[rank::world]:
        scores, picture = _score(
            model, dataset, experiment, (int(rows[place]), int(partners[place])), device, place in shown
        )
        mine.append(scores)
        pictures |= picture
    gathered: list[Any] = [None] * world
    if world > 1:
        torch.distributed.all_gather_object(gathered, (mine, pictures))
    else:
        gathered = [(mine, pictures)]
    return _means([s for part, _ in gathered for s in part]), {k: v for _, part in gathered for k, v in part.items()}


def validation_rows(dataset: Dataset, experiment: Experiment) -> np.ndarray:
    """The rows of the split that the experiment's network can see. Raises UserError where there are none."""
    split = experiment.validation.split
    rows = dataset.rows(split, views=["as_is"], annotated=True)
    if experiment.model.streams == "motion":
        rows = rows[dataset.column("estimator")[rows] != ""]
        if not len(rows):
            raise UserError(f"dataset {dataset.uri}: no frame of split '{split}' has flow for the motion stream")
    return rows


def _score(
    model: Network, dataset: Dataset, experiment: Experiment, pair: tuple[int, int], device: torch.device, show: bool
) -> tuple[tuple[str, float, float], dict[str, bytes]]:
    views = [dataset.read(row) for row in pair]
    size = (experiment.validation.height, int(experiment.training.aspect * experiment.validation.height))
    shape = views[0].image.shape[:2]
    if isinstance(model, RTNet):
        frames = network_input([view.image for view in views], size, device)
        flow = network_input([view.flow for view in views], size, device)
        (map_,) = predict_maps(model, frames, flow, torch.tensor([[0, 1]], device=device), [shape])
    else:
        picture = views[0].image if experiment.model.streams == "appearance" else views[0].flow
        (map_,) = predict_stream_maps(model, network_input([picture], size, device), [shape])
    mask, annotation = map_ > 0.5, views[0].annotation
    assert annotation is not None
    what = dataset.describe(pair[0])
    scores = (what["sequence"], region_similarity(mask, annotation), contour_accuracy(mask, annotation))
    if not show:
        return scores, {}
    return scores, {f"{what['sequence']}-{what['name']}.jpg": encode_jpeg(overlay(views[0].image, mask, annotation))}


def _scored(groups: np.ndarray, still: np.ndarray) -> list[int]:
    """Places of all frames but the first and last of their sequence, and of all single images."""
    inner = np.r_[False, (groups[:-2] == groups[1:-1]) & (groups[1:-1] == groups[2:]), False][: len(groups)]
    return [int(place) for place in np.flatnonzero(inner | still)]


def _evenly(places: list[int], count: int) -> list[int]:
    return [places[i] for i in np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)]


def _means(scores: list[tuple[str, float, float]]) -> Scores:
    by_sequence: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sequence, region, contour in scores:
        by_sequence[sequence].append((region, contour))
    if not by_sequence:
        return {"J": 0.0, "F": 0.0, "JF": 0.0}
    region, contour = np.mean([np.mean(frames, axis=0) for frames in by_sequence.values()], axis=0)
    return {"J": float(region), "F": float(contour), "JF": float((region + contour) / 2)}
