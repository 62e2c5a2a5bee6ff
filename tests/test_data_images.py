"""Decoding of every kind of file that people have."""

from __future__ import annotations

import errno
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data import UnreadableImage, open_image, open_mask


def picture(height: int = 12, width: int = 20, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_png_is_read_exactly(tmp_path: Path) -> None:
    pixels = picture()
    image = open_image(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert image.mode == "RGB"
    assert np.array_equal(image, pixels)


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "bmp", "webp", "gif"])
def test_gray_has_three_equal_channels(tmp_path: Path, extension: str) -> None:
    gray = np.tile(np.arange(20, dtype=np.uint8) * 12, (12, 1))
    pixels = np.asarray(open_image(saved(tmp_path / f"a.{extension}", Image.fromarray(gray))))
    assert pixels.shape == (12, 20, 3)
    assert np.abs(pixels.astype(int) - gray[..., None]).max() <= (0 if extension in {"png", "tif", "bmp"} else 12)


def test_black_and_white(tmp_path: Path) -> None:
    bits = Image.fromarray(picture(channels=1) > 127)
    assert set(np.unique(open_image(saved(tmp_path / "a.png", bits)))) == {0, 255}


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk_keeps_its_colors(tmp_path: Path, extension: str) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = np.asarray(open_image(saved(tmp_path / f"a.{extension}", red)), dtype=int)
    assert pixels[..., 0].min() > 240
    assert pixels[..., 1:].max() < 15


def test_palette_shows_its_colors(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), mode=None)
    image = image.convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = np.asarray(open_image(saved(tmp_path / "a.png", image)))
    assert pixels.tolist() == [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    pixels = np.asarray(open_image(saved(tmp_path / "a.png", image, transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    pixels = np.asarray(open_image(saved(tmp_path / "a.png", Image.fromarray(rgba))), dtype=int)
    assert pixels[0, :2].tolist() == [[200, 0, 0], [255, 255, 255]]
    assert np.abs(pixels[0, 2] - 127).max() <= 1


def test_gray_with_alpha_and_rgb_with_a_transparent_color(tmp_path: Path) -> None:
    gray = Image.fromarray(np.array([[[30, 255], [30, 0]]], dtype=np.uint8), mode=None)
    assert np.asarray(open_image(saved(tmp_path / "a.png", gray)))[0, :, 0].tolist() == [30, 255]
    color = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    pixels = np.asarray(open_image(saved(tmp_path / "b.png", color, transparency=(1, 2, 3))))
    assert pixels.tolist() == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, extension: str) -> None:
    values = np.array([[0, 257, 32768, 65278, 65535]], dtype=np.uint16)
    pixels = np.asarray(open_image(saved(tmp_path / f"a.{extension}", Image.fromarray(values))))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 254, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[-1.0, 0.0, 3.0]], np.float32), [0, 64, 255]),
        (np.array([[0, 65535, 131070]], np.int32), [0, 128, 255]),
        (np.array([[7.0, 7.0]], np.float32), [0, 0]),
    ],
)
def test_wide_values_use_the_whole_range(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    pixels = np.asarray(open_image(saved(tmp_path / "a.tif", Image.fromarray(values))))
    assert pixels[0, :, 0].tolist() == expected


def test_nan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[0.0, np.nan]], np.float32)))
    with pytest.raises(UnreadableImage, match=r"a\.tif: holds NaN"):
        open_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, extension: str) -> None:
    pixels = picture()
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(open_image(path), pixels)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_rotated_jpeg_and_broken_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(12, 20))
    assert open_image(saved(tmp_path / "a.jpg", image, exif=exif)).size == (12, 20)
    assert open_image(saved(tmp_path / "b.jpg", image, exif=b"Exif\0\0MM\0*nonsense")).size == (20, 12)


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0))]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(path))[0, 0].tolist() == [255, 0, 0]


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken_files() -> dict[str, tuple[bytes, str]]:
    stream, other = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(200, 200)).save(stream, "JPEG")
    Image.fromarray(picture(200, 200)).save(other, "PNG")
    jpeg, png = stream.getvalue(), other.getvalue()
    return {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"<html>not found</html>", "no image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated|damaged"),
        "head.jpg": (jpeg[:20], "truncated|damaged|no image"),
        "flipped.png": (png[:3000] + bytes(200) + png[3200:], "truncated|damaged"),
        "bomb.png": (png_of_size(60_000, 60_000), "decompression bomb"),
        "bomb2.png": (png_of_size(13_000, 14_000), "decompression bomb"),
        "lies.png": (png_of_size(100, 100), "truncated|damaged"),
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", list(broken_files()))
def test_broken_files_say_what_is_wrong(tmp_path: Path, name: str) -> None:
    content, words = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=words) as caught:
        open_image(path)
    assert caught.value.path == str(path)
    with pytest.raises(UnreadableImage):
        open_mask(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="does not exist"):
        open_image(tmp_path / "none.png")
    with pytest.raises(UnreadableImage, match="folder"):
        open_image(tmp_path)


def test_trouble_of_the_machine_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(OSError, match="Too many open files"):
        open_image(tmp_path / "a.png")


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage(Path("a/b.png"), "the file is empty")))
    assert (error.path, error.reason, str(error)) == (
        "a/b.png",
        "the file is empty",
        "a/b.png: the file is empty",
    )


def test_masks_keep_their_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 20], [255, 3, 0]], dtype=np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([value for k in range(256) for value in (k // 2, 255 - k, 7)])
    palette.putdata(ids.ravel().tolist())
    for image in (palette, Image.fromarray(ids)):
        found = open_mask(saved(tmp_path / "m.png", image))
        assert found.dtype == np.uint8
        assert np.array_equal(found, ids)
    with pytest.raises(UnreadableImage, match="palette or gray"):
        open_mask(saved(tmp_path / "c.png", Image.fromarray(picture())))


def test_real_gray_files(real_data: object) -> None:
    root = real_data("cls-mini")  # type: ignore[operator]
    found = 0
    for path in sorted((root / "val").glob("*/*.JPEG")):
        with Image.open(path) as stored:
            gray = stored.mode == "L"
        if gray:
            pixels = np.asarray(open_image(path))
            assert pixels.shape == (64, 64, 3)
            assert (pixels == pixels[..., :1]).all()
            found += 1
    assert found > 20
