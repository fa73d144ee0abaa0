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
        if _ends_early(data, image.format):
            raise UserError(f"{origin}: the picture is truncated: copy the file again")
        return image.height, image.width


def decode_image(data: bytes, origin: str = "picture") -> Picture:
    """An encoded picture as uint8 (H, W, 3) RGB, its pixels as stored: EXIF orientation is ignored, as DAVIS does.

    Raises UserError naming `origin` where it is no picture; only `check_image` notices every truncated one.
    """
    buffer = np.frombuffer(data, np.uint8)
    bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if buffer.size else None
    if bgr is None:
        raise UserError(f"{origin}: not a picture that OpenCV can decode")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def decode_annotation(data: bytes, origin: str = "annotation") -> Mask:
    """The primary object's mask, bool (H, W), from an encoded annotation or result.

    Grey (an alpha channel is ignored): above half of the picture's largest value. This is how the official DAVIS 2016
    evaluation reads results, and for annotations, where it admits two values only, it equals non-zero.
    Palette: any index but 0. Colour: any colour but black, unless the picture is grey throughout.
    Raises UserError naming `origin` where it cannot be decoded.
    """
    with _opened(data, origin) as image:
        if image.mode == "P":
            return np.asarray(image) > 0
        if image.mode not in ("1", "L", "LA", "I;16", "I", "F"):
            image = image.convert("RGB")
        values = np.asarray(image)
    if values.ndim == 3 and values.shape[2] == 3 and (values != values[..., :1]).any():
        return np.asarray(values.any(axis=2))
    grey = values if values.ndim == 2 else values[..., 0]
    return np.asarray(grey > grey.max() / 2)


def encode_png(picture: Picture | Mask) -> bytes:
    """PNG of a grey uint8 (H, W), a bool (H, W), written as 0 and 255, or an RGB uint8 (H, W, 3); without loss."""
    scale = 255 if picture.dtype == np.bool_ else 1
    return _encode(".png", picture.astype(np.uint8) * np.uint8(scale), [])


def encode_jpeg(picture: Picture, quality: int = 92) -> bytes:
    """JPEG of a grey uint8 (H, W) or RGB uint8 (H, W, 3); quality 1..100."""
    return _encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def overlay(image: Picture, mask: Mask, annotation: Mask | None = None) -> Picture:
    """uint8 (H, W, 3): the picture with the mask tinted and outlined in red, the annotation outlined in green."""
    if mask.shape != image.shape[:2] or (annotation is not None and annotation.shape != mask.shape):
        raise ValueError("overlay: picture, mask and annotation differ in size")
    tinted = image.astype(np.float32)
    tinted[mask] = 0.55 * tinted[mask] + 0.45 * np.array(_MASK_COLOUR, np.float32)
    result = np.ascontiguousarray(tinted.round().astype(np.uint8))
    thickness = max(1, round(image.shape[0] / 240))
    _outline(result, mask, _MASK_COLOUR, thickness)
    if annotation is not None:
        _outline(result, annotation, _ANNOTATION_COLOUR, thickness)
    return result


def _opened(data: bytes, origin: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError:
        raise UserError(f"{origin}: not a picture") from None
    # Pillow reports broken files as any of these; SyntaxError is its word for a broken PNG.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{origin}: the picture is truncated or broken ({error}): copy the file again") from None
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
