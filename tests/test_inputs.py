"""Pictures become the network's inputs."""

import numpy as np
import pytest
import torch

from rtnet.data.inputs import mask_input, network_input, normalise, resize

RNG = np.random.default_rng(0)


def test_resize_keeps_the_corners_and_interpolates_between_them() -> None:
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    expected = torch.linspace(0, 2, 5)[:, None] + torch.linspace(0, 1, 3)[None]
    torch.testing.assert_close(resize(image, (5, 3))[0, 0], expected)
    assert resize(image, (2, 2)) is image


@pytest.mark.parametrize("pictures", [1, 2])
def test_normalise_agrees_with_torchvision_for_frames_and_pairs_of_flow_pictures(pictures: int) -> None:
    from torchvision.transforms.functional import normalize

    images = torch.from_numpy(RNG.integers(0, 256, (2, 2, 3 * pictures, 7, 9), np.uint8))
    expected = normalize(images.double() / 255, [0.485, 0.456, 0.406] * pictures, [0.229, 0.224, 0.225] * pictures)
    ours = normalise(images)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected.float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(normalise(images.double()), expected)


def test_normalise_refuses_what_is_not_rgb() -> None:
    with pytest.raises(ValueError, match="channels in threes"):
        normalise(torch.zeros(1, 4, 5, 5))


def test_pictures_of_several_sizes_are_resized_each() -> None:
    pictures = [RNG.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((9, 7), (4, 6), (9, 7), (5, 5))]
    inputs = network_input(pictures, (8, 6), torch.device("cpu"))
    assert inputs.shape == (4, 3, 8, 6)
    for place, picture in enumerate(pictures):
        alone = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        torch.testing.assert_close(inputs[place], normalise(resize(alone, (8, 6)))[0])


def test_masks_stay_soft_where_they_are_resized() -> None:
    masks = [np.eye(4, dtype=bool), np.ones((3, 3), bool)]
    soft = mask_input(masks, (7, 7), torch.device("cpu"))
    assert soft.shape == (2, 1, 7, 7)
    assert soft[0, 0, 0, 1] == pytest.approx(0.5)
    torch.testing.assert_close(soft[1], torch.ones(1, 7, 7))
