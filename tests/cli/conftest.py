import pytest
import torch
from cli_tools import TINY

from unnoise.cli import main
from unnoise.data.pictures import save_png


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """As OMP_NUM_THREADS=1 does in the processes that are started: two threads on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """cli(words...) -> (exit code, standard output, standard error), run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused(cli):
    """refused(code, words...) -> the one sentence with which the command refuses, having printed nothing else."""

    def call(code, *argv):
        got, out, err = cli(*argv)
        assert got == code, (got, out, err)
        lines = [line for line in err.splitlines() if line.startswith("unnoise: ")]
        assert len(lines) == 1 and err.rstrip().endswith(lines[0]), err
        assert "Traceback" not in err and len(lines[0]) < 400
        return lines[0].removeprefix("unnoise: ")

    return call


def _trained(tmp_path_factory, paper, *more):
    out = tmp_path_factory.mktemp(paper) / "run"
    assert main(["train", paper, *TINY, "--steps", "4", "--checkpoint-every", "2", "--out", str(out), *more]) == 0
    return out


@pytest.fixture(scope="session")
def edm(tmp_path_factory):
    """A run of edm on digits, class-conditional, of 4 steps; tests must not change it."""
    return _trained(tmp_path_factory, "edm")


@pytest.fixture(scope="session")
def ddpm(tmp_path_factory):
    """A run of ddpm on digits, without labels."""
    return _trained(tmp_path_factory, "ddpm", "--timesteps", "50")


@pytest.fixture
def pictures(tmp_path_factory):
    """A folder of 30 grey images of 8 x 12 pixels, without labels."""
    folder = tmp_path_factory.mktemp("pictures") / "photos"
    folder.mkdir()
    x = torch.rand(30, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for i, image in enumerate(x):
        save_png(image, folder / f"a{i}.png")
    return folder
