"""Pictures and annotations of every format and form come out right, as Pillow, not OpenCV, says."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rtnet.data.images import (
    check_image,
    decode_annotation,
    decode_image,
    decode_mask,
    encode_mask,
    encode_png,
    image_size,
)
from rtnet.errors import UserError
from tests.test_images import GREY, MASK, PICTURE, RNG, encoded


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


_COLOUR = Image.fromarray(np.kron(PICTURE[::3, ::5], np.ones((3, 5, 1), np.uint8)))
_WITH_ALPHA = _COLOUR.copy()
_WITH_ALPHA.putalpha(Image.fromarray(np.tile(np.arange(0, 250, 5, dtype=np.uint8), (33, 1))))
_SIXTEEN = Image.fromarray(np.asarray(_COLOUR.convert("L"), np.uint16) * 256 + 255)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        *((_COLOUR, kind) for kind in ("PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG")),
        *((_COLOUR.convert("L"), kind) for kind in ("PNG", "PPM", "BMP", "TIFF", "GIF", "JPEG")),
        *((_COLOUR.convert("1"), kind) for kind in ("PNG", "PPM", "BMP", "TIFF", "GIF")),
        *((_COLOUR.quantize(40), kind) for kind in ("PNG", "BMP", "TIFF", "GIF")),
        *((_WITH_ALPHA, kind) for kind in ("PNG", "TIFF")),
        *((_WITH_ALPHA.convert("LA"), kind) for kind in ("PNG", "TIFF")),
        *((_COLOUR.convert("CMYK"), kind) for kind in ("JPEG", "TIFF")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_pictures_of_every_form_are_what_pillow_makes_of_them_and_their_size_is_known(
    image: Image.Image, kind: str
) -> None:
    data = _saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    picture = decode_image(data)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - expected).max() <= (1 if image.mode == "CMYK" else 0)
    assert check_image(data, "a") == image_size(data, "a") == (33, 50)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_16_bits_the_upper_eight_are_taken(kind: str) -> None:
    data = _saved(_SIXTEEN, kind)
    assert np.array_equal(decode_image(data), np.dstack([np.asarray(_COLOUR.convert("L"))] * 3))
    assert check_image(data, "a") == (33, 50)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_several_pictures_in_one_file_the_first_is_taken(kind: str) -> None:
    other = Image.fromarray(np.zeros((33, 50, 3), np.uint8))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _saved(_COLOUR.quantize(9).convert("RGB"), kind, save_all=True, append_images=[other], **options)
    assert np.array_equal(decode_image(data), np.asarray(_COLOUR.quantize(9).convert("RGB")))


def test_colours_under_full_transparency_are_kept() -> None:
    clear = _COLOUR.copy()
    clear.putalpha(0)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode_image(_saved(clear, kind)), np.asarray(_COLOUR))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what is missing
@pytest.mark.parametrize("kind", ["PPM", "BMP", "TIFF", "WEBP", "GIF"])
def test_a_cut_picture_of_any_form_is_refused_or_whole(kind: str) -> None:
    data = _saved(_COLOUR.resize((20, 14)), kind)
    whole = decode_image(data)
    for cut in range(0, len(data), 1 if kind == "WEBP" else 7):
        try:
            check_image(data[:cut], "bear/00003")
        except UserError as error:
            assert str(error).startswith("bear/00003: ")
        else:
            assert np.array_equal(decode_image(data[:cut]), whole)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_masks_are_right_in_other_formats(kind: str) -> None:
    assert np.array_equal(decode_annotation(_saved(Image.fromarray(GREY), kind)), MASK)


def test_noise_of_a_jpeg_is_no_object() -> None:
    blocks = np.kron(RNG.random((6, 8)) > 0.5, np.ones((8, 8), bool))
    assert np.array_equal(decode_annotation(encoded(blocks.astype(np.uint8) * 255, "JPEG", quality=60)), blocks)
    assert not decode_annotation(encoded(np.full((48, 64), 1, np.uint8), "JPEG", quality=60)).any()
    assert decode_annotation(encoded(np.full((48, 64), 1, np.uint8))).all()


def test_void_is_no_object_in_a_palette_or_among_grey_labels_but_a_plain_mask_keeps_its_255() -> None:
    labels = np.array([[0, 1, 2, 255, 0, 255]], np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette([7, 7, 7] * 256)
    expected = [[False, True, True, False, False, False]]
    assert np.array_equal(decode_annotation(_saved(palette, "PNG"), void=255), expected)
    assert np.array_equal(decode_annotation(encoded(labels), void=255), expected)
    assert np.array_equal(decode_annotation(encoded(GREY), void=255), MASK)
    only_void = Image.fromarray(GREY)
    only_void.putpalette([7, 7, 7] * 256)
    assert not decode_annotation(_saved(only_void, "PNG"), void=255).any()


def test_all_but_the_background_is_object_where_it_is_given() -> None:
    grey = np.array([[0, 40, 80, 255]], np.uint8)
    for kind in ("PPM", "PNG"):
        assert np.array_equal(decode_annotation(encoded(grey, kind), background=(0, 80)), [[False, True, False, True]])
    colours = np.array([[[255, 255, 255], [0, 0, 0], [0, 0, 255], [255, 0, 0]]], np.uint8)
    expected = [[False, True, True, False]]
    for image in (Image.fromarray(colours), Image.fromarray(colours).quantize(4)):
        data = _saved(image, "PNG")
        assert np.array_equal(decode_annotation(data, background=(0xFFFFFF, 0xFF0000)), expected)


@pytest.mark.parametrize("shape", [(33, 50), (1, 1), (7, 9)])
def test_masks_come_back_and_are_plain_grey_pngs(shape: tuple[int, int]) -> None:
    for mask in (RNG.random(shape) > 0.5, np.zeros(shape, bool), np.ones(shape, bool)):
        data = encode_mask(mask)
        decoded = decode_mask(data)
        assert decoded.dtype == np.bool_ and np.array_equal(decoded, mask)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("L")), np.where(mask, 255, 0))
    assert np.array_equal(decode_mask(encode_png(MASK)), MASK)
    with pytest.raises(UserError, match="bear/3"):
        decode_mask(b"no picture", "bear/3")


def test_png_is_lossless_at_any_compression() -> None:
    picture = np.asarray(_COLOUR)
    quick, small = encode_png(picture, compression=0), encode_png(picture, compression=9)
    assert len(quick) > len(small)
    assert np.array_equal(decode_image(quick), picture) and np.array_equal(decode_image(small), picture)
