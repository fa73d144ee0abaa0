"""One case of network.py or training_step.py, in a process of its own that prints JSON."""

import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rtnet.model.attention import ATTENTIONS
from rtnet.model.rtnet import RTNet
from rtnet.model.standard_attention import standard_attention
from rtnet.model.transposed_attention import transposed_attention
from rtnet.prediction import for_prediction
from rtnet.training import Batch, make_optimizer, set_product_precision, set_rate, train_step
from tests import plain
from tests.networks import plain_network, random_network


@dataclass(frozen=True)
class Case:
    """What is measured. The plain network takes one pair at a time, in float32, and gives all eight maps."""

    side: Literal["ours", "plain"]
    backbone: str
    work: str
    """"one", "two", "clip" (see network.WORKS), "step", or one call of "standard" or "transposed" attention."""
    height: int
    width: int
    batch: int = 1
    device: str = "cpu"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    threads: int = 2
    compile: str = ""
    repeats: int = 3
    profile: bool = False


@dataclass(frozen=True)
class Measured:
    """What a case came to."""

    seconds: float  # median of the repeats, of the whole batch
    memory: (
        int  # peak bytes while it runs: on a GPU allocated by PyTorch, else resident beyond a process without network
    )
    flop: float  # of the batch as ours computes it; training counts three times the forward, none that is computed anew
    peak: float  # FLOP per second of a large matrix product in the same precision
    table: str = ""


class OutOfMemoryError(SystemExit):
    """The machine or the GPU has too little for a case; a benchmark that cannot do without it ends with one line."""


def measure_apart(case: Case) -> Measured:
    """Measures a case in a process of its own. Raises SystemExit that names it and the reason where it fails."""
    command = [sys.executable, "-m", "experiments.benchmarks.network_case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -9 or "OutOfMemoryError" in done.stderr:
        raise OutOfMemoryError(f"{case}: out of memory")
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr.strip().splitlines()[-1]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure(case: Case) -> Measured:
    """Runs a case here; the memory is this process's, so one case to a process."""
    torch.manual_seed(0)
    torch.set_flush_denormal(case.side == "ours")  # our programs do so, the published ones do not
    torch.set_num_threads(case.threads)
    set_product_precision(case.precision)
    peak = _peak(case)
    before = _resident()
    call, flop = _attention(case) if case.work in ("standard", "transposed") else _network(case)
    call()  # the first call compiles, tunes and allocates
    _forget_set_up(case)
    seconds = statistics.median(_time(call, case.device) for _ in range(case.repeats))
    memory = torch.cuda.max_memory_allocated() if case.device == "cuda" else _high_water() - before
    return Measured(seconds, memory, flop, peak, _profile(call, case.device == "cuda") if case.profile else "")


def _network(case: Case) -> tuple[Callable[[], object], float]:
    """What to time, and its FLOP."""
    device = torch.device(case.device)
    # Weights for which no activation swells: else attention's weights fall below the smallest normal number, and
    # processors are several times slower with what is below it.
    model = random_network(case.backbone).float().to(device)
    if case.side == "plain":
        model.to(memory_format=torch.contiguous_format)  # as published
    frames, flow, masks = _inputs(case)
    if case.work == "step":
        flop = 3 * _flop(lambda: model(frames, flow))
        if case.side == "plain":
            return _plain_step(model, frames, flow, masks), flop
        return _our_step(case, model, Batch(frames, flow, masks)), flop
    model.eval()
    if case.side == "plain":
        network = plain_network(model)

        def predict_plainly() -> None:
            with torch.inference_mode():
                for x, y in zip(frames, flow, strict=True):
                    network.side_maps(x, y)

        return predict_plainly, 0.0
    model = for_prediction(model, device, "bfloat16" if case.precision == "bfloat16" else "float32")
    frames, flow = (x.to(next(model.parameters()).dtype) for x in (frames, flow))
    both = case.work == "two"
    work: Callable[[], object] = lambda: model.predict(frames, flow, both)  # noqa: E731
    if case.work == "clip":  # frame i with frame i + 1
        frames, flow = (torch.cat([x[:, 0], x[-1:, 1]]) for x in (frames, flow))
        pairs = torch.stack([torch.arange(case.batch), torch.arange(1, case.batch + 1)], 1).to(device)
        work = lambda: model.predict_pairs(model.frame_features(frames, flow), pairs)  # noqa: E731
    flop = _flop(work)
    predict = torch.compile(work, mode=case.compile) if case.compile else work

    def predict_maps() -> None:
        with torch.inference_mode():
            predict()

    return predict_maps, flop


def _our_step(case: Case, model: RTNet, batch: Batch) -> Callable[[], object]:
    optimizer = make_optimizer(model, momentum=0.9, weight_decay=5e-4)
    set_rate(optimizer, 1e-4)
    model.train()
    if case.compile:
        model.compile(mode=case.compile)
    return lambda: train_step(model, optimizer, batch, case.precision)


def _plain_step(model: RTNet, frames: Tensor, flow: Tensor, masks: Tensor) -> Callable[[], object]:
    """The published step: float32, probabilities, every map's loss by itself."""
    network = plain_network(model, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        for video, pictures, labels in zip(frames, flow, masks, strict=True):
            maps = network.side_maps(video, pictures)
            losses = [plain.loss(x, labels) for stream in maps.values() for x in stream]
            torch.autograd.backward(torch.stack(losses).sum())
        optimizer.step()

    return step


def _attention(case: Case) -> tuple[Callable[[], object], float]:
    """One head of 64 channels over as many places as level 1 of the network attends to in pictures of this size."""
    pixels = (case.height // 8) * (case.width // 8)
    query, key, value = torch.randn(3, 1, 1, pixels, 64, device=case.device, dtype=_dtype(case))
    ours: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention
    if case.work == "transposed":
        ours = transposed_attention
    elif case.device == "cpu" and case.precision == "float32":
        ours = standard_attention

    def attend() -> None:
        with torch.inference_mode():
            if case.side == "plain":
                plain.attention(query[0, 0], key[0, 0], value[0, 0], case.work == "transposed")
            else:
                ours(query, key, value)

    return attend, 4.0 * pixels**2 * 64


def _inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Random, as speed and memory do not depend on what is seen."""
    size = (case.height, case.width)
    frames = torch.randn(case.batch, 2, 3, *size, device=case.device)
    flow = torch.randn(case.batch, 2, 6, *size, device=case.device)
    masks = (torch.rand(case.batch, 2, 1, *size, device=case.device) > 0.5).float()
    return frames, flow, masks


def _flop(call: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=attention_flop()) as counter:
        call()
    return float(counter.get_total_flops())


def attention_flop() -> dict[Any, Callable[..., int]]:
    """For PyTorch's counter, which doesn't know our own operators."""
    return dict.fromkeys((operator.overloadpacket for operator in ATTENTIONS), _attention_flop)


def _attention_flop(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    count, heads, pixels, width = query
    return 4 * count * heads * pixels * pixels * width


def _dtype(case: Case) -> torch.dtype:
    return torch.bfloat16 if case.precision == "bfloat16" else torch.float32


def _peak(case: Case) -> float:
    side = 8192 if case.device == "cuda" else 2048
    matrix = torch.randn(side, side, device=case.device, dtype=_dtype(case))
    out = torch.empty_like(matrix)
    for _ in range(2):
        torch.mm(matrix, matrix, out=out)
    return 2 * side**3 / min(_time(lambda: torch.mm(matrix, matrix, out=out), case.device) for _ in range(5))


def _time(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _profile(call: Callable[[], object], cuda: bool) -> str:
    """A Markdown table: the operators that take the most time of their own."""
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
    rows = [
        (e.key, e.count, e.self_device_time_total if cuda else e.self_cpu_time_total) for e in profiler.key_averages()
    ]
    total = sum(spent for *_, spent in rows)
    lines = ["| operator | calls | ms | share |", "|---|---|---|---|"]
    for name, count, spent in sorted(rows, key=lambda row: -row[2])[:12]:
        lines.append(f"| {name.removeprefix('aten::')} | {count} | {spent / 1e3:.0f} | {spent / total:.0%} |")
    return "\n".join(lines)


def _forget_set_up(case: Case) -> None:
    """What setting up took and gave back is not to count as the work's peak."""
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _resident() -> int:
    return _status("VmRSS")


def _high_water() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
