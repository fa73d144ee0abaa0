"""The side maps' loss: the description's formula, and finite where that formula is not."""

import itertools

import pytest
import torch
from torch import Tensor

from rtnet.data.inputs import resize
from rtnet.losses import side_map_loss, side_map_losses
from tests import plain


def _maps(batch: int = 3) -> tuple[tuple[Tensor, ...], Tensor]:
    """Four maps of logits (batch, 2, 1, 19, 26) and soft masks of the same size, float64."""
    generator = torch.Generator().manual_seed(8)
    logits = 3 * torch.randn(4, batch, 2, 1, 19, 26, generator=generator, dtype=torch.float64)
    return tuple(logits), torch.rand(batch, 2, 1, 19, 26, generator=generator, dtype=torch.float64)


def test_each_loss_is_the_formulas() -> None:
    logits, masks = _maps()
    wanted = torch.stack([plain.loss(x.sigmoid().flatten(0, 1), masks.flatten(0, 1)) for x in logits])
    torch.testing.assert_close(side_map_losses(logits, masks), wanted, rtol=1e-13, atol=0)
    torch.testing.assert_close(side_map_loss(logits, masks), wanted.sum(), rtol=1e-13, atol=0)


def test_masks_of_another_size_are_resized_to_the_maps() -> None:
    logits, masks = _maps()
    large = torch.rand(3, 2, 1, 37, 50, dtype=torch.float64)
    small = resize(large.flatten(0, 1), (19, 26)).view_as(masks)
    torch.testing.assert_close(side_map_losses(logits, large), side_map_losses(logits, small))


def test_a_stream_alone_needs_no_pairs() -> None:
    logits, masks = _maps()
    flat = side_map_losses([x.flatten(0, 1) for x in logits], masks.flatten(0, 1))
    assert torch.equal(flat, side_map_losses(logits, masks))


def test_the_loss_of_a_batch_is_the_mean_of_its_pairs() -> None:
    logits, masks = _maps()
    alone = [side_map_losses([x[i : i + 1] for x in logits], masks[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(side_map_losses(logits, masks), torch.stack(alone).mean(0), rtol=1e-13, atol=0)


def test_a_perfect_prediction_costs_nothing() -> None:
    masks = torch.zeros(1, 2, 1, 20, 30)
    masks[..., 5:12, 8:20] = 1
    losses = side_map_losses([200 * masks - 100] * 4, masks)
    torch.testing.assert_close(losses, torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mask", [0.0, 1.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_value_and_gradient_are_finite_whatever_the_logits_and_masks(
    dtype: torch.dtype, mask: float, autocast: bool
) -> None:
    for logit, scale in itertools.product((-60000.0, -104.0, -88.0, 0.0, 88.0, 60000.0), (1.0, 65536.0)):
        logits = torch.full((4, 1, 2, 1, 16, 24), logit, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = side_map_losses(tuple(logits), torch.full((1, 2, 1, 16, 24), mask))
        (gradient,) = torch.autograd.grad((losses * scale).sum(), logits)
        assert losses.isfinite().all() and (losses >= 0).all(), (logit, losses)
        # A loss scale may overflow half precision itself; the scaler then skips the step.
        assert gradient.isfinite().all() or (dtype == torch.float16 and scale > 1), logit


def test_the_precision_is_float32_at_least_and_autocast_does_not_lower_it() -> None:
    logits, masks = _maps()
    assert side_map_losses(logits, masks).dtype == torch.float64
    single, single_masks = [x.float() for x in logits], masks.float()
    assert side_map_losses([x.bfloat16() for x in logits], single_masks).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(side_map_losses(single, single_masks), side_map_losses(single, single_masks))
        inside = side_map_losses(single, single_masks)
    assert torch.equal(inside, side_map_losses(single, single_masks))
