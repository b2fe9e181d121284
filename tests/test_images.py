"""Pictures from strangers: every mode and orientation becomes upright RGB, everything else one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovdemo import images
from ovdemo.errors import UserError
from ovdemo.images import Picture, ResizeRule, file_slug, load_picture, resize

PARITY = Path(os.environ.get("OVDEMO_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "parity" / "fcclip"
CLIP_MEAN = np.array([122.7709383, 116.7460125, 104.09373615])
CLIP_STD = np.array([68.5005327, 66.6321579, 70.32316305])


def encode(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def quadrants(height: int = 24, width: int = 40) -> np.ndarray:
    """Four flat colours, so that each turn and flip of the picture is a different picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 10, 10)
    pixels[: height // 2, width // 2 :] = (10, 200, 10)
    pixels[height // 2 :, : width // 2] = (10, 10, 200)
    pixels[height // 2 :, width // 2 :] = (230, 230, 30)
    return pixels


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_picture_from_bytes() -> None:
    pixels = quadrants()
    picture = load_picture(encode(Image.fromarray(pixels)), "folder/a cat.final.png")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert (picture.height, picture.width) == (24, 40)
    assert picture.pixels.dtype == np.uint8
    assert not picture.pixels.flags.writeable
    assert picture.name == "a cat.final.png"
    assert picture.stem == "a-cat.final"
    assert picture.digest == hashlib.sha256(b"24x40:" + pixels.tobytes()).hexdigest()


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    pixels = quadrants()
    path = tmp_path / "cat.png"
    path.write_bytes(encode(Image.fromarray(pixels)))
    with path.open("rb") as file, Image.open(path) as image:
        sources = [path, str(path), file, image, path.read_bytes(), pixels]
        pictures = [load_picture(source) for source in sources]
    assert len({picture.digest for picture in pictures}) == 1
    assert [picture.name for picture in pictures] == ["cat.png"] * 4 + ["picture"] * 2


def test_digest_depends_on_the_shape() -> None:
    assert load_picture(np.zeros((16, 32, 3), np.uint8)).digest != load_picture(np.zeros((32, 16, 3), np.uint8)).digest


def test_array_is_copied_and_left_alone() -> None:
    pixels = quadrants()
    picture = load_picture(pixels)
    pixels[:] = 0
    assert picture.pixels.any()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
        (99, lambda a: a),
    ],
)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation: int, upright, fmt: str) -> None:
    pixels = quadrants()
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if fmt == "WEBP" else {"quality": 100, "subsampling": 0} if fmt == "JPEG" else {}
    picture = load_picture(encode(Image.fromarray(pixels), fmt, exif=exif, **lossless))
    assert picture.pixels.shape == upright(pixels).shape
    assert np.abs(picture.pixels.astype(int) - upright(pixels)).max() <= 4  # JPEG rounds


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read)")
def test_broken_exif_is_ignored() -> None:
    data = encode(Image.fromarray(quadrants()), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert load_picture(data).pixels.shape == (24, 40, 3)


def transparent_palette() -> Image.Image:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("image", "fmt", "expected"),
    [
        pytest.param(Image.new("1", (20, 20), 1), "PNG", (255, 255, 255), id="1"),
        pytest.param(Image.new("L", (20, 20), 77), "PNG", (77, 77, 77), id="L"),
        pytest.param(Image.new("LA", (20, 20), (0, 128)), "PNG", (127, 127, 127), id="LA"),
        pytest.param(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG", (255, 255, 255), id="RGBA"),
        pytest.param(Image.new("RGBA", (20, 20), (255, 0, 0, 51)), "PNG", (255, 204, 204), id="RGBA, a fifth"),
        pytest.param(Image.new("RGB", (20, 20), (9, 8, 7)).quantize(4), "PNG", (9, 8, 7), id="P"),
        pytest.param(transparent_palette(), "PNG", (255, 255, 255), id="P with transparency"),
        pytest.param(transparent_palette(), "GIF", (255, 255, 255), id="GIF with transparency"),
        pytest.param(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF", (255, 0, 0), id="CMYK"),
        pytest.param(Image.new("I;16", (20, 20), 0x8080), "PNG", (128, 128, 128), id="I;16"),
        pytest.param(Image.new("I;16B", (20, 20), 0x8080), "TIFF", (128, 128, 128), id="I;16B"),
        pytest.param(Image.new("I", (20, 20), 65535), "TIFF", (255, 255, 255), id="I"),
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, fmt: str, expected: tuple[int, int, int]) -> None:
    pixels = load_picture(encode(image, fmt)).pixels
    assert pixels.shape == (20, 20, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels.reshape(-1, 3), np.tile(expected, (400, 1)))


def test_palette_with_alpha_from_pillow() -> None:
    image = Image.new("PA", (20, 20), (0, 0))
    image.putpalette([255, 0, 0])
    assert (load_picture(image).pixels == 255).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_beyond_16_bits_span_darkest_to_brightest(dtype: type) -> None:
    ramp = np.tile(np.linspace(-1_000_000, 3_000_000, 256).astype(dtype), (16, 1))
    np.testing.assert_array_equal(load_picture(Image.fromarray(ramp)).pixels[0, :, 0], np.arange(256))


def test_floats_that_are_not_numbers() -> None:
    values = np.tile(np.array([-np.inf, np.nan, np.inf, 0.0], np.float32), (16, 4))
    assert load_picture(Image.fromarray(values)).pixels[0, :4, 0].tolist() == [0, 128, 255, 128]


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1), (20, 24, 3), (20, 24, 4)])
def test_arrays(shape: tuple[int, ...]) -> None:
    assert (load_picture(np.full(shape, 255, np.uint8)).pixels == 255).all()


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats(fmt: str) -> None:
    assert load_picture(encode(Image.new("RGB", (32, 24), "white"), fmt)).pixels.min() >= 250


def spoil_later_frames(data: bytes, fmt: str) -> bytes:
    """The file with its first frame whole and later ones unreadable."""
    if fmt != "WEBP":
        return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    spoiled = bytearray(data)
    start = data.index(b"VP8L") + 4
    while (start := data.find(b"VP8L", start)) >= 0:
        size = struct.unpack_from("<I", data, start + 4)[0]
        spoiled[start + 13 : start + 8 + size] = b"\xff" * (size - 5)  # all but the five bytes of its header
        start += 8 + size
    return bytes(spoiled)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF"])
def test_only_the_first_of_many_frames_is_decoded(fmt: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 32, 32), np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    lossless = {"lossless": True} if fmt == "WEBP" else {}
    data = spoil_later_frames(encode(frames[0], fmt, save_all=True, append_images=frames[1:], **lossless), fmt)
    with pytest.raises((OSError, EOFError, SyntaxError)), Image.open(io.BytesIO(data)) as image:  # noqa: PT012
        image.seek(299)
        image.load()
    np.testing.assert_array_equal(load_picture(data).pixels, np.repeat(noise[0][..., None], 3, axis=2))


def refused(source: images.PictureSource, name: str = "holiday.jpg") -> str:
    with pytest.raises(UserError) as error:
        load_picture(source, name)
    sentence = str(error.value)
    assert "holiday.jpg" in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # refused with or without the filter
@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 9_000), (8_000, 5_001)])
def test_giant_canvas_is_refused_from_the_header(size: tuple[int, int]) -> None:
    assert "40 megapixels" in refused(png_header(*size))


def test_giant_gif_frame_is_refused_from_the_header() -> None:
    data = bytearray(encode(Image.new("P", (32, 32)), "GIF"))
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    assert "40 megapixels" in refused(bytes(data))


def test_forty_megapixels_are_allowed() -> None:
    data = encode(Image.new("1", (8_000, 5_000)))
    assert load_picture(data).pixels.shape == (5_000, 8_000, 3)


@pytest.mark.parametrize(
    ("size", "words"), [((15, 40), "at least 16"), ((421, 20), "20 times"), ((20, 421), "20 times")]
)
def test_unusable_shapes_are_refused(size: tuple[int, int], words: str) -> None:
    assert words in refused(encode(Image.new("RGB", size)))
    assert words in refused(Image.new("RGB", size))


def test_smallest_and_longest_allowed() -> None:
    assert load_picture(Image.new("RGB", (16, 320))).pixels.shape == (320, 16, 3)


def test_too_many_bytes(tmp_path: Path) -> None:
    data = bytes(images.MAX_BYTES + 1)
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    for source in (data, io.BytesIO(data), path):
        assert "20 MB" in refused(source)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"just some words", id="text"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', id="SVG"),
        pytest.param(encode(Image.new("RGB", (32, 32)), "PPM"), id="PPM, not on the list"),
        pytest.param(encode(Image.effect_noise((64, 64), 50), "JPEG")[:-500], id="truncated JPEG"),
        pytest.param(encode(Image.effect_noise((64, 64), 50), "PNG")[:-500], id="truncated PNG"),
    ],
)
def test_not_a_picture(data: bytes) -> None:
    refused(data)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    assert "not found" in refused(tmp_path / "holiday.jpg")
    assert "folder" in refused(tmp_path)
    refused("nul\0character.png")
    refused("x" * 10_000)
    os.mkfifo(tmp_path / "pipe")
    assert "ordinary file" in refused(tmp_path / "pipe")


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((20, 20, 2), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        np.zeros(9, np.uint8),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_arrays_that_are_not_pictures(pixels: np.ndarray) -> None:
    assert "uint8" in refused(pixels)


@pytest.mark.parametrize(
    ("given_name", "name", "stem"),
    [
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\photos\\my cat.JPG", "my cat.JPG", "my-cat"),
        ("..", "..", "picture"),
        (".htaccess", ".htaccess", "htaccess"),
        ("Café à Paris.png", "Café à Paris.png", "Cafe-a-Paris"),
        ("猫.png", "猫.png", "picture"),
        ("a\nb\x00.png", "ab.png", "ab"),
        ("///", "picture", "picture"),
        ("x" * 500, "x" * 200, "x" * 60),
    ],
)
def test_names(given_name: str, name: str, stem: str) -> None:
    picture = load_picture(Image.new("RGB", (16, 16)), given_name)
    assert (picture.name, picture.stem) == (name, stem)


@given(st.text(max_size=300))
def test_slug_is_safe_in_any_folder(text: str) -> None:
    slug = file_slug(text, default="default")
    assert slug.isascii()
    assert 0 < len(slug) <= 60
    assert not set(slug) & set('/\\:*?"<>| \n\0')
    assert not slug.startswith((".", "-"))
    assert not slug.endswith((".", "-"))


VALID = {
    fmt: encode(Image.fromarray(quadrants()), fmt, **({"exif": Image.Exif()} if fmt == "JPEG" else {}))
    for fmt in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.data())
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read)")
def test_damaged_files_never_raise_anything_else(fmt: str, data: st.DataObject) -> None:
    content = bytearray(VALID[fmt])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    check_picture_or_sentence(bytes(content))


@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read)")
@given(st.sampled_from([b"", *(content[:12] for content in VALID.values())]), st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(magic: bytes, noise: bytes) -> None:
    check_picture_or_sentence(magic + noise)


def check_picture_or_sentence(data: bytes) -> None:
    try:
        picture = load_picture(data)
    except UserError:
        return
    assert isinstance(picture, Picture)
    assert picture.pixels.ndim == 3


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        (ResizeRule(800, 1333), (480, 640), (800, 1067)),
        (ResizeRule(800, 1333), (640, 480), (1067, 800)),
        (ResizeRule(800, 1333), (300, 1200), (333, 1333)),
        (ResizeRule(640, 640), (480, 640), (480, 640)),
        (ResizeRule(320, 640, enlarge=2), (64, 64), (128, 128)),
        (ResizeRule(320, 640, enlarge=2), (100, 400), (160, 640)),
        (ResizeRule(320, 640, enlarge=2), (480, 640), (320, 427)),
        (ResizeRule(800, 1333), (500, 500), (800, 800)),
        (ResizeRule(320, 640, enlarge=1, least=96), (64, 80), (96, 120)),
        (ResizeRule(320, 640, enlarge=1, least=96), (40, 800), (32, 640)),
        (ResizeRule(320, 640, enlarge=1, least=96), (160, 200), (160, 200)),
        (ResizeRule(320, 640, enlarge=1, least=96), (480, 640), (320, 427)),
        (ResizeRule(256, 512, multiple=32), (480, 640), (256, 352)),
        (ResizeRule(256, 512, multiple=32), (100, 2000), (32, 512)),
        (ResizeRule(256, 512, enlarge=1, least=96, multiple=32), (160, 208), (160, 224)),
        (ResizeRule(256, 512, enlarge=1, least=96, multiple=32), (64, 64), (96, 96)),
    ],
)
def test_resize_rule(rule: ResizeRule, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert rule.size(*size) == expected


@given(st.integers(64, 1200), st.integers(0, 2000), st.integers(16, 8000), st.integers(16, 8000))
def test_resize_rule_properties(short_side: int, more: int, height: int, width: int) -> None:
    rule = ResizeRule(short_side, short_side + more)
    size = rule.size(height, width)
    assert rule.size(width, height) == size[::-1]
    assert max(size) <= rule.long_side
    if max(size) < rule.long_side:
        assert min(size) == rule.short_side
    exact = max(size) / max(height, width) * min(height, width)
    # Each side is off by at most half a pixel, and the longer one's half shrinks with the aspect.
    assert abs(min(size) - exact) <= 1


def test_resize_keeps_the_array_when_nothing_changes() -> None:
    pixels = quadrants()
    assert resize(pixels, (24, 40)) is pixels
    assert resize(pixels, (12, 20)).shape == (12, 20, 3)


def golden_cases() -> list[Path]:
    return sorted(PARITY.glob("case_*.json"))


def test_golden_cases_are_there() -> None:
    if not PARITY.is_dir():
        pytest.skip("the folder with the reference's golden numbers is not beside this checkout")
    assert golden_cases()


@pytest.mark.parametrize("path", golden_cases(), ids=lambda path: path.stem)
def test_resize_agrees_with_the_reference(path: Path) -> None:
    case = json.loads(path.read_text())
    picture = load_picture(path.parent / case["picture"])
    assert [picture.height, picture.width] == case["picture_size_hw"]
    pixels = picture.pixels
    if case["resize_short_edge"] is not None:
        rule = ResizeRule(case["resize_short_edge"], case["resize_max_size"])
        pixels = resize(pixels, rule.size(picture.height, picture.width))
    assert list(pixels.shape[:2]) == case["network_input_size_hw"]
    corner = np.load(path.with_suffix(".npz"))["image_crop"].transpose(1, 2, 0)
    np.testing.assert_allclose((pixels[:40, :40] - CLIP_MEAN) / CLIP_STD, corner, atol=1e-4)
