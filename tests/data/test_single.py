"""Single signals from an image, an animation or a folder of frames, and the messages about invalid ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from genrep.data.single import PictureSourceSpec, SinesSourceSpec
from genrep.data.single.grids import GridSignal
from genrep.data.single.pictures import open_pictures
from genrep.data.single.series import open_sines
from genrep.errors import InputError
from genrep.signals import ImageSignalSpec


def picture(height, width, seed=0, channels=3):
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def opened(source, **options):
    return open_pictures(PictureSourceSpec(source=str(source), **options)).kept


def test_the_camera_equals_scikit_images():
    from skimage.data import camera

    pixels = opened("camera")
    assert pixels.shape == (1, 512, 512) and np.array_equal(pixels[0].numpy(), camera())


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_keeps_its_pixels(tmp_path, channels):
    array = picture(6, 9, channels=channels)
    Image.fromarray(array).save(tmp_path / "one.png")
    expected = torch.from_numpy(array)[None] if channels == 1 else torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(opened(tmp_path / "one.png"), expected)
    assert opened(tmp_path / "one.png", channels=4 - channels).shape == (4 - channels, 6, 9)
    assert opened(tmp_path / "one.png", size=[4, 5]).shape == (channels, 4, 5)


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 65535], [257, 25700]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert opened(tmp_path / "deep.png").tolist() == [[[0, 255], [1, 100]]]


def test_floats_and_32_bits_are_scaled_or_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(path)
    assert opened(path).tolist() == [[[0, 128, 255]]]
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32)).save(path)
    assert opened(path).tolist() == [[[0, 1, 255]]]
    Image.fromarray(np.array([[0, 2.0]], dtype=np.float32)).save(path)
    with pytest.raises(
        InputError, match=r"picture 0 cannot be read \(float pixels must lie in \[0, 1\]; they range from 0 to 2"
    ):
        opened(path)


def test_transparent_pixels_show_the_background(tmp_path):
    pixels = np.array([[[255, 0, 0, 0], [10, 20, 30, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert opened(tmp_path / "a.png")[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]
    assert opened(tmp_path / "a.png", background=7)[:, 0].T.tolist() == [[7, 7, 7], [10, 20, 30]]


def test_frames_of_a_folder_are_sorted_by_name(tmp_path):
    arrays = [picture(5, 7, seed) for seed in range(3)]
    for name, array in zip(("b.png", "a.png", "c.bmp"), arrays, strict=True):
        Image.fromarray(array).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    pixels = opened(tmp_path)
    assert pixels.shape == (3, 3, 5, 7)
    for frame, number in enumerate((1, 0, 2)):
        assert np.array_equal(pixels[:, frame].permute(1, 2, 0).numpy(), arrays[number])


def test_an_animation_is_its_frames(tmp_path):
    frames = [Image.fromarray(np.full((4, 6), value, dtype=np.uint8)) for value in (0, 100, 255)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    pixels = opened(tmp_path / "a.webp", channels=1)
    assert pixels.shape == (1, 3, 4, 6) and pixels[0, :, 0, 0].tolist() == [0, 100, 255]


def test_the_hash_is_of_content_and_shape():
    pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    original, copied, changed, reshaped = (
        GridSignal(kept, ImageSignalSpec().build()).hash()
        for kept in (pixels, pixels.clone(), pixels + 1, pixels.view(1, 4, 3))
    )
    assert original == copied and original not in (changed, reshaped)


def test_invalid_signals_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere.png' does not exist: give an image, a video, an animated file"):
        opened(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="must contain pictures .*; the folder has none"):
        opened(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        opened(tmp_path / "broken.png")
    Image.fromarray(picture(64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read|damaged"):
        opened(tmp_path / "cut.png")
    (tmp_path / "noise.npy").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as a picture .*; for .npy files set signal.type to array"):
        opened(tmp_path / "noise.npy")
    (tmp_path / "frames").mkdir()
    for name, size in (("a.png", 4), ("b.png", 5)):
        Image.fromarray(picture(size, size)).save(tmp_path / "frames" / name)
    with pytest.raises(
        InputError, match="frames must have the same size and channels; set signal.size or signal.channels"
    ):
        opened(tmp_path / "frames")
    assert opened(tmp_path / "frames", size=4).shape == (3, 2, 4, 4)


def test_sizes_beyond_the_memory_are_refused_before_anything_is_read():
    with pytest.raises(InputError, match="a picture of signal.size would take .* GiB, but cpu has .* GiB: lower sig"):
        opened("camera", size=3_000_000)
    with pytest.raises(InputError, match="a series of signal.length would take .* GiB: lower signal.length"):
        open_sines(SinesSourceSpec(type="sines", frequencies=[3.0], length=10**11))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["gif", "tiff", "png", "webp"])
def test_damaged_pictures_end_in_one_message(tmp_path, suffix):
    """Pillow's readers raise errors of many types: wherever a byte is wrong, there is a message or a picture."""
    path, random = tmp_path / f"a.{suffix}", np.random.default_rng(0)
    Image.fromarray(picture(16, 16)).save(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        content = bytearray(whole[: random.integers(8, len(whole) + 1)])
        for place in random.integers(0, min(len(content), 64), 3):
            content[place] = random.integers(256)
        path.write_bytes(content)
        try:
            opened(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50


def test_photos_are_turned_upright(tmp_path):
    """The tag Orientation, 6: the camera was held a quarter turn counterclockwise."""
    stored = picture(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "frames").mkdir()
    for name in ("a.png", "frames/a.png", "frames/b.png"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
    upright = torch.from_numpy(np.rot90(stored, -1).copy()).permute(2, 0, 1)
    assert torch.equal(opened(tmp_path / "a.png"), upright)
    assert torch.equal(opened(tmp_path / "frames")[:, 1], upright)


def test_frames_are_chosen_by_start_stride_and_number(tmp_path):
    frames = [Image.fromarray(np.full((4, 6), 10 * value, dtype=np.uint8)) for value in range(8)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    chosen = opened(tmp_path / "a.webp", channels=1, start=1, stride=3, num_frames=2)
    assert chosen.shape == (1, 2, 4, 6) and chosen[0, :, 0, 0].tolist() == [10, 40]
    assert opened(tmp_path / "a.webp", channels=1, start=1, stride=3)[0, :, 0, 0].tolist() == [10, 40, 70]
    with pytest.raises(
        InputError, match=r"must have 4 or more frames from frame 1 on, at a stride of 3; got 3\. Change signal.num_f"
    ):
        opened(tmp_path / "a.webp", start=1, stride=3, num_frames=4)
    with pytest.raises(InputError, match="must have 1 or more frames from frame 8 on, at a stride of 1; got 0"):
        opened(tmp_path / "a.webp", start=8)


def test_a_siemens_star_has_its_spokes():
    """Along a circle, the grey level changes twice per spoke; half of the disc is dark."""
    star = opened("siemens")[0].numpy()
    assert star.shape == (256, 256) and star[0, 0] == 255
    angle = 2 * np.pi * (np.arange(20_000) + 0.5) / 20_000
    on_circle = star[(128 + 100 * np.sin(angle)).astype(int), (128 + 100 * np.cos(angle)).astype(int)]
    is_dark = np.where(on_circle < 64, 1, np.where(on_circle > 192, 0, -1))
    is_dark = is_dark[is_dark >= 0]
    assert np.sum(is_dark != np.roll(is_dark, 1)) == 2 * 36
    assert (255 - star.astype(float)).sum() / 255 == pytest.approx(np.pi * 128**2 / 2, rel=2e-3)
    assert 0 < np.mean((star > 0) & (star < 255)) < 0.3, "antialiased"
    assert opened("siemens", size=[40, 60], num_spokes=4, channels=3).shape == (3, 40, 60)
