"""A training step against the published one written plainly (tests/plain.py), in the same run: speed and peak memory.

python -m experiments.benchmarks.training_step            # on a GPU where there is one: precisions, compiled, batches
python -m experiments.benchmarks.training_step --backbones resnet34 resnext50_32x4d --sizes 384x672 256x448
python -m experiments.benchmarks.training_step --profile  # operator by operator: plain, then ours

The plain step is in float32, one pair, with probabilities and 64 channels upsampled before each side map's last
convolution. Each figure is the median over rounds in which every step is measured once, in a process of its own. The
last line is the first row's speed. It needs neither Ray nor MLflow, but Linux.
"""

import argparse
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmarks.network import BACKBONES, positive, print_profiles, size
from experiments.benchmarks.network_case import Case, Measured, OutOfMemoryError, measure_apart

FORMS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"precision": "float32"},
    "tf32": {"precision": "tf32"},
    "bfloat16": {"precision": "bfloat16"},
    "compiled": {"precision": "bfloat16", "compile": "default"},
}


def main() -> None:
    options = _options()
    height, width = options.sizes[0]
    base = Case("ours", options.backbones[0], "step", height, width, device=options.device, threads=options.threads)
    # A GPU's step is so short that one of them says little.
    base = replace(base, repeats=1 if options.device == "cpu" else 10)
    if options.profile:
        ratio = print_profiles(replace(base, **FORMS[options.forms[0]]), "training step")
    else:
        ratio = _print_table(base, options)
    print(f"ratio: {ratio:.2f}")


def _print_table(base: Case, options: argparse.Namespace) -> float:
    """The first row's speed: pairs per second, ours over plain."""
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {options.threads} threads"
    print(f"training step on {where}; medians of {options.rounds} rounds; plain: float32, one pair\n")
    print("| encoder | size | step | batch | pairs/s | of peak | GB | plain pairs/s | GB | speed | memory |")
    print(11 * "|---" + "|", flush=True)
    ratios = []
    for backbone, (height, width) in itertools.product(options.backbones, options.sizes):
        sized = replace(base, backbone=backbone, height=height, width=width)
        plain = replace(sized, side="plain")
        forms = {
            (form, batch): replace(sized, batch=batch, **FORMS[form])
            for form, batch in itertools.product(options.forms, options.batches)
        }
        found = _measure([plain, *forms.values()], options.rounds)
        rival = found.get(plain)
        for (form, batch), case in forms.items():
            ours = found.get(case)
            speed = batch / ours.seconds * rival.seconds if ours and rival else 0.0
            memory = f"{ours.memory / rival.memory:.2f} x" if ours and rival else "-"
            cells = [backbone, f"{height}x{width}", form, str(batch), *_figures(ours, batch), *_figures(rival, 1)[::2]]
            print(f"| {' | '.join(cells)} | {speed:.2f} x | {memory} |", flush=True)
            ratios.append(speed)
    return ratios[0]


def _measure(cases: Sequence[Case], rounds: int) -> dict[Case, Measured]:
    """Each case's medians, but for those that have too little memory."""
    found: dict[Case, list[Measured]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in list(found):
            try:
                found[case].append(measure_apart(case))
            except OutOfMemoryError:
                del found[case]
    return {case: _median(each) for case, each in found.items()}


def _median(each: Sequence[Measured]) -> Measured:
    seconds, memory, peak = (
        statistics.median(getattr(m, name) for m in each) for name in ("seconds", "memory", "peak")
    )
    return replace(each[0], seconds=seconds, memory=int(memory), peak=peak)


def _figures(step: Measured | None, batch: int) -> list[str]:
    """Pairs per second, share of the rate of a large matrix product in the same precision, peak memory in GB."""
    if step is None:
        return ["out of memory", "-", "-"]
    share = step.flop / step.seconds / step.peak
    return [f"{batch / step.seconds:.3f}", f"{share:.0%}", f"{step.memory / 1e9:.2f}"]


def _options() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES[:1], choices=BACKBONES)
    parser.add_argument("--sizes", nargs="+", type=size, default=[(384, 672)], metavar="HxW")
    parser.add_argument("--device", default="cuda" if gpu else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), help="compiled is bfloat16 by torch.compile")
    parser.add_argument("--batches", nargs="+", type=positive, help="of ours; the plain step has one pair")
    parser.add_argument("--threads", type=positive, default=2, help="of a CPU's step")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not gpu:
        parser.error("--device cuda: PyTorch finds no GPU here")
    options.forms = options.forms or (list(FORMS) if options.device == "cuda" else ["float32"])
    options.batches = options.batches or ([1, 4, 16] if options.device == "cuda" else [1])
    return options


if __name__ == "__main__":
    main()
