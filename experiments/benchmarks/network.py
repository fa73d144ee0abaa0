"""Predictions of the network against the plain one of tests/plain.py, in the same run: speed, memory, growth.

python -m experiments.benchmarks.network                # the table; its last line is the ratio of its first row
python -m experiments.benchmarks.network --work two     # both maps of a pair alone
python -m experiments.benchmarks.network --device cuda --precision bfloat16 --batches 1 4 16 --compile default
python -m experiments.benchmarks.network --profile      # operator by operator: plain, then ours
python -m experiments.benchmarks.network --growth       # time and memory by the number of pixels

Each figure comes from a process of its own, so that none inherits another's memory. It needs neither Ray nor
MLflow, but Linux.
"""

import argparse
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

import torch

from experiments.benchmarks.network_case import Case, Measured, measure_apart

BACKBONES = ["resnet34", "resnext50_32x4d"]
WORKS = {
    "one": "one map per pair",
    "two": "both maps of a pair",
    "clip": "neighbours sharing frames",
}
GROWTH = ((192, 336), (384, 672), (768, 1344), (1536, 2688))
LARGEST_MATRIX = 768 * 1344  # pixels beyond which plain attention is left out: its matrix would take 17 GB


def main() -> None:
    options = _options()
    height, width = options.sizes[0]
    base = Case(
        side="ours",
        backbone=options.backbones[0],
        work=options.work[0],
        height=height,
        width=width,
        batch=options.batches[0],
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        compile=options.compile,
        repeats=options.repeats,
    )
    if options.profile:
        ratio = print_profiles(base, WORKS[base.work]) * (2 if base.work == "two" else 1)
    elif options.growth:
        ratio = _print_growth(base)
    else:
        ratio = _print_table(base, options)
    print(f"ratio: {ratio:.2f}")


def _print_table(base: Case, options: argparse.Namespace) -> float:
    """The first row's ratio: time per map."""
    print(f"{base.device}, {base.threads} threads, {base.compile or 'not'} compiled; plain: float32, batch 1\n")
    print("| work | encoder | size | precision | batch | pairs/s | maps/s | of peak | GB |", end="")
    print(" plain maps/s | GB | speed | memory |\n" + 13 * "|---" + "|")
    ratios = []
    for case, plain in _cases(base, options):
        ours = measure_apart(case)
        pairs, share = case.batch / ours.seconds, ours.flop / ours.seconds / ours.peak
        maps = 2 * pairs if case.work == "two" else pairs
        ratios.append(maps * plain.seconds)
        cells = (
            WORKS[case.work],
            case.backbone,
            f"{case.height}x{case.width}",
            case.precision,
            case.batch,
            f"{pairs:.3f}",
            f"{maps:.3f}",
            f"{share:.0%}",
            f"{ours.memory / 1e9:.2f}",
            f"{1 / plain.seconds:.3f}",
            f"{plain.memory / 1e9:.2f}",
            f"{ratios[-1]:.2f} x",
            f"{ours.memory / plain.memory:.2f} x",
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return ratios[0]


def _cases(base: Case, options: argparse.Namespace) -> Iterator[tuple[Case, Measured]]:
    """Each case with the plain network's figures for the same work, measured just before it."""
    for backbone, (height, width) in itertools.product(options.backbones, options.sizes):
        sized = replace(base, backbone=backbone, height=height, width=width)
        plain = measure_apart(replace(sized, side="plain", work="one", batch=1, precision="float32", compile=""))
        for work, batch in itertools.product(options.work, options.batches):
            # Pairs that share frames are so many at a time.
            yield replace(sized, work=work, batch=8 if work == "clip" and batch == 1 else batch), plain


def print_profiles(base: Case, work: str) -> float:
    """The operators of the plain side, then of ours, each as a table; how many times faster ours takes a pair."""
    seconds = {}
    for side in ("plain", "ours"):
        case = replace(base, side=side, profile=True)
        measured = measure_apart(case if side == "ours" else replace(case, batch=1, precision="float32", compile=""))
        seconds[side] = measured.seconds / (case.batch if side == "ours" else 1)
        print(f"{side}, {work}, {base.backbone}, {base.height}x{base.width}: {measured.seconds:.2f} s\n")
        print(measured.table + "\n", flush=True)
    return seconds["plain"] / seconds["ours"]


def _print_growth(base: Case) -> float:
    """How many times the memory of attention grows for four times the pixels, at the end of the table."""
    print("| work | pixels | s | memory GB | plain s | plain GB |\n|---|---|---|---|---|---|")
    memory = []
    for work in ("one", "standard", "transposed"):
        for height, width in GROWTH[:3] if work == "one" else GROWTH[1:]:
            case = replace(base, work=work, height=height, width=width, batch=1, repeats=1)
            ours, plain = measure_apart(case), "| - | - |"
            if height * width <= (384 * 672 if work == "one" else LARGEST_MATRIX):
                rival = measure_apart(replace(case, side="plain", precision="float32", compile=""))
                plain = f"| {rival.seconds:.2f} | {rival.memory / 1e9:.3f} |"
            name = f"prediction with {base.backbone}" if work == "one" else f"{work} attention, one call"
            print(f"| {name} | {height}x{width} | {ours.seconds:.2f} | {ours.memory / 1e9:.3f} {plain}", flush=True)
            memory.append(ours.memory)
    return memory[-1] / memory[-2]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--work", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--sizes", nargs="+", type=size, default=[(384, 672), (256, 448)], metavar="HxW")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=positive, default=2)
    modes = list(torch._inductor.list_mode_options())
    parser.add_argument("--compile", default="", metavar="MODE", choices=modes, help=f"torch.compile's: {modes}")
    parser.add_argument("--repeats", type=positive, default=3)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--profile", action="store_true")
    kind.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    return options


def size(text: str) -> tuple[int, int]:
    """An option's "384x672" as (height, width)."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"'{text}': give HEIGHTxWIDTH, such as 384x672")
    height, width = map(int, text.split("x"))
    return height, width


def positive(text: str) -> int:
    """An option's whole number above 0."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number above 0")
    return int(text)


if __name__ == "__main__":
    main()
