"""Image files: what tells that one is damaged, and that whole ones are never refused."""

import io
import random

import numpy as np
import pytest
from image_files import cut_inside, picture
from PIL import Image

from multimae.data.images import Unusable, numbers, read
from multimae.modalities import Files, Modality

MOST = 10**8


def save(path, image, format, **options):
    image.save(path, format, **options)
    return path


def test_whole_jpegs_of_every_kind_are_read_as_pil_reads_them(tmp_path):
    rng = random.Random(0)
    for trial in range(150):
        image = picture(trial, (rng.randint(1, 90), rng.randint(1, 90))).convert(rng.choice(["RGB", "L", "CMYK"]))
        if max(image.size) > 90 * min(image.size):
            continue
        options = {"quality": rng.choice([5, 60, 95, 100]), "optimize": rng.random() < 0.5}
        options |= {"subsampling": rng.randrange(3), "progressive": rng.random() < 0.2}
        options |= {"restart_marker_blocks": rng.randint(1, 9)} if rng.random() < 0.3 else {}
        path = save(tmp_path / "x.jpg", image, "JPEG", **options)
        if rng.random() < 0.3:  # some cameras write more after the end
            path.write_bytes(path.read_bytes() + bytes(rng.choice([1, 50, 5000])))
        with Image.open(path) as again:
            expected = np.array(again.convert("RGB"))
        assert np.array_equal(read(path, "rgb", MOST).permute(1, 2, 0), expected), options


def test_the_first_picture_of_several_in_a_file(tmp_path):
    path = save(tmp_path / "x.jpg", picture(0), "MPO", save_all=True, append_images=[picture(1)])
    with Image.open(path) as first:
        assert np.array_equal(read(path, "rgb", MOST).permute(1, 2, 0), np.array(first))


def damaged(data: bytes, how: str, rng: random.Random) -> bytes:
    start = data.index(b"\xff\xda") + 14
    at = rng.randrange(start, len(data) - 700)
    return {
        "cut": data[:at] + data[at + 400 :],
        "zeros": data[:at] + bytes(400) + data[at + 400 :],
        "twice": data[: at + 400] + data[at:],
        "noise": data[:at] + rng.randbytes(400) + data[at + 400 :],
        "cut short": data[:at] + data[-2:],
        "no end": data[:at],
    }[how]


@pytest.mark.parametrize("how, least", [("cut", 50), ("zeros", 35), ("twice", 50), ("noise", 50), ("cut short", 50),
                                        ("no end", 50)])  # fmt: skip
def test_a_jpeg_that_lost_gained_or_garbled_a_part_is_told(tmp_path, how, least):
    """Not always: 400 zeros may stand for as many blocks as what they replace."""
    rng = random.Random(0)
    whole = save(tmp_path / "x.jpg", picture(3, (200, 260)), "JPEG", quality=92).read_bytes()
    told = 0
    for _ in range(50):
        (tmp_path / "x.jpg").write_bytes(damaged(whole, how, rng))
        try:
            read(tmp_path / "x.jpg", "rgb", MOST)
        except Unusable:
            told += 1
    assert told >= least


@pytest.mark.parametrize("field", ["rgb", "depth", "semseg"])
def test_any_damage_to_a_png_is_told(tmp_path, field):
    image = {"rgb": picture(0), "semseg": picture(0).convert("L")}.get(field)
    image = image or Image.fromarray(np.arange(3000, dtype=np.uint16).reshape(50, 60))
    data, rng = save(tmp_path / "x.png", image, "PNG").read_bytes(), random.Random(0)
    for _ in range(200):
        at = rng.randrange(len(data) - 1)
        (tmp_path / "x.png").write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        with pytest.raises(Unusable):
            read(tmp_path / "x.png", field, MOST)


def test_garbage_is_unusable_and_nothing_else(tmp_path):
    """No byte in a file ends in another exception, nor in a warning."""
    rng, path, buffers = random.Random(0), tmp_path / "x", []
    for format, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {})):
        buffers.append(io.BytesIO())
        picture(0).save(buffers[-1], format, **options)
    for _ in range(400):
        data = bytearray(rng.choice(buffers).getvalue())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read(path, "rgb", MOST)
        except Unusable as error:
            assert str(error)


def test_an_error_of_the_system_is_not_the_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone.jpg", "rgb", MOST)
    with pytest.raises(IsADirectoryError):
        read(tmp_path, "rgb", MOST)


def test_numbers_are_in_the_unit_that_is_declared():
    files = Files("a PNG with 8-bit channels", modes=("L", "RGB"), read="data.images:numbers")
    kind = Modality(
        "x", 2, files, filter="bilinear", loss="losses:l1", draw="pictures:depth", zero=127.5, unit=1 / 127.5
    )
    image = picture(0, (5, 7))
    expected = np.array(image)[..., :2].transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(numbers(np.array(image), kind), expected, atol=1e-6)
    assert numbers(np.array(image.convert("L")), kind).shape == (1, 5, 7)


def test_part_of_a_jpeg_is_missing(tmp_path):
    path = save(tmp_path / "x.jpg", picture(0), "JPEG", quality=95)
    cut_inside(path)
    with pytest.raises(Unusable, match="is damaged: its data end before its last block"):
        read(path, "rgb", MOST)
