"""What decodes ordinary files faster changes no bit and no verdict."""

import io
import random
import zlib

import numpy as np
import pytest
import torch
from image_files import four_bits, picture, png_header, without_palette
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from multimae.data import decoders
from multimae.data.images import Unusable, decode

pytest.importorskip("kornia_rs", reason="PIL reads every file without it")
MOST = 10**8


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def grey_16(seed: int, shape=(37, 53)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 65536, shape).cumsum(1).astype(np.uint16))


def notes() -> PngInfo:
    info = PngInfo()
    info.add_text("a", "word", zip=True)
    info.add(b"tEXt", b"later\0one", after_idat=True)
    return info


def ordinary() -> list[tuple[str, bytes]]:
    """(field, file) of what most folders hold."""
    wide = picture(1, (375, 500))
    kinds = {"quality": 92}, {"subsampling": 0, "restart_marker_blocks": 5}, {"progressive": True, "optimize": True}
    files = [("rgb", saved(wide, "JPEG", **kind)) for kind in kinds]
    files += [("rgb", saved(wide.convert("L"), "JPEG")), ("rgb", saved(wide, "PNG", pnginfo=notes()))]
    files += [("rgb", saved(picture(2, (9, 11)), "MPO", save_all=True, append_images=[picture(3)]))]
    files += [("depth", saved(grey_16(s), "PNG", compress_level=c)) for s, c in ((0, 0), (1, 6), (2, 9))]
    files += [("depth", saved(grey_16(3, (375, 500)), "PNG")), ("normals", saved(wide, "PNG"))]  # chunks of pixels
    files += [("semseg", saved(image, "PNG")) for image in (wide.convert("L"), wide.convert("P"))]
    return files + [("mask_valid", saved(wide.convert("L").point(lambda value: 255 * (value > 99)), "PNG"))]


def others(folder) -> list[tuple[str, bytes]]:
    """That may be read or not, by PIL."""
    colours = picture(4, (20, 30))
    files = [("rgb", saved(colours.convert(mode), "PNG")) for mode in ("L", "LA", "RGBA", "P", "1")]
    files += [("rgb", saved(colours.convert("CMYK"), "JPEG")), ("rgb", saved(colours, "JPEG", keep_rgb=True))]
    files += [("rgb", saved(colours, "WEBP")), ("rgb", saved(colours, "PNG", transparency=(1, 2, 3)))]
    files += [("rgb", saved(colours, "PNG", save_all=True, append_images=[picture(5, (20, 30))]))]  # animated
    files += [("normals", saved(colours.convert("RGBA"), "PNG")), ("mask_valid", saved(colours.convert("L"), "PNG"))]
    files += [("semseg", saved(colours.quantize(4), "PNG", bits=2)), ("depth", saved(colours.convert("L"), "PNG"))]
    for make in (without_palette, lambda path: four_bits(path, 3), lambda path: png_header(path, 9, 9)):
        make(folder / "x.png")
        files += [(field, (folder / "x.png").read_bytes()) for field in ("rgb", "semseg")]
    whole = saved(grey_16(6), "PNG")
    start = whole.index(b"IDAT")
    length = int.from_bytes(whole[start - 4 : start])
    for change in (
        lambda z: z[:-40],
        lambda z: z + b"more",
        lambda z: b"no" + z[2:],
        lambda z: zlib.compress(b"\7" * 9000),
    ):
        body = b"IDAT" + change(whole[start + 4 : start + 4 + length])
        chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
        files.append(("depth", whole[: start - 4] + chunk + whole[start + 8 + length :]))
    return files


def verdict(data: bytes, field: str) -> torch.Tensor | str:
    try:
        return decode(data, field, MOST)
    except Unusable as error:
        return str(error)


def agrees(monkeypatch, data: bytes, field: str) -> bool:
    fast = verdict(data, field)
    with monkeypatch.context() as patch:
        patch.setattr(decoders, "rust", None)
        slow = verdict(data, field)
    if isinstance(fast, str) or isinstance(slow, str):
        return isinstance(fast, str) and fast == slow
    return fast.dtype == slow.dtype and torch.equal(fast, slow)


def test_ordinary_files_are_decoded_faster_and_to_the_same_bits(monkeypatch):
    for number, (field, data) in enumerate(ordinary()):
        with Image.open(io.BytesIO(data)) as image:
            assert decoders.decoded(data, image, field == "rgb") is not None, (number, field)
        assert agrees(monkeypatch, data, field), (number, field)


def test_other_files_are_read_or_refused_as_by_pil(monkeypatch, tmp_path):
    for number, (field, data) in enumerate(others(tmp_path)):
        assert agrees(monkeypatch, data, field), (number, field, verdict(data, field))


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """A file cut, or with bytes lost, added or changed."""
    at = rng.randrange(len(data))
    change = rng.randrange(4)
    if change == 0:
        return data[:at]
    if change == 1:
        return data[:at] + data[at + rng.randrange(1, 300) :]
    if change == 2:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def test_damaged_files_are_told_as_by_pil(monkeypatch, trials=500):
    rng, files = random.Random(0), [(field, data) for field, data in ordinary() if len(data) < 60_000]
    for trial in range(trials):
        field, data = rng.choice(files)
        assert agrees(monkeypatch, spoilt(data, rng), field), trial
