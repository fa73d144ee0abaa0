"""The sections of a recipe: typed, frozen, every field with its meaning and default."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


Count = Annotated[int, Field(ge=1)]
Streams = Literal["both", "appearance", "motion"]
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
View = Literal["as_is", "horizontal", "vertical", "both"]
Side = Annotated[int, Field(ge=32, le=4096)]
DatasetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Flow(Section):
    """Which optical flow `prepare` computes on the flipped frames, or imports."""

    estimator: Literal["dis", "raft_large", "raft_small", "files"] = "dis"
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    """Speed against accuracy of DIS."""
    weights: str | None = None
    """RAFT's weights: a file, a URL, or torchvision's name for those it downloads; null is torchvision's default."""
    updates: Count = 12
    """RAFT's refinements of each flow."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """RAFT's."""
    batch: Count = 4
    """Pairs of neighbouring frames that RAFT takes at once."""
    height: Side | None = None
    """Rows at which flow is estimated and stored; null keeps the frames' own, which are never enlarged."""
    forward: str | None = None
    """For `files`: where the flow from each frame to the next lies, .flo or picture, as a path with {sequence}, {frame}
    (the name of the frame at which the flow starts), {neighbour} (of the frame it points to) and, where there are files
    for the flipped views, {view}; without {view} only the view as it is is prepared."""
    backward: str | None = None
    """For `files`: likewise from each frame to the one before."""

    @model_validator(mode="after")
    def _files_have_patterns(self) -> "Flow":
        given = self.forward is not None and self.backward is not None
        if given != (self.estimator == "files") or (self.forward is None) != (self.backward is None):
            raise ValueError("forward and backward are both given with estimator 'files', and with no other")
        if given and ("{view}" in str(self.forward)) != ("{view}" in str(self.backward)):
            raise ValueError(
                "{view} is in one of forward and backward: there is flow of the flipped frames for both or none"
            )
        return self


class Source(Section):
    """A folder of videos or pictures, or a video file."""

    layout: Literal["davis16", "davis17", "fbms59", "youtube_objects", "stills", "frames", "video"]
    """How it is arranged: `rtnet.data.layouts` says each."""
    path: str
    split: str | None = None
    """Takes only this of a layout's official splits; names the split of a layout without (null: train)."""
    sequences: Annotated[list[str], Field(min_length=1)] | None = None
    """Only these sequences; null takes all."""
    annotations: str | None = None
    """Folder of masks, where the layout has no place of its own for them."""
    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """How often each of its views is drawn in an epoch of training, on average."""
    flow: Flow | None = None
    """Replaces the recipe's flow for this source."""


class Data(Section):
    """What `prepare` reads and where the parquet dataset lies that it writes and all other verbs read."""

    sources: Annotated[dict[DatasetName, Source], Field(min_length=1)]
    """Each under the name that it has in the dataset."""
    dataset: str
    """Folder or URI of the parquet dataset."""


class Preparation(Section):
    """How `prepare` works; nothing here changes what it makes."""

    on_error: Literal["stop", "skip"] = "stop"
    """`skip` leaves sequences with a bad file out, and lists them at the end and in the provenance."""
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of one RAFT actor where the cluster has GPUs: of two on one GPU one computes while the other reads and writes."""


class Model(Section):
    backbone: str = "resnet34"
    """One of rtnet.model.backbones.BACKBONES."""
    streams: Streams = "both"
    """The whole network, or one stream alone: appearance on single frames, motion on their flow pictures."""
    encoder_weights: str | None = None
    """ImageNet weights of the encoder: a file with torchvision's state dict, or 'torchvision' to download them."""
    start_from: str | list[str] = []
    """Weights to start from, later ones over earlier: a checkpoint of ours, a published .pth, a registered model
    (models:/NAME@ALIAS), the best epoch of a finished run in `storage` (run:NAME) or of an earlier stage of this recipe
    (stage:NAME). One stream's go into that stream of the whole network, and the whole network's into a stream alone;
    a motion stream takes an appearance stream's, its first convolution repeated and halved."""

    @property
    def starts(self) -> list[str]:
        return [self.start_from] if isinstance(self.start_from, str) else self.start_from


class Phase(Section):
    """A span of epochs with one rule for the rate and one for what is trained; it begins where the one before ends."""

    last_epoch: Count
    rate: Annotated[float, Field(gt=0)]
    trained: Literal["all", "interaction"] = "all"
    """'interaction' trains the exchange and fusion modules alone, with the two streams frozen."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The rate in epoch e is rate * decay ** (e - decay_origin), and at least `floor`."""
    decay_origin: int = 0
    floor: Annotated[float, Field(ge=0)] = 0.0


_PUBLISHED = [
    Phase(last_epoch=4, rate=1e-3, trained="interaction"),
    Phase(last_epoch=15, rate=5e-4),
    Phase(last_epoch=99, rate=5e-4, decay=0.9, decay_origin=20, floor=1e-5),
]


class Training(Section):
    phases: Annotated[list[Phase], Field(min_length=1)] = _PUBLISHED
    """By default those of the published training."""
    split: str = "train"
    batch_size: Count = 1
    """Pairs, or single views for one stream alone, that a worker's network takes at once."""
    accumulate: Count = 1
    """So many batches make one step: their gradients are averaged."""
    heights: Annotated[list[Side], Field(min_length=1)] = [256, 320, 384]
    """Each step draws one of these heights, the same on all workers; the width is int(aspect * height)."""
    aspect: Annotated[float, Field(ge=0.25, le=8)] = 1.75
    reach: Count = 10
    """The partner lies within this many frames."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    precision: Precision = "float32"
    """tf32: float32 whose products a GPU rounds to 10 bits; float16 comes with a scale for its gradients."""
    compile: bool = False
    """By torch.compile; worth its minutes on a GPU. Killed and continued, such a training ends with the weights of an
    undisturbed one to within rounding, not bit for bit."""
    steps_per_epoch: Count | None = None
    """Ends an epoch early; null goes through all pairs."""
    keep_checkpoints: Count = 3
    """So many epochs, those with the best J&F, and the newest beside them."""
    checkpoint_every: Count | None = None
    """Steps from one checkpoint to the next within an epoch; null keeps whole epochs only."""

    @model_validator(mode="after")
    def _phases_follow_one_another(self) -> "Training":
        ends = [phase.last_epoch for phase in self.phases]
        if ends != sorted(set(ends)):
            raise ValueError(f"phases must end in rising epochs, not {ends}")
        return self


class Validation(Section):
    """J and F of one split while training, by the official DAVIS rules, on maps cut at 1/2."""

    split: str = "val"
    every: Count = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    height: Side = 384
    pictures: Annotated[int, Field(ge=0)] = 4
    """Overlays of map and annotation that go to the tracked run at each validation."""


class Scaling(Section):
    """Mirrors Ray Train's ScalingConfig and FailureConfig."""

    num_workers: Count = 4
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    threads_per_worker: Count | None = None
    """PyTorch threads of a worker; null takes as many as the CPUs that it reserves."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often in a row workers that died are begun again, without a checkpoint in between."""


MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$"


def _free_alias(alias: str) -> str:
    if re.fullmatch(r"latest|v\d+", alias.lower()):
        raise ValueError("MLflow keeps 'latest' and 'v1', 'v2', ... for itself")
    return alias


class Tracking(Section):
    uri: str | None = None
    """MLflow's tracking URI; null is an SQLite file in `storage`."""
    experiment: str = "rtnet"
    model: Annotated[str, Field(pattern=MODEL_NAME)] = "rtnet"
    """The registered model whose new version the best checkpoint becomes; one stream alone becomes one of
    MODEL-appearance or MODEL-motion."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"), AfterValidator(_free_alias)] = "best"
    """The alias that then points to it."""


class Prediction(Section):
    model: str | None = None
    """models:/NAME@ALIAS, models:/NAME/VERSION or a weights file; null is the model that `train` registers."""
    input: Literal["dataset", "sources"] = "dataset"
    """What `prepare` made, or the frames and videos of data.sources themselves: their flow is then computed on the way,
    as the flow section says, and data.dataset is not needed."""
    split: str = "val"
    output: str | None = None
    """Folder or URI for maps, masks, overlays and statistics; null is STORAGE/NAME/predictions."""
    height: Side = 384
    """Rows of the network's input; its width is int(aspect * height) of the training section."""
    partners: Count = 1
    """1: one within training.reach frames, drawn by the seed, as published. More: the mean over so many, evenly spread
    within reach."""
    both: bool = False
    """Each pair gives the maps of both its frames: twice as fast."""
    views: Annotated[list[View], Field(min_length=1)] = ["as_is"]
    """The mean over the maps of these flips of the frames is taken."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A pixel belongs to the mask where its map is above this."""
    stretch: bool = False
    """As published: stretch each map to its own minimum and maximum before it is written and cut."""
    batch_size: Count = 4
    """Pairs that the network takes at once."""
    actors: Count = 1
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    overlays: Annotated[int, Field(ge=0)] = 2
    """Overlay pictures per sequence, evenly spread."""
    on_error: Literal["stop", "skip"] = "stop"
    """`skip` leaves out sequences whose files can't be read, and lists them at the end and in predictions.json."""

    @model_validator(mode="after")
    def _both_has_one_partner(self) -> "Prediction":
        if self.both and self.partners > 1:
            raise ValueError("both uses one partner: set partners to 1, or both to false")
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views names a view twice: {', '.join(self.views)}")
        return self


class Evaluation(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")] | None = None
    """What the scores are kept under with a model's version; null is the sources' names and the split: davis16-val."""
    masks: str | None = None
    """Folder SEQUENCE/FRAME.png (or .jpg) of masks or maps, ours or another method's: grey in 0..255, grey labels from
    1 on, or with a palette; null is `masks` in the prediction's output."""
    split: str = "val"
    rule: Literal["davis", "annotated"] | None = None
    """Which frames J and F count. davis: all annotated ones but a sequence's first and last frame; annotated: all
    annotated ones. Null is davis where every frame of every sequence is annotated, else annotated."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A pixel of a grey mask file belongs to the mask where its value / 255 is above this."""
    saliency: bool = True
    """Also the saliency measures, which take more than ten times as long as J and F."""
    output: str | None = None
    """Folder for scores.csv and scores.json; null is STORAGE/NAME/evaluation."""
