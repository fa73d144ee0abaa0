"""Folders of pictures that follow no benchmark: single images with masks, and videos as folders of frames."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from rtnet.data.layouts.folders import frames_of, is_folder, match, pictures, some, subfolders
from rtnet.data.layouts.manifest import Frame, Listing, Sequence, Source
from rtnet.errors import UserError

_IMAGES = frozenset({"image", "images", "img", "imgs", "jpegimages", "frames"})
_MASKS = frozenset({"mask", "masks", "gt", "gts", "annotation", "annotations", "groundtruth", "ground-truth"})
_GROUP = 256


def list_stills(source: Source) -> Listing:
    """Images that are no video, in groups of 256 by name: 00000, 00001 ... A frame's number is its place in the group.

    The root holds a folder whose name is, or ends with, Image(s), Img(s) or frames, and one likewise Mask(s), GT or
    Annotations, with the same stems; or it holds the images itself. `annotations` names the folder of masks instead.
    Where there is a folder of masks, an image without its mask, or two images of one name, are a fault of their group.
    """
    images = _named(source.root, _IMAGES, endings=True) or source.root
    masks = source.annotations or _named(source.root, _MASKS, endings=True)
    found = pictures(images)
    if not found:
        raise UserError(f"{images}: holds no pictures: give the folder of the images, or the one that holds it")
    annotations = None if masks is None else pictures(masks)
    if annotations is not None and not {mask.stem for mask in annotations} & {image.stem for image in found}:
        raise UserError(f"{masks}: holds no mask named like an image of {images}")
    listing: Listing = []
    for start in range(0, len(found), _GROUP):
        blank = Sequence(source.dataset, source.split or "train", f"{start // _GROUP:05d}", (), kind="stills")
        group = found[start : start + _GROUP]
        listing.append((blank, partial(_fill_stills, group, masks, annotations)))
    return listing


def list_frames(source: Source) -> Listing:
    """Videos as folders of frames: ROOT/SEQUENCE, or ROOT itself, then one sequence of the root's name.

    Frames may lie a folder deeper, in JPEGImages, Images or frames, with masks beside it, in Annotations, Masks or
    GT: SEQUENCE/STEM.png for each SEQUENCE/STEM.jpg. `annotations` names the folder of masks instead. Frames without
    a mask have no annotation; a mask without a frame is a fault. Stems that are all integers are ordered by value.
    """
    root = source.root
    images = _named(root, _IMAGES) or root
    masks = source.annotations or _named(root, _MASKS)
    blank = Sequence(source.dataset, source.split or "train", root.resolve().name or "frames", ())
    if pictures(images):
        own = None if masks is None or not is_folder(masks / blank.name) else masks / blank.name
        if source.annotations is not None and not pictures(own or source.annotations):
            raise UserError(f"{own or source.annotations}: holds no masks of the frames in {images}")
        return [(blank, partial(_fill_frames, images, own or masks))]
    inner = [folder for folder in subfolders(images) if folder.name.lower() not in _MASKS]
    if not inner:
        raise UserError(f"{images}: holds neither pictures nor folders of them")
    if masks is not None and not {folder.name for folder in subfolders(masks)} & {folder.name for folder in inner}:
        raise UserError(f"{masks}: holds no folder named like a sequence of {images}")
    listing: Listing = []
    for folder in inner:
        own = None if masks is None else masks / folder.name
        listing.append((replace(blank, name=folder.name), partial(_fill_frames, folder, own)))
    return listing


def _fill_stills(images: list[Path], folder: Path | None, annotations: list[Path] | None, blank: Sequence) -> Sequence:
    stems = {image.stem for image in images}
    matched = match(images, [mask for mask in annotations or () if mask.stem in stems])
    for image, mask in matched:
        if mask is None and annotations is not None:
            raise UserError(f"{image}: its mask is missing from {folder}: add it or remove the image")
    if len(stems) < len(images):
        frames_of(matched)  # it says which is the second one
    frames = (Frame(place, image.stem, image, mask) for place, (image, mask) in enumerate(matched))
    return replace(blank, frames=tuple(frames))


def _fill_frames(images: Path, masks: Path | None, blank: Sequence) -> Sequence:
    annotations = pictures(masks) if masks is not None and is_folder(masks) else []
    return replace(blank, frames=frames_of(match(some(images, pictures(images)), annotations)))


def _named(root: Path, names: frozenset[str], endings: bool = False) -> Path | None:
    """The sub-folder of one of these names; with `endings` one that ends so after a dash, as DUTS-TR-Image does."""
    inner = {folder: folder.name.lower() for folder in subfolders(root)}
    found = [folder for folder, name in inner.items() if name in names]
    if endings and not found:
        found = [folder for folder, name in inner.items() if name.replace("_", "-").rsplit("-", 1)[-1] in names]
    if len(found) > 1:
        both = " and ".join(folder.name for folder in found[:2])
        raise UserError(f"{root}: which folder is meant, {both}? Give one that holds only one of them")
    return found[0] if found else None
