"""Files and folders are whole or absent, and what a kill leaves is swept away."""

import os
import resource
import stat

import pytest

from unnoise.disk import disk_errors, new_folder, sweep, write_file, write_json, write_whole
from unnoise.errors import Problem


def test_a_file_is_replaced_whole_and_may_be_read_as_others_are(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    write_file(path, b"{}")
    with write_whole(path) as aside:
        assert aside.parent == path.parent and aside.suffix == ".json" and path.read_bytes() == b"{}"
        aside.write_bytes(b"[]")
    assert path.read_bytes() == b"[]" and list(path.parent.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("write", [lambda path: write_file(path, b"x" * 500), lambda path: write_json(path, "x" * 500)])
def test_a_full_disk_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "a"
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(Problem, match=r"could not be written \(File too large\); "), disk_errors("it"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_filled(tmp_path):
    path = tmp_path / "step"
    for content in ("first", "second"):
        with new_folder(path) as aside:
            (aside / "file").write_text(content)
            assert not path.exists() or (path / "file").read_text() == "first"
    assert (path / "file").read_text() == "second" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt), new_folder(path) as aside:
        raise KeyboardInterrupt
    assert (path / "file").read_text() == "second" and list(tmp_path.iterdir()) == [path]


def test_what_a_kill_leaves_is_swept_away(tmp_path):
    for name in (".a.x1.part.png", ".b.x2.part", ".step-1.old", ".step-1.gone"):
        (tmp_path / name).mkdir() if "step" in name else (tmp_path / name).write_text("half")
    kept = [tmp_path / name for name in (".hidden", "a.png", "b.part")]
    for path in kept:
        path.write_text("whole")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
