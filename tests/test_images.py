"""Pictures survive their round trips, broken ones are noticed, and a mask is what the benchmark takes for object."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rtnet.data.images import (
    check_image,
    decode_annotation,
    decode_image,
    encode_jpeg,
    encode_png,
    overlay,
)
from rtnet.errors import UserError
from tests.conftest import SHARED_DATA

RNG = np.random.default_rng(0)
PICTURE: NDArray[np.uint8] = RNG.integers(0, 256, (33, 50, 3), np.uint8)
MASK: NDArray[np.bool_] = RNG.random((33, 50)) > 0.6


def encoded(array: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Encoded by Pillow, so that our own encoder does not vouch for our decoder."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_of_colour_grey_and_bool_comes_back_bit_for_bit() -> None:
    assert np.array_equal(decode_image(encode_png(PICTURE)), PICTURE)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(PICTURE[..., 0])))), PICTURE[..., 0])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(MASK)))), np.where(MASK, 255, 0))


def test_colours_are_red_green_blue_in_this_order() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    for data in (encoded(red), encode_png(red), encoded(red, "JPEG", quality=95), encode_jpeg(red)):
        assert np.allclose(decode_image(data).reshape(-1, 3).mean(0), (254, 0, 0), atol=2)


def test_jpeg_is_close_to_what_it_encodes() -> None:
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    assert np.abs(decode_image(encode_jpeg(smooth)).astype(int) - smooth).max() <= 6


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode_image(encoded(PICTURE, "JPEG", exif=exif)).shape == PICTURE.shape


def test_check_image_gives_height_and_width() -> None:
    assert check_image(encoded(PICTURE), "a.png") == (33, 50)
    assert check_image(encoded(PICTURE, "JPEG"), "a.jpg") == (33, 50)


@pytest.mark.parametrize(
    "data",
    [encoded(PICTURE, "JPEG"), encoded(PICTURE, "JPEG", progressive=True), encoded(PICTURE), encoded(MASK)],
    ids=["jpeg", "progressive jpeg", "png", "bilevel png"],
)
def test_a_picture_cut_at_any_byte_is_refused_by_name(data: bytes) -> None:
    check_image(data, "whole")
    cuts = range(len(data)) if len(data) < 2000 else [*range(0, len(data), 37), *range(len(data) - 40, len(data))]
    for cut in cuts:
        with pytest.raises(UserError, match="bear/00003"):
            check_image(data[:cut], "bear/00003")


def test_bytes_after_the_end_of_a_picture_do_no_harm() -> None:
    assert check_image(encoded(PICTURE, "JPEG") + bytes(100), "a.jpg") == (33, 50)
    assert check_image(encoded(PICTURE) + bytes(9000), "a.png") == (33, 50)


@pytest.mark.parametrize("data", [b"", b"not a picture"])
def test_what_is_no_picture_is_refused_by_name(data: bytes) -> None:
    for decode in (check_image, decode_image, decode_annotation):
        with pytest.raises(UserError, match=r"x\.jpg"):
            decode(data, "x.jpg")


def _palette() -> bytes:
    image = Image.fromarray(MASK.astype(np.uint8) * np.uint8(3))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 5, 5, 5])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


GREY: NDArray[np.uint8] = MASK.astype(np.uint8) * np.uint8(255)


@pytest.mark.parametrize(
    "data",
    [
        encoded(GREY),
        encoded(MASK),
        encoded(MASK.astype(np.uint8)),
        encoded(np.dstack([GREY, np.full_like(GREY, 255)])),
        encoded(np.dstack([GREY, np.zeros_like(GREY)])),
        encoded(np.dstack([GREY] * 3)),
        encoded(np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])),
        encoded(np.dstack([GREY // 2, 0 * GREY, 0 * GREY])),
        encoded(GREY.astype(np.uint16) * 257),
        _palette(),
    ],
    ids=["grey", "bilevel", "0 and 1", "alpha", "clear alpha", "rgb", "rgba", "dark red", "16 bit", "palette"],
)
def test_the_object_is_the_same_however_the_annotation_is_stored(data: bytes) -> None:
    mask = decode_annotation(data)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, MASK)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_an_empty_annotation_has_no_object(shape: tuple[int, ...]) -> None:
    assert not decode_annotation(encoded(np.zeros(shape, np.uint8))).any()


def test_every_object_of_a_palette_or_colour_annotation_counts() -> None:
    colours = np.zeros((2, 4, 3), np.uint8)
    colours[0, 1], colours[1, 2] = (128, 0, 0), (0, 0, 64)
    expected = np.zeros((2, 4), bool)
    expected[0, 1] = expected[1, 2] = True
    assert np.array_equal(decode_annotation(encoded(colours)), expected)
    indices = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    indices.putpalette([0, 0, 0] * 256)
    buffer = io.BytesIO()
    indices.save(buffer, "PNG")
    assert np.array_equal(decode_annotation(buffer.getvalue()), np.arange(6).reshape(2, 3) > 0)


def test_grey_edges_are_cut_at_half_of_the_largest_value() -> None:
    assert np.array_equal(decode_annotation(encoded(np.array([[0, 99, 100, 101, 200]], np.uint8))), [[0, 0, 0, 1, 1]])


@pytest.mark.skipif(SHARED_DATA is None, reason="needs the real ground truth")
def test_the_official_ground_truth_is_the_non_zero_pixels() -> None:
    assert SHARED_DATA is not None
    paths = sorted((SHARED_DATA / "oracle" / "ground-truth" / "bmx-bumps").iterdir())[55:65]
    masks = [decode_annotation(path.read_bytes()) for path in paths]
    for path, mask in zip(paths, masks, strict=True):
        assert np.array_equal(mask, np.asarray(Image.open(path)) > 0)
    assert not masks[5].any()  # frame 60 has no object
    assert masks[0].any()


def test_an_overlay_tints_the_mask_outlines_the_annotation_and_leaves_the_rest_alone() -> None:
    picture = np.full((40, 60, 3), 128, np.uint8)
    before = picture.copy()
    mask, annotation = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    mask[10:20, 10:30] = annotation[10:20, 35:50] = True
    result = overlay(picture, mask, annotation)
    assert np.array_equal(picture, before)
    assert result.dtype == np.uint8
    red, green = result[15, 20].astype(int), result[10, 40].astype(int)
    assert red[0] > 150 > red[1]
    assert green[1] > 200
    assert np.array_equal(result[:8], before[:8])
    assert np.array_equal(result[15, 42], (128, 128, 128))
    assert not np.array_equal(overlay(picture, mask, None), result)


def test_an_overlay_of_pictures_that_differ_in_size_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        overlay(PICTURE, np.zeros((3, 4), bool))
