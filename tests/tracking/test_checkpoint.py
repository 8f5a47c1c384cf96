import pytest
import torch

from metalab import __version__
from metalab.core.errors import UserError
from metalab.tracking import checkpoint


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"net": {"w": torch.arange(3.0)}, "step": 7, "best": None, "names": ["é"]})
    state = checkpoint.load(path)
    assert torch.equal(state.pop("net")["w"], torch.arange(3.0))
    assert state == {"format": 1, "step": 7, "best": None, "names": ["é"]}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_crash_while_saving_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})
    before = path.read_bytes()

    def half(state, file):
        file.write(before[: len(before) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(
        UserError, match=r"last\.pt cannot be written \(no space left on device; .* are free there\)\. Wh"
    ):
        checkpoint.save(path, {"step": 2})
    assert path.read_bytes() == before
    assert checkpoint.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_file_is_written_under_another_name_until_it_is_whole(tmp_path, monkeypatch):
    whole, seen = torch.save, []

    def watched(state, file):
        whole(state, file)
        seen.extend(p.name for p in tmp_path.iterdir())

    monkeypatch.setattr(torch, "save", watched)
    checkpoint.save(tmp_path / "best.pt", {"step": 1})
    assert seen
    assert "best.pt" not in seen


def test_who_reads_the_old_file_meanwhile_reads_all_of_it(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})
    before = path.read_bytes()
    with path.open("rb") as file:
        checkpoint.save(path, {"step": 2, "more": torch.zeros(1000)})
        assert file.read() == before
    assert checkpoint.load(path)["step"] == 2


def test_a_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"last\.pt does not exist; a run has best\.pt and last\.pt after its first val"
    ):
        checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_foreign_file(tmp_path, content):
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint that can be read: .*Give another run, or train"):
        checkpoint.load(path)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save(path, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint that can be read: "):
        checkpoint.load(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "best.pt"
    torch.save({"format": 1, "run": Harmful()}, path)
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint that can be read: "):
        checkpoint.load(path)
    assert not Harmful.ran


class Harmful:
    ran = False

    def __reduce__(self):
        return (_harm, ())


def _harm() -> None:
    Harmful.ran = True


def test_another_version(tmp_path):
    torch.save({"format": 99}, tmp_path / "best.pt")
    expected = rf"best\.pt is a checkpoint of format 99, metalab {__version__} reads format 1: train again, or use the"
    with pytest.raises(UserError, match=expected):
        checkpoint.load(tmp_path / "best.pt")
    torch.save([1, 2], tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint of metalab: give a run's folder"):
        checkpoint.load(tmp_path / "best.pt")


def test_the_random_state_goes_on_where_it_was():
    torch.manual_seed(3)
    torch.rand(5)
    state = checkpoint.random_state()
    expected = torch.rand(4)
    torch.manual_seed(99)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(4), expected)
