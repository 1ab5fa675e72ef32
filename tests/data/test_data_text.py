"""Text in windows: the alphabet, what is held out, and files that are none."""

from collections import Counter

import numpy as np
import pytest
import torch

from unnoise.data import load, text
from unnoise.errors import Problem, UsageProblem

NAME = text.SPEECHES.name
BOOK = "\n".join(f"Chapter {i}. It was {i * i} o'clock, caf\u00e9 time; nobody came." for i in range(400))


def words(data, rows):
    return ["".join(data.alphabet[i] for i in row) for row in data.batch(rows).x.tolist()]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(BOOK, encoding="utf-8")
    return path


def test_the_built_in_text_is_what_its_facts_say():
    for split, count in (("train", text.SPEECHES.train), ("held-out", text.SPEECHES.held_out)):
        data = text.load(NAME, split)
        assert len(data) == count and data.shape == (64,) and data.kind == "text" and data.alphabet == text.LETTERS
        assert data.facts == text.SPEECHES
        assert data.batch([0]).x.dtype == torch.int64
    page = " ".join(words(data, range(300)))
    assert Counter(page.split()).most_common(1)[0][0] == "the"  # it is English


def test_any_name_of_a_text_goes_through_load(book):
    assert load(NAME).facts == text.SPEECHES and load(NAME, size=16).shape == (16,)
    assert load(book, "held-out").fingerprint == text.load(book, "held-out").fingerprint
    assert len(load(f"characters:{NAME}").alphabet) > 90
    bare = book.rename(book.with_name("book"))
    assert load(f"characters:{bare}").kind == load(bare).kind == "text"
    with pytest.raises(UsageProblem, match="--channels is for images"):
        load(f"characters:{NAME}", channels=1)


def test_letters_are_text8s():
    assert text.letters("In 1863: Caf\u00e9\u2014s\u00ed!") == "in one eight six three cafe si"


def test_all_characters_are_kept_on_demand(book):
    data = text.load(f"characters:{book}", "train", size=40)
    assert "".join(data.alphabet) == "".join(sorted(set(BOOK))) and data.levels == len(data.alphabet)
    assert all(row in BOOK for row in words(data, range(len(data))))
    assert text.load(f"characters:{book}", "held-out").alphabet == data.alphabet


@pytest.mark.parametrize("size", (7, 64, 500))
def test_nothing_held_out_is_in_a_training_window(book, size):
    """Every place of the text is in windows of one split alone, and the held-out places do not depend on the size."""
    seen = {}
    for split in ("train", "held-out"):
        rows = text.load(book, split, size=size).pixels
        seen[split] = {int(i) for start in rows.starts for i in range(start, start + size)}
    assert not seen["train"] & seen["held-out"]
    assert max(max(places) for places in seen.values()) < len(rows.tokens)
    small = {int(i) for s in text.load(book, "held-out", size=1).pixels.starts for i in [s]}
    assert seen["held-out"] <= small
    assert np.diff(text.load(book, "held-out", size=size).pixels.starts).min(initial=size) >= size


def test_what_cannot_be_read_is_told_in_a_sentence(tmp_path, book):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(Problem, match="no text in UTF-8"):
        text.load(tmp_path / "bytes.txt", "train")
    for name in ("short.txt", "empty.txt"):
        with pytest.raises(UsageProblem, match="too few to hold out windows of 64"):
            text.load(tmp_path / name, "train")
    with pytest.raises(Problem, match="cannot be read"):
        text.load(tmp_path / "none.txt", "train")
    with pytest.raises(Problem, match="cannot be read"):
        text.load(f"characters:{tmp_path}", "train")
    with pytest.raises(UsageProblem, match="number of characters"):
        text.load(book, "train", size=(8, 8))
    with pytest.raises(UsageProblem, match="smaller size"):
        text.load(book, "train", size=100_000)


def test_a_changed_file_is_read_again_and_has_another_fingerprint(book):
    before = text.load(book, "train")
    book.write_text(BOOK.replace("nobody", "everybody"), encoding="utf-8")
    assert text.load(book, "train").fingerprint != before.fingerprint
