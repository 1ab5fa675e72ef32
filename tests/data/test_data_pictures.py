"""Pictures: what is written is what was given, and whole or not at all."""

import resource

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from unnoise.data.pictures import grid, save_gif, save_png, to_pil
from unnoise.disk import write_whole
from unnoise.errors import Problem


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 5, 7), (5, 7)])
def test_png_keeps_every_pixel(shape, tmp_path):
    x = torch.randint(0, 256, shape, dtype=torch.uint8)
    back = np.asarray(Image.open(save_png(x, tmp_path / "new" / "a.png")))
    assert np.array_equal(back, (x.permute(1, 2, 0) if shape[0] == 3 else x.reshape(5, 7)).numpy())
    floats = x.float() / 127.5 - 1
    assert np.array_equal(np.asarray(Image.open(save_png(floats, tmp_path / "b.png"))), back)


def test_floats_are_clamped_and_nothing_else_is_left(tmp_path):
    x = torch.tensor([[-9.0, 9.0, float("nan"), 0.0]])
    save_png(x, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 255, 0, 128]]
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_grid_places_every_image():
    x = torch.randint(0, 255, (5, 3, 4, 6), dtype=torch.uint8)
    sheet = torch.from_numpy(np.array(grid(x, columns=3, scale=2, gap=1))).permute(2, 0, 1)
    assert sheet.shape == (3, 2 * 9 + 1, 3 * 13 + 1)
    for i, image in enumerate(x):
        top, left = 1 + i // 3 * 9, 1 + i % 3 * 13
        big = sheet[:, top : top + 8, left : left + 12]
        assert torch.equal(big[:, ::2, ::2], image) and torch.equal(big[:, 1::2, 1::2], image)
    assert (sheet[:, 0] == 255).all() and (sheet[:, 10:, 27:] == 255).all()  # gaps, and the missing sixth


def test_grid_enlarges_small_images():
    assert grid(torch.zeros(1, 1, 8, 8)).size == (68, 68)
    assert grid(torch.zeros(9, 1, 28, 28)).size == (3 * 58 + 2, 3 * 58 + 2)
    assert grid(torch.zeros(1, 3, 256, 200)).size == (204, 260)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="1 or 3"):
        to_pil(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="batch"):
        grid(torch.zeros(0, 1, 4, 4))
    with pytest.raises(ValueError, match="one frame"):
        save_gif([], "a.gif")


def test_gif_shows_the_frames_in_order(tmp_path):
    frames = [torch.full((4, 1, 8, 8), k, dtype=torch.uint8) for k in (0, 100, 255)]
    path = save_gif(frames, tmp_path / "a.gif")
    back = [np.asarray(f.convert("L")) for f in ImageSequence.Iterator(Image.open(path))]
    assert [int(f[20, 20]) for f in back] == [0, 100, 255]


def test_a_full_disk_leaves_the_old_picture(tmp_path):
    path = save_png(torch.zeros(1, 8, 8), tmp_path / "a.png")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Problem, match=r".*a\.png could not be written \(.*\); .*another folder"):
            save_png(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="could not be written"):
        save_png(torch.zeros(1, 8, 8), tmp_path / "file" / "a.png")


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_whole(tmp_path / "a") as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
