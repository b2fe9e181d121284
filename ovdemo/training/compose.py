"""Training pictures made from photographs: crops and pasted cut-outs, all drawn from one generator."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import cv2
import numpy as np

from ovdemo.errors import UserError
from ovdemo.systems.fcclip import SIZE_DIVISOR
from ovdemo.training.canvas import Canvas, Sprite, cut, cut_ids, jitter_colours, turn
from ovdemo.training.concepts import NAMELESS
from ovdemo.training.mentions import without_mentions
from ovdemo.training.photos import Box, Layer, Photo, PhotoStore, Segment
from ovdemo.training.scenes import Scene

_MASKED = frozenset({"camvid", "ccp", "coco_inst", "coco_stuff"})
_LABELLED = _MASKED | {"indoor85"}
_PLAIN = frozenset({"bsds500", "flickr8k"})  # photographs to paste on
_WEIGHTS = {"camvid": 0.4, "ccp": 0.5}  # sets of many photographs of the same few streets, or of one person each
_SHARES = {"camvid": 0.28, "ccp": 0.32, "coco_inst": 0.32, "coco_stuff": 0.08}  # of the masked photographs drawn
_SMALL = 192  # pixels a side that every photograph bears to be enlarged to, the smallest three times
_MIN_REGION = 400  # pixels of a region to learn a name from
_MIN_MASK = 64  # pixels of a mask to learn a shape from
_MIN_SHARE = 0.3  # what must stay visible of it
_MIN_CUTOUT = 300  # pixels in its photograph
_FILLED = 0.88  # share of a box above which a cut-out is the box itself
_MAX_STRETCH = 4 / 3
_TURN = 15.0  # degrees
_MOVED = 0.4  # of the photographs named by a cut-out: it is put before another photograph
_TRIES = 20

_Draft = Callable[[int, np.random.Generator], Canvas]  # makes a canvas of a side

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cutout:
    """A segment that can be pasted, and the map that holds it."""

    photo: Photo
    ids: np.ndarray
    segment: Segment


class Weighted(Generic[T]):
    """Items to draw from with chances in proportion to their weights."""

    def __init__(self, items: Sequence[T], weights: Iterable[float]) -> None:
        self.items = items
        self._sums = np.cumsum(list(weights))

    def draw(self, rng: np.random.Generator) -> T:
        """One item."""
        return self.items[int(np.searchsorted(self._sums, rng.random() * self._sums[-1], "right"))]


class Balanced(Generic[T]):
    """Items by concept: each concept is drawn as often as any other, then one of its items."""

    def __init__(self, items: Iterable[tuple[int, T]]) -> None:
        groups = defaultdict(list)
        for concept, item in items:
            groups[concept].append(item)
        self._groups = [groups[concept] for concept in sorted(groups)]

    def __bool__(self) -> bool:
        return bool(self._groups)

    def draw(self, rng: np.random.Generator) -> T:
        """One item."""
        return _pick(_pick(self._groups, rng), rng)


class Composer:
    """Makes square training pictures of ``side`` pixels from the photographs of a store.

    Every draw comes from the generator passed in, so that equal generators give equal pictures.
    """

    def __init__(self, store: PhotoStore, side: int) -> None:
        """Sort the photographs by what they are good for.

        Raises:
            ValueError: ``side`` is not a multiple of 32.
        """
        if side % SIZE_DIVISOR:
            raise ValueError(f"side is {side}; it must be a multiple of {SIZE_DIVISOR}")
        self._side = side
        self._concepts = store.concepts
        whole = [(photo.concept, photo) for photo in store.photos if photo.concept >= 0]
        self._whole = Balanced(whole)
        self._whole_large = Balanced((concept, photo) for concept, photo in whole if _is_large(photo))
        objects = [(p.concept, p) for p in store.photos if any(layer.kind == "cutout" for layer in p.layers)]
        self._objects = Balanced(objects)
        self._objects_large = Balanced((concept, photo) for concept, photo in objects if _is_large(photo))
        self._cutouts = Balanced((cutout.segment.concept, cutout) for cutout in _cutouts(store))
        self._named_cutouts = Balanced((c.segment.concept, c) for c in _cutouts(store) if c.segment.concept >= 0)
        self._labelled = _by_rarity([photo for photo in store.photos if photo.folder in _LABELLED])
        self._masked = _by_rarity([photo for photo in store.photos if photo.folder in _MASKED], _SHARES)
        self._complete = {folder: store.concepts.marked_fully(folder) for folder in _MASKED}
        self._regions = [p for p in store.photos if any(layer.kind == "regions" for layer in p.layers)]
        self._plain = [photo for photo in store.photos if photo.folder in _PLAIN]
        self._captioned = captioned(store)
        self._kinds = self._kinds_of_regions()
        self._drafts = self._kinds_of_drafts()

    def region_scene(self, rng: np.random.Generator) -> Scene:
        """A picture with named regions only, each of at least 400 pixels: two crops of a labelled photograph for each
        picture with cut-outs pasted on.

        Raises:
            UserError: the data have no named regions to show.
        """
        for _ in range(_TRIES if self._kinds.items else 0):
            scene = self._kinds.draw(rng)(rng)
            if len(scene.masks):
                return scene
        raise UserError("The training photographs show too few named regions; use more sets or hold out less.")

    def object_scene(self, side: int, rng: np.random.Generator) -> Scene:
        """Most of a photograph that shows one thing, ``side`` pixels a side, as one region: all of it, or in half of
        those with a cut-out, the cut-out if it fills a sixteenth. In two of five of the latter other surroundings are
        put behind it, so that a thing is known by itself. Half of the pictures are turned by up to 15 degrees.

        Raises:
            UserError: the data have no such photographs.
        """
        photos = self._whole if side <= _SMALL else self._whole_large
        if not photos:
            raise UserError("The training photographs have no names of their own; add a set whose photographs do.")
        photo = photos.draw(rng)
        window, flip = _resized_crop(photo, (side, side), (0.4, 1.0), rng), _coin(rng)
        angle = rng.uniform(-_TURN, _TURN) if _coin(rng) else 0.0
        pixels = turn(cut(photo.pixels, window, (side, side), flip=flip), angle)
        mask = np.ones((side, side), bool)
        ids = next((layer.ids for layer in photo.layers if layer.kind == "cutout"), None)
        if ids is not None and _coin(rng):
            shape = turn((cut_ids(ids, window, (side, side), flip=flip) == 1).view(np.uint8), angle) == 1
            if 16 * np.count_nonzero(shape) >= side * side:
                mask = shape
                if self._plain and rng.random() < _MOVED:
                    pixels = self._put_elsewhere(pixels, shape, rng)
        pixels = jitter_colours(pixels, rng)
        is_thing = np.array([self._concepts.entries[photo.concept].isthing])
        return Scene(pixels, mask[None], np.array([photo.concept]), is_thing, mask)

    def _put_elsewhere(self, pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What a mask (S, S) covers, before a piece of another photograph."""
        side, photo = len(mask), _pick(self._plain, rng)
        window = _resized_crop(photo, (side, side), (0.2, 1.0), rng)
        canvas = Canvas(cut(photo.pixels, window, (side, side), flip=False))
        opacity = np.asarray(cv2.GaussianBlur(mask.view(np.uint8) * 255, (3, 3), 0))
        canvas.paste(Sprite(pixels, opacity, NAMELESS, is_thing=True), 0, 0)
        return canvas.pixels

    def panoptic_scene(self, rng: np.random.Generator) -> Scene:
        """A crowded picture with all that is marked in it, named or not, each mask of at least 64 pixels.

        A crop of a photograph, or in one of ten pictures four crops at half size; half of them with up to eight
        cut-outs on top.

        Raises:
            UserError: the data have no masks to show.
        """
        for _ in range(_TRIES if self._drafts.items else 0):
            canvas = self._four_drafts(rng) if rng.random() < 0.1 else self._drafts.draw(rng)(self._side, rng)
            canvas.drop_twins()
            for _ in range(rng.integers(1, 9) if self._cutouts and _coin(rng) else 0):
                _paste(canvas, self._cutouts.draw(rng), (24, 220), rng)
            canvas.pixels = jitter_colours(canvas.pixels, rng)
            scene = canvas.scene(_MIN_MASK, 0, named_only=False)
            if len(scene.masks):
                return scene
        raise UserError("The training photographs show too few masks; use more sets.")

    def caption_scene(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Most of a photograph, (side, side, 3) uint8, and a sentence about it that names nothing held out.

        Raises:
            UserError: no photograph has such a sentence.
        """
        if not self._captioned:
            raise UserError("The training photographs have no captions; add a set that has some.")
        photo, captions = _pick(self._captioned, rng)
        window = _resized_crop(photo, (self._side, self._side), (0.6, 1.0), rng)
        pixels = cut(photo.pixels, window, (self._side, self._side), flip=_coin(rng))
        return jitter_colours(pixels, rng), _pick(captions, rng)

    def _kinds_of_regions(self) -> Weighted[Callable[[np.random.Generator], Scene]]:
        kinds: list[tuple[Callable[[np.random.Generator], Scene], float]] = []
        if self._labelled.items:
            kinds.append((self._labelled_scene, 0.67))
        if self._named_cutouts and (self._labelled.items or self._plain):
            kinds.append((self._pasted_scene, 0.33))
        return Weighted([kind for kind, _ in kinds], [weight for _, weight in kinds])

    def _kinds_of_drafts(self) -> Weighted[_Draft]:
        kinds: list[tuple[_Draft, float]] = []
        if self._masked.items:
            kinds.append((self._masked_draft, 0.54))
        if self._regions:
            kinds.append((self._regions_draft, 0.08))
        if self._objects_large:
            kinds.append((self._object_draft, 0.38))
        return Weighted([kind for kind, _ in kinds], [weight for _, weight in kinds])

    def _four_drafts(self, rng: np.random.Generator) -> Canvas:
        half = self._side // 2
        drafts = [self._drafts.draw(rng)(half, rng) for _ in range(4)]
        complete = frozenset.intersection(*(draft.complete for draft in drafts))
        canvas = Canvas(np.zeros((self._side, self._side, 3), np.uint8), complete)
        for draft, (left, top) in zip(drafts, ((0, 0), (half, 0), (0, half), (half, half)), strict=True):
            canvas.embed(draft, left, top)
        return canvas

    def _masked_draft(self, side: int, rng: np.random.Generator) -> Canvas:
        photo = self._masked.draw(rng)
        canvas = _crop_canvas(photo, photo.layers, side, self._scales(side), rng)
        crowds = {segment.concept for layer in photo.layers for segment in layer.segments if segment.crowd}
        canvas.complete = self._complete[photo.folder] - crowds
        return canvas

    def _regions_draft(self, side: int, rng: np.random.Generator) -> Canvas:
        photo = _pick(self._regions, rng)
        level = _pick([layer for layer in photo.layers if layer.kind == "regions"], rng)
        return _crop_canvas(photo, [level], side, self._scales(side), rng)

    def _object_draft(self, side: int, rng: np.random.Generator) -> Canvas:
        photo = (self._objects if side <= _SMALL else self._objects_large).draw(rng)
        shapes = [layer for layer in photo.layers if layer.kind == "cutout"]
        return _crop_canvas(photo, shapes, side, self._scales(side), rng)

    def _scales(self, side: int) -> tuple[float, float]:
        """A smaller canvas shows as much of a photograph as a full one."""
        return 0.6 * side / self._side, 2.0 * side / self._side

    def _labelled_scene(self, rng: np.random.Generator) -> Scene:
        return self._named_scene(self._labelled_crop(rng), rng)

    def _pasted_scene(self, rng: np.random.Generator) -> Scene:
        if self._plain and (not self._labelled.items or _coin(rng)):
            canvas = _crop_canvas(_pick(self._plain, rng), (), self._side, (0.75, 2.0), rng)
        else:
            canvas = self._labelled_crop(rng)
        for _ in range(rng.integers(1, 7)):
            _paste(canvas, self._named_cutouts.draw(rng), (32, 200), rng)
        return self._named_scene(canvas, rng)

    def _labelled_crop(self, rng: np.random.Generator) -> Canvas:
        photo = self._labelled.draw(rng)
        return _crop_canvas(photo, photo.layers, self._side, (0.75, 2.0), rng)

    def _named_scene(self, canvas: Canvas, rng: np.random.Generator) -> Scene:
        canvas.pixels = jitter_colours(canvas.pixels, rng)
        return canvas.scene(_MIN_REGION, _MIN_SHARE, named_only=True)


def _is_large(photo: Photo) -> bool:
    """Whether it bears being shown at more than :data:`_SMALL` pixels a side."""
    return bool(3 * min(photo.pixels.shape[:2]) > _SMALL)


def _pick(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    """A factor between two, as often doubled as halved."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _cutouts(store: PhotoStore) -> Iterator[Cutout]:
    """Single things that can be pasted; clothes alone, without who wears them, would look odd."""
    for photo in store.photos:
        for layer in photo.layers:
            if layer.kind in ("instances", "cutout") and layer.ids is not None:
                for segment in layer.segments:
                    whole = layer.kind != "cutout" or _has_outline(segment, layer.ids.shape)
                    if whole and segment.is_thing and not segment.crowd and segment.area >= _MIN_CUTOUT:
                        yield Cutout(photo, layer.ids, segment)


def _has_outline(segment: Segment, size: tuple[int, ...]) -> bool:
    """Whether an automatic cut-out follows an object; where it fills its box or the photograph, the cut failed."""
    x, y, width, height = segment.box
    touched = (x == 0) + (y == 0) + (x + width == size[1]) + (y + height == size[0])
    return bool(touched < 3 and segment.area < _FILLED * width * height)


def _by_rarity(photos: Sequence[Photo], shares: Mapping[str, float] | None = None) -> Weighted[Photo]:
    """Photographs with something marked; those of rare concepts come more often.

    With ``shares`` each set comes as often as they say: few streets and few people would else be learned from hundreds
    of photographs of rare things.
    """
    shown = {photo: [s.concept for layer in photo.layers for s in layer.segments] for photo in photos}
    counts = Counter(concept for concepts in shown.values() for concept in concepts)
    rarity = {concept: count**-0.5 for concept, count in counts.items()}
    chosen = [photo for photo in photos if shown[photo]]
    weights = [float(np.mean([rarity[c] for c in shown[photo]])) for photo in chosen]
    if shares is None:
        return Weighted(chosen, [_WEIGHTS.get(p.folder, 1) * w for p, w in zip(chosen, weights, strict=True)])
    totals: defaultdict[str, float] = defaultdict(float)
    for photo, weight in zip(chosen, weights, strict=True):
        totals[photo.folder] += weight
    return Weighted(chosen, [shares[p.folder] / totals[p.folder] * w for p, w in zip(chosen, weights, strict=True)])


def maskable(store: PhotoStore) -> np.ndarray:
    """(V,) bool: concepts with a mask, made by people, cut out automatically or all of a photograph."""
    named = np.zeros(len(store.concepts), bool)
    masks = (layer for photo in store.photos for layer in photo.layers if layer.kind != "boxes")
    named[[segment.concept for layer in masks for segment in layer.segments if segment.concept >= 0]] = True
    named[[photo.concept for photo in store.photos if photo.concept >= 0]] = True
    return named


def captioned(store: PhotoStore) -> list[tuple[Photo, tuple[str, ...]]]:
    """Photographs with those of their captions that name nothing held out; none without any."""
    held_out = [name for index in store.concepts.held_out for name in store.concepts.entries[index].names]
    kept = [(photo, without_mentions(photo.captions, held_out)) for photo in store.photos if photo.captions]
    return [(photo, captions) for photo, captions in kept if captions]


def _resized_crop(photo: Photo, size: tuple[int, int], shares: tuple[float, float], rng: np.random.Generator) -> Box:
    """A window of a random share of the photograph's area and about the shape of ``size``, (width, height)."""
    height, width = photo.pixels.shape[:2]
    area = rng.uniform(*shares) * width * height
    aspect = size[0] / size[1] * _between(0.8, 1.25, rng)
    w, h = min(width, round((area * aspect) ** 0.5)), min(height, round((area / aspect) ** 0.5))
    return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h


def _zoomed_window(photo: Photo, side: int, scales: tuple[float, float], rng: np.random.Generator) -> Box:
    """A window that comes out magnified by a random factor (large-scale jitter; Ghiasi et al. 2021, section 3).

    Where the photograph is too small for that factor, the window ends at its borders and is stretched a little, so
    that no part of the picture is blank.
    """
    height, width = photo.pixels.shape[:2]
    wanted = round(side / _between(*scales, rng))
    w, h = min(wanted, width), min(wanted, height)
    w, h = min(w, round(_MAX_STRETCH * h)), min(h, round(_MAX_STRETCH * w))
    return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h


def _crop_canvas(
    photo: Photo, layers: Sequence[Layer], side: int, scales: tuple[float, float], rng: np.random.Generator
) -> Canvas:
    """A random window of a photograph with the segments of the layers, crowds aside."""
    window, flip = _zoomed_window(photo, side, scales, rng), _coin(rng)
    canvas = Canvas(cut(photo.pixels, window, (side, side), flip=flip))
    for layer in layers:
        ids = None if layer.ids is None else cut_ids(layer.ids, window, (side, side), flip=flip)
        for segment in layer.segments:
            if not segment.crowd and _overlap(segment.box, window):
                mask = _box_mask(segment.box, window, side, flip=flip) if ids is None else ids == segment.id
                canvas.add(mask, segment.concept, segment.is_thing)
    return canvas


def _overlap(box: Box, window: Box) -> bool:
    apart_x = box[0] >= window[0] + window[2] or window[0] >= box[0] + box[2]
    apart_y = box[1] >= window[1] + window[3] or window[1] >= box[1] + box[3]
    return not (apart_x or apart_y)


def _box_mask(box: Box, window: Box, side: int, *, flip: bool) -> np.ndarray:
    """A rectangle of the photograph, filled, as it comes out in the window."""
    scale_x, scale_y = side / window[2], side / window[3]
    left, top = (box[0] - window[0]) * scale_x, (box[1] - window[1]) * scale_y
    right, bottom = left + box[2] * scale_x, top + box[3] * scale_y
    mask = np.zeros((side, side), bool)
    mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
    return np.ascontiguousarray(mask[:, ::-1]) if flip else mask


def _paste(canvas: Canvas, cutout: Cutout, sizes: tuple[int, int], rng: np.random.Generator) -> None:
    """Paste an object at a random place, with a longer side of between ``sizes`` pixels (Ghiasi et al. 2021)."""
    sprite = _sprite(cutout, sizes, rng)
    height, width = sprite.opacity.shape
    side = canvas.pixels.shape[0]
    left = int(rng.integers(-width // 4, max(1, side - 3 * width // 4)))
    top = int(rng.integers(-height // 4, max(1, side - 3 * height // 4)))
    canvas.paste(sprite, left, top)


def _sprite(cutout: Cutout, sizes: tuple[int, int], rng: np.random.Generator) -> Sprite:
    x, y, width, height = cutout.segment.box
    longer = max(width, height)
    # Beyond two and a half times its size a thing is a blur.
    scale = _between(sizes[0], max(sizes[0] + 1, min(sizes[1], 2.5 * longer)), rng) / longer
    size = max(1, round(width * scale)), max(1, round(height * scale))
    window, flip = cutout.segment.box, _coin(rng)
    mask = (cutout.ids[y : y + height, x : x + width] == cutout.segment.id).view(np.uint8) * 255
    opacity = cv2.GaussianBlur(cut(mask, (0, 0, width, height), size, flip=flip), (3, 3), 0)
    light = rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3)
    pixels = cv2.transform(cut(cutout.photo.pixels, window, size, flip=flip), np.diag(light).astype(np.float32))
    return Sprite(np.asarray(pixels), np.asarray(opacity), cutout.segment.concept, cutout.segment.is_thing)
