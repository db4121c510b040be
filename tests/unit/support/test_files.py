import json
from pathlib import Path

import pytest

from shapcut.support.errors import InputError
from shapcut.support.files import (
    new_directory,
    new_file,
    require_new_directory,
    require_new_file,
    require_writable,
    write_json_atomically,
    write_text_atomically,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_text_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text_atomically(path, "old")
    write_text_atomically(path, "straße\n")
    assert path.read_text(encoding="utf-8") == "straße\n"
    assert names(tmp_path) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_json_is_indented_and_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json_atomically(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert path.read_text().startswith("{\n  ")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomically(path, float("nan"))


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_appears_when_the_block_ends(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with new_directory(out) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "file").write_text("x")
        assert not exists or names(out) == []
        assert exists or not out.exists()
    assert (out / "sub" / "file").read_text() == "x"
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with new_directory(tmp_path / "out") as directory:
            (directory / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as directory:
        left = directory.name
    (tmp_path / left).mkdir()
    (tmp_path / left / "half").write_text("x")
    with new_directory(tmp_path / "other"):
        pass
    (tmp_path / "out").rmdir()
    with new_directory(tmp_path / "out") as directory:
        assert names(directory) == []
    assert names(tmp_path) == ["other", "out"]


def test_a_directory_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")

    def replace() -> None:
        with new_directory(tmp_path / "out") as directory:
            (directory / "file").write_text("y")

    with pytest.raises(OSError, match="not empty"):
        replace()
    assert names(tmp_path / "out") == ["precious"]


def test_new_and_empty_directories_are_accepted(tmp_path: Path) -> None:
    require_new_directory(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    require_new_directory(tmp_path / "empty")
    assert names(tmp_path) == ["empty"]


def test_files_and_full_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="not an empty directory"):
            require_new_directory(path)
    with pytest.raises(InputError, match="cannot be written"):
        require_new_directory(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("name", "reason"), [("x" * 248, "name is too long"), ("\udce9t\udce9", "name is not UTF-8")]
)
def test_a_name_that_cannot_be_written_is_refused_before_any_work(tmp_path, name, reason):
    with pytest.raises(InputError, match=reason):
        require_new_directory(tmp_path / name)
    with pytest.raises(InputError, match=reason):
        require_writable(tmp_path / name, "--run")


def test_foreign_leftovers_beside_a_new_directory_stay(tmp_path):
    (tmp_path / ".out.partial-old").mkdir()
    (tmp_path / ".out.partial-99999999").mkdir()
    with new_directory(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial-old", "out"]


def test_the_loser_of_two_leaves_nothing_behind(tmp_path):
    def lose() -> None:
        with new_directory(tmp_path / "out") as directory:
            (directory / "mine").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(OSError, match="not empty"):
        lose()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_a_new_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_file(tmp_path / "deep" / "out") as file:
        file.write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep" / "out").read_text() == "x"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_no_new_file(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with new_file(tmp_path / "out") as file:
            file.write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_a_new_file_replaces_none_that_appeared_meanwhile(tmp_path: Path) -> None:
    def lose() -> None:
        with new_file(tmp_path / "out") as file:
            file.write_text("mine")
            (tmp_path / "out").write_text("theirs")

    with pytest.raises(FileExistsError, match="already exists"):
        lose()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "theirs"


def test_only_files_that_killed_processes_left_beside_a_new_file_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-99999999").touch()
    (tmp_path / ".out.partial-99999998").mkdir()
    (tmp_path / ".out.partial-old").touch()
    with new_file(tmp_path / "out") as file:
        file.touch()
    assert names(tmp_path) == [".out.partial-99999998", ".out.partial-old", "out"]


def test_a_path_that_exists_or_links_cannot_become_a_new_file(tmp_path: Path) -> None:
    require_new_file(tmp_path / "out")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(InputError, match="already exists; choose another one"):
            require_new_file(path)
    with pytest.raises(InputError, match="cannot be written"):
        require_new_file(tmp_path / "file" / "out")
