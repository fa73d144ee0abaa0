"""Standard and transposed attention against their whole matrices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rtnet.model.standard_attention
from rtnet.model.attention import Attention, AttentionForm
from rtnet.model.standard_attention import standard_attention
from rtnet.model.transposed_attention import in_chunks, in_two_passes, transposed_attention
from tests import plain

PEAK_RESET = Path("/proc/self/clear_refs")
ROOT = Path(__file__).parents[1]


def _tokens(count: int = 37) -> tuple[Tensor, Tensor, Tensor]:
    """(2, 3, count, 5) each."""
    generator = torch.Generator().manual_seed(3)
    query, key, value = torch.randn(3, 2, 3, count, 5, generator=generator, dtype=torch.float64)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def _whole_matrix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = zip(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), strict=True)
    return torch.stack([plain.attention(q, k, v, transposed=True) for q, k, v in heads]).view_as(value)


@pytest.mark.parametrize("scores_at_once", [1, 100, 37 * 36, 37 * 37, 10**6])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("transposed", [False, True])
@torch.no_grad()
def test_attention_in_chunks_on_a_processor_is_that_of_the_whole_matrix(
    scores_at_once: int, dtype: torch.dtype, bound: float, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 by other products than in float64."""
    monkeypatch.setattr(rtnet.model.standard_attention, "SCORES_AT_ONCE", scores_at_once)
    tokens = _tokens()
    ours = [x.to(dtype) for x in tokens]
    found = in_chunks(ours[0], ours[1], ours[2], scores_at_once) if transposed else standard_attention(*ours)
    assert found.dtype == dtype
    wanted = _whole_matrix(*tokens) if transposed else F.scaled_dot_product_attention(*tokens)
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()


def test_many_chunks_of_16_bits_add_up() -> None:
    query, key, value = (x.detach().bfloat16() for x in _tokens(600))
    wanted = in_chunks(query.float(), key.float(), value.float() + 1)
    ours = in_chunks(query, key, (value + 1).bfloat16(), scores_at_once=600)
    assert (ours.float() - wanted).norm() < 0.02 * wanted.norm()


def test_transposed_attention_in_two_passes_as_a_gpu_runs_it_is_that_of_the_whole_matrix() -> None:
    with torch.no_grad():
        # Strided as the network's tokens are: what the operator returns must not depend on that.
        query, key, value = (x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in _tokens())
        ours = in_two_passes(query, key, value)
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, _whole_matrix(query, key, value), rtol=1e-13, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 256])
def test_on_a_gpu_transposed_attention_in_bfloat16_is_near_that_in_float32(width: int) -> None:
    query, key, value = torch.randn(3, 2, 4, 1000, width, device="cuda").requires_grad_()
    exact = transposed_attention(query, key, value)
    rough = transposed_attention(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()
    gradients = [torch.autograd.grad(out.float().square().sum(), (query, key, value)) for out in (exact, rough)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() < 0.05 * one.norm()


def test_the_gradients_of_transposed_attention_are_those_of_the_whole_matrix() -> None:
    tokens = _tokens()
    weights = torch.randn(2, 3, 37, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gradients = torch.autograd.grad((transposed_attention(*tokens) * weights).sum(), tokens)
    wanted = torch.autograd.grad((_whole_matrix(*tokens) * weights).sum(), tokens)
    torch.testing.assert_close(gradients, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("transposed", [False, True])
def test_only_standard_attention_ignores_a_joint_permutation_of_keys_and_values(transposed: bool) -> None:
    torch.manual_seed(1)
    attention = Attention(12, 3, AttentionForm(transposed=transposed)).double()
    x, y = torch.randn(2, 2, 12, 5, 7, dtype=torch.float64)
    shuffled = y.flatten(2)[:, :, torch.randperm(35)].view_as(y)
    change = (attention(x, shuffled) - attention(x, y)).abs().max().item()
    assert change > 1e-2 if transposed else change < 1e-12


@pytest.mark.parametrize("form", [AttentionForm(), AttentionForm(transposed=True, bias=True, pooled=True)])
def test_each_sample_is_attended_to_alone(form: AttentionForm) -> None:
    torch.manual_seed(2)
    attention = Attention(8, 2, form).double()
    x, y = torch.randn(2, 3, 8, 7, 9, dtype=torch.float64)
    alone = torch.cat([attention(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(attention(x, y), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not PEAK_RESET.exists(), reason="needs Linux's peak of resident memory")
@pytest.mark.parametrize("transposed", [False, True])
def test_no_matrix_of_pixels_by_pixels_is_ever_held(transposed: bool) -> None:
    # In a process of its own whose allocator returns what is freed at once: otherwise its holes count as held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    code = f"from tests.test_attention import peak_of_attention; print(peak_of_attention({transposed}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100e6  # the matrix takes 144 MB, and three such are held by the time of its gradient


def peak_of_attention(transposed: bool, pixels: int = 6000) -> int:
    """Bytes that the attention of so many pixels and its gradient take at their peak."""
    for count in (300, pixels):  # what PyTorch loads at its first use is not to count
        query, key, value = torch.randn(3, 1, 1, count, 16).requires_grad_()
        PEAK_RESET.write_text("5")
        before = _memory("VmRSS")
        if transposed:
            out = transposed_attention(query, key, value)
        else:
            out = F.scaled_dot_product_attention(query, key, value)
        torch.autograd.backward(out.sum())
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    """Bytes of this process, by its name in Linux's status file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
