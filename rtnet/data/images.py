"""Pictures: decode, encode, masks from annotations, overlays to look at. Needs no PyTorch: reading tasks are light."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rtnet.errors import UserError

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_MASK_COLOUR = (230, 50, 60)
_ANNOTATION_COLOUR = (60, 220, 90)


def check_image(data: bytes, origin: str) -> tuple[int, int]:
    """(height, width) of an encoded picture, after decoding all of it; UserError naming `origin` where it is cut short.

    OpenCV fills what is missing of a truncated picture with grey and says nothing; Pillow notices.
    """
    with _opened(data, origin) as image:
        return image.height, image.width


def image_size(data: bytes, origin: str) -> tuple[int, int]:
    """(height, width) by the picture's head alone; UserError naming `origin` where there is none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{origin}: not a picture") from None


def decode_image(data: bytes, origin: str = "picture") -> Picture:
    """An encoded picture as uint8 (H, W, 3) RGB, its pixels as stored: EXIF orientation is ignored, as DAVIS does.

    Grey becomes three equal channels, a palette is looked up, alpha is left out, of 16 bits the upper eight are taken,
    of an animation the first picture. Raises UserError naming `origin` where it is no picture; only `check_image`
    notices every truncated one.
    """
    # OpenCV multiplies colours with alpha in these formats, which leaves alpha in.
    if data[:4] in (b"GIF8", b"II*\0", b"MM\0*"):
        return _decoded_by_pillow(data, origin)
    return _decoded(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, origin)


def decode_annotation(
    data: bytes, origin: str = "annotation", void: int | None = None, background: tuple[int, ...] | None = None
) -> Mask:
    """The primary object's mask, bool (H, W), from an encoded annotation or result; all objects together.

    Grey (an alpha channel is ignored): above half of the picture's largest value. This is how the official DAVIS 2016
    evaluation reads results, and for annotations, where it admits two values only, it equals non-zero. A JPEG's values
    up to 15 are noise. Palette: any index but 0. Colour: any colour but black, unless the picture is grey throughout.
    void: the picture holds labels, any but 0 and this palette index or grey value is an object. A grey picture of only
    these two is a mask nevertheless.
    background: every region has its own grey value or colour (0xRRGGBB), and all but these are objects.
    Raises UserError naming `origin` where it cannot be decoded or is cut short.
    """
    with _opened(data, origin) as image:
        noise = 15 if image.format == "JPEG" else 0
        palette = image.mode == "P"
        if palette and background is not None:
            image, palette = image.convert("RGB"), False
        if not palette and image.mode not in ("1", "L", "LA", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        values = np.asarray(image)
    if background is not None:
        return ~np.isin(_packed(values), background)
    if palette:
        return np.asarray((values > 0) & (values != (0 if void is None else void)))
    if values.ndim == 3 and values.shape[2] == 3 and (values != values[..., :1]).any():
        return np.asarray(values.any(axis=2))
    grey = values if values.ndim == 2 else values[..., 0]
    if void is not None and not np.isin(grey, (0, void)).all():
        return np.asarray((grey > 0) & (grey != void))
    return np.asarray(grey > max(grey.max() / 2, noise))


def decode_levels(data: bytes, origin: str = "mask") -> Picture:
    """A mask or map that some method wrote, as grey levels, uint8 (H, W). Decodes once.

    Grey as it is stored, also where the file keeps it as colour or with a grey palette; of 16 bits the upper eight, of
    one bit 0 and 255; alpha is left out. Colours, or a palette that has some, are labels: 255 for any index but 0 and
    any colour but black (up to 15 is a JPEG's noise).
    Raises UserError naming `origin` where it cannot be decoded, is cut short, or is a photograph.
    """
    with _opened(data, origin) as image:
        noise = 15 if image.format == "JPEG" else 0
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _upper_eight_bits(image, origin)
        if image.mode == "P" and not _is_grey(np.array(image.getpalette("RGB")).reshape(-1, 3)):
            return np.asarray(np.asarray(image) > 0, np.uint8) * np.uint8(255)
        if image.mode not in ("L", "LA"):
            image = image.convert("L" if image.mode in ("1", "P") else "RGB")
        values = np.asarray(image)
    if values.ndim == 2:
        return np.asarray(values, np.uint8)
    if values.shape[2] != 3 or _is_grey(values):  # two channels are grey and alpha
        return np.ascontiguousarray(values[..., 0])
    if not _has_few_colours(values):
        raise UserError(f"{origin} is a photograph in colour: a mask or map is grey, or has a colour for each label")
    return np.asarray((values > noise).any(axis=2), np.uint8) * np.uint8(255)


def decode_void(data: bytes, void: int, origin: str = "annotation") -> Mask:
    """Where an annotation that `decode_annotation` reads with this `void` is neither object nor background, (H, W)."""
    with _opened(data, origin) as image:
        palette, values = image.mode == "P", np.asarray(image)
    if values.ndim != 2 or (not palette and np.isin(values, (0, void)).all()):
        return np.zeros(values.shape[:2], bool)
    return np.asarray(values == void)


def encode_mask(mask: Mask) -> bytes:
    """A mask, bool (H, W), as a grey PNG of 0 and 255.

    One bit a pixel: as quick to decode as eight bits at their quickest settings, and less than half the size.
    """
    options = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 1]
    return _encode(".png", mask.astype(np.uint8) * np.uint8(255), options)


def decode_mask(data: bytes, origin: str = "mask") -> Mask:
    """What `encode_mask` encoded, bool (H, W). Raises UserError naming `origin` where it is no picture."""
    return np.asarray(_decoded(data, cv2.IMREAD_GRAYSCALE, origin) > 127)


def encode_png(picture: Picture | Mask, compression: int | None = None) -> bytes:
    """PNG of a grey uint8 (H, W), a bool (H, W), written as 0 and 255, or an RGB uint8 (H, W, 3); without loss.

    compression: 0 to 9, larger is smaller and slower; None for OpenCV's choice.
    """
    scale = 255 if picture.dtype == np.bool_ else 1
    options = [] if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression]
    return _encode(".png", picture.astype(np.uint8) * np.uint8(scale), options)


def encode_jpeg(picture: Picture, quality: int = 92) -> bytes:
    """JPEG of a grey uint8 (H, W) or RGB uint8 (H, W, 3); quality 1..100."""
    return _encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def overlay(image: Picture, mask: Mask, annotation: Mask | None = None, levels: Picture | None = None) -> Picture:
    """uint8 (H, W, 3): the picture with the mask tinted and outlined in red, the annotation outlined in green.

    levels: the mask's map, uint8 (H, W), by which the tint is stronger or weaker.
    """
    if mask.shape != image.shape[:2] or (annotation is not None and annotation.shape != mask.shape):
        raise ValueError("overlay: picture, mask and annotation differ in size")
    tinted = image.astype(np.float32)
    tint = 0.45 * (mask if levels is None else levels / 255).astype(np.float32)[..., None]  # (H, W, 1)
    tinted += tint * (np.array(_MASK_COLOUR, np.float32) - tinted)
    result = np.ascontiguousarray(tinted.round().astype(np.uint8))
    thickness = max(1, round(image.shape[0] / 240))
    _outline(result, mask, _MASK_COLOUR, thickness)
    if annotation is not None:
        _outline(result, annotation, _ANNOTATION_COLOUR, thickness)
    return result


def _decoded(data: bytes, flags: int, origin: str) -> Picture:
    buffer = np.frombuffer(data, np.uint8)
    picture = cv2.imdecode(buffer, flags) if buffer.size else None
    if picture is None:
        raise UserError(f"{origin}: not a picture that OpenCV can decode")
    return np.asarray(picture, np.uint8)


def _decoded_by_pillow(data: bytes, origin: str) -> Picture:
    with _opened(data, origin) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return np.repeat(_upper_eight_bits(image, origin)[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))


def _upper_eight_bits(image: Image.Image, origin: str) -> Picture:
    if image.mode == "F":
        raise UserError(f"{origin}: holds floating-point numbers, not colours: save it with 8 or 16 bits")
    return np.asarray(np.clip(np.asarray(image), 0, 65535).astype(np.uint16) >> 8, np.uint8)


def _is_grey(colours: NDArray[np.generic]) -> bool:
    """Of RGB in the last axis."""
    return bool((colours == colours[..., :1]).all())


def _has_few_colours(rgb: NDArray[np.generic]) -> bool:
    """Whether 32 of all colours, told apart by five bits a channel, fill the picture but for a JPEG's edges."""
    bits = rgb.astype(np.int64) >> 3
    counts = np.bincount((bits @ np.array([1 << 10, 1 << 5, 1])).ravel())
    return bool(np.sort(counts)[-32:].sum() > 0.93 * bits[..., 0].size)


def _packed(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """(H, W): grey values as they are, colours as 0xRRGGBB."""
    numbers = values.astype(np.int64)
    if numbers.ndim == 2:
        return numbers
    if numbers.shape[2] != 3:  # grey and alpha
        return numbers[..., 0]
    return np.asarray(numbers @ np.array([1 << 16, 1 << 8, 1]))


def _opened(data: bytes, origin: str) -> Image.Image:
    """All of the picture, decoded; UserError where it is none or cut short."""
    if not data:
        raise UserError(f"{origin}: the file is empty: copy it again")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError:
        raise UserError(f"{origin}: not a picture") from None
    # Pillow reports broken files as any of these; SyntaxError is its word for a broken PNG.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{origin}: the picture is truncated or broken ({error}): copy the file again") from None
    if _ends_early(data, image.format):
        raise UserError(f"{origin}: the picture is truncated: copy the file again")
    return image


def _ends_early(data: bytes, kind: str | None) -> bool:
    """Whether the end mark is missing: Pillow lets pass a file cut within its last few bytes."""
    if kind == "JPEG":
        # Neither mark can occur within compressed data, where 0xff is followed by 0.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return kind == "PNG" and b"IEND\xae\x42\x60\x82" not in data


def _encode(extension: str, picture: Picture, options: Sequence[int]) -> bytes:
    if picture.ndim == 3:
        picture = np.ascontiguousarray(picture[..., ::-1])
    done, data = cv2.imencode(extension, picture, list(options))
    if not done:
        raise ValueError(f"OpenCV cannot encode an array of shape {picture.shape} as {extension}")
    return data.tobytes()


def _outline(picture: Picture, mask: Mask, colour: tuple[int, int, int], thickness: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, thickness)
