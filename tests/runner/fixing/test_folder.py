"""The copy of the folder: everything that a training needs, nothing that leads back to the user's files."""

from __future__ import annotations

import pytest

from gradtrace.errors import InputError
from gradtrace.runner.fixing import folder as folder_file
from gradtrace.runner.fixing.folder import look_through, warnings
from gradtrace.runner.script import Script


@pytest.fixture
def place(tmp_path):
    for name in ("train.py", "data/x.txt", ".git/HEAD", "venv/pyvenv.cfg", "venv/lib.py", "__pycache__/train.pyc"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text("x = 1\n")
    (tmp_path / "large.bin").write_bytes(b"0" * 1000)
    (tmp_path / "work" / "large.bin").symlink_to(tmp_path / "large.bin")
    (tmp_path / "work" / "up.bin").symlink_to("../large.bin")
    (tmp_path / "work" / "same.txt").symlink_to("data/x.txt")
    return tmp_path / "work"


def test_what_no_training_needs_is_left_out(place):
    assert look_through(place).files == ("data/x.txt", "large.bin", "same.txt", "train.py", "up.bin")


def test_what_is_written_into_the_copy_stays_there(place, tmp_path):
    copy = tmp_path / "copy"
    look_through(place).copy(copy)
    (copy / "data" / "x.txt").write_text("overwritten")
    assert (place / "data" / "x.txt").read_text() == "x = 1\n"
    assert (copy / "same.txt").read_text() == "overwritten"  # the link leads to the copy


def test_links_that_lead_out_lead_to_where_they_did(place, tmp_path):
    look_through(place).copy(tmp_path / "elsewhere" / "copy")
    for name in ("large.bin", "up.bin"):
        assert (tmp_path / "elsewhere" / "copy" / name).read_bytes() == b"0" * 1000


def test_a_folder_that_is_too_large_is_refused(place, monkeypatch):
    monkeypatch.setattr(folder_file, "MOST_BYTES", 11)
    with pytest.raises(InputError, match="every trial runs in a copy of the working folder"):
        look_through(place)


def test_a_script_is_named_as_it_lies_in_the_copy(place, monkeypatch):
    monkeypatch.chdir(place)
    folder = look_through(place)
    assert folder.within(Script(str(place / "train.py"))).name == "train.py"
    assert folder.within(Script("data/../train.py")).name == "train.py"
    assert folder.within(Script("package.train", is_module=True)).name == "package.train"


def test_absolute_paths_are_told_before_anything_is_started(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "train.py").write_text("torch.save(1, '/data/runs/last.pt')\nurl = 'https://x.org/a'\n")
    folder = look_through(place)
    (told,) = warnings(Script("train.py", ("--out=/tmp/runs/a", "--lr", "0.1")), folder)
    assert told.startswith("train.py names /tmp/runs/a, /data/runs/last.pt by absolute path")
    (place / "train.py").write_text("torch.save(1, 'last.pt')\n")
    assert warnings(Script("train.py"), folder) == []


def test_a_script_that_lies_elsewhere_is_told(place, monkeypatch, tmp_path):
    (tmp_path / "other.py").write_text("")
    monkeypatch.chdir(place)
    (told,) = warnings(Script("../other.py"), look_through(place))
    assert "lies outside of the working folder" in told
