"""Writes are whole or not at all, whoever else writes; what cannot be read or written is one clear error."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from ditifeat import ModelError
from ditifeat.errors import FolderInUseError, InputError, MissingFileError, WriteError
from ditifeat.files import (
    atomic_write,
    check_writable,
    exclusive,
    load_strictly,
    read_json,
    read_tensors,
    replaced_folder,
    select_prefix,
    write_tensors,
    write_text,
)


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "x"

    def write(partial):
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, write)
    assert list(tmp_path.iterdir()) == []


def test_eight_threads_to_one_path(tmp_path):
    path = tmp_path / "new" / "x.safetensors"

    def write(value):
        for _ in range(10):
            write_tensors(path, {"x": torch.full((5000,), float(value))})
            assert len(read_tensors(path)[0]["x"].unique()) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def run(program, folder, **arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], text=True, stdout=subprocess.PIPE, **arguments
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from ditifeat.files import atomic_write
def write(partial):
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
atomic_write(Path(sys.argv[1]) / "x", write)
"""


def test_leftovers_of_dead_writers_go_at_the_next_write(tmp_path):
    (tmp_path / "x").write_text("old")
    assert run(KILLED, tmp_path).wait() == -signal.SIGKILL
    (left,) = tmp_path.glob(".x.*.partial")
    assert (tmp_path / "x").read_text() == "old"
    dead = left.name.split(".")[2]
    kept = {f".y.{dead}.0.partial", f".x.{os.getppid()}.0.partial", ".x.partial", "x.partial", f"x.{dead}.0.partial"}
    for name in (*kept, f".x.{dead}.partial", f".x.{os.getpid()}.12345678.partial", f".x.{10**30}.partial"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "x", "new")
    assert {p.name for p in tmp_path.iterdir()} == {
        "x",
        *kept,
    }  # of other files, of living processes, no pattern of ours
    assert (tmp_path / "x").read_text() == "new"


def test_a_writer_that_is_still_busy_is_left_alone(tmp_path):
    begun, done = threading.Event(), threading.Event()

    def slow(partial):
        partial.write_text("slow")
        begun.set()
        assert done.wait(10)

    thread = threading.Thread(target=atomic_write, args=(tmp_path / "x", slow))
    thread.start()
    assert begun.wait(10)
    write_text(tmp_path / "x", "quick")
    done.set()
    thread.join()
    assert (tmp_path / "x").read_text() == "slow" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk(tmp_path, number):
    (tmp_path / "x").write_text("old")

    def full(partial):
        partial.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(WriteError, match=rf"x: cannot be written \({os.strerror(number)}\)") as error:
        atomic_write(tmp_path / "x", full)
    assert isinstance(error.value, OSError) and (tmp_path / "x").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


FULL = """
import resource, sys, torch
from pathlib import Path
from ditifeat.errors import WriteError
from ditifeat.files import write_tensors, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda p: write_text(p, "x" * 9999), lambda p: write_tensors(p, {"x": torch.zeros(9999)})):
    try:
        write(Path(sys.argv[1]) / "x")
    except WriteError as error:
        print(error)
"""


def test_every_writer_says_that_there_is_no_space(tmp_path):
    out = run(FULL, tmp_path).communicate()[0].splitlines()
    assert len(out) == 2 and all(f"{tmp_path / 'x'}: cannot be written (" in line for line in out)
    assert not list(tmp_path.iterdir())


def unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    yield tmp_path / "file" / "x"
    yield tmp_path / "folder"
    yield Path("/proc/ditifeat/x")
    if os.geteuid():
        (tmp_path / "folder").chmod(0o500)
        yield tmp_path / "folder" / "x"


def test_paths_that_cannot_be_written(tmp_path):
    for path in unwritable(tmp_path):
        for write in (check_writable, lambda p: write_text(p, "x")):
            with pytest.raises(WriteError, match=str(path)):
                write(path)


def test_a_path_that_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "x").write_text("old")
    check_writable(tmp_path / "x")
    check_writable(tmp_path / "new" / "y")
    assert (tmp_path / "x").read_text() == "old" and not list((tmp_path / "new").iterdir())


def test_our_own_errors_pass(tmp_path):
    def write(partial):
        raise MissingFileError("model: there is no such file")

    with pytest.raises(MissingFileError, match=r"^model: there is no such file$"):
        atomic_write(tmp_path / "x", write)


HOLD = """
import sys
from pathlib import Path
from ditifeat.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_has_one_writer(tmp_path):
    folder = tmp_path / "run"
    process = run(HOLD, folder, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError, match=rf"run: process {process.pid} is writing") as error, exclusive(folder):
        pass
    assert isinstance(error.value, BlockingIOError)
    process.kill()  # the lock ends with its process
    process.wait()
    with exclusive(folder):
        with pytest.raises(FolderInUseError, match=str(os.getpid())), exclusive(folder):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(folder):
        pass


def test_an_error_inside_frees_the_folder(tmp_path):
    for _ in range(2):
        with pytest.raises(InputError), exclusive(tmp_path):
            raise InputError("x")


def test_folders_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with caplog.at_level(logging.WARNING), exclusive(tmp_path):
        assert "cannot be locked" in caplog.text
    with pytest.raises(WriteError, match="/proc"), exclusive(Path("/proc/ditifeat")):
        pass


@pytest.mark.parametrize(
    "text,words",
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("1" * 5000, "cannot be read as JSON"),
        ('{"a": {"k": 1, "k": 2}}', "a key is said twice among k, k"),
    ],
)
def test_what_is_not_json(tmp_path, text, words):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=rf"x\.json: .*{words}"):
        read_json(path)


def test_missing_and_unreadable_files(tmp_path):
    for read in (read_json, read_tensors):
        with pytest.raises(MissingFileError, match="none: there is no such file") as error:
            read(tmp_path / "none")
        assert isinstance(error.value, FileNotFoundError) and isinstance(error.value, ModelError)
        with pytest.raises(ModelError, match=str(tmp_path)):
            read(tmp_path)


@pytest.mark.parametrize("cut", [0, 7, 20, -1])
def test_tensors_that_are_cut(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": torch.arange(4.0)}, {"about": "this"})
    tensors, about = read_tensors(path)
    assert torch.equal(tensors["x"], torch.arange(4.0)) and about == {"about": "this"}
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="not a whole safetensors"):
        read_tensors(path)


def test_turned_tensors_and_parameters_are_written(tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "x", {"turned": x.T, "parameter": nn.Parameter(x.clone())})
    tensors, _ = read_tensors(tmp_path / "x")
    assert torch.equal(tensors["turned"], x.T) and torch.equal(tensors["parameter"], x)


@pytest.mark.parametrize(
    "update,words",
    [
        ({"weight": None}, "missing: weight; unknown: none"),
        ({"extra": torch.zeros(1)}, "missing: none; unknown: extra"),
        ({"weight": torch.zeros(3, 2)}, r"weight has shape \(3, 2\), expected \(2, 3\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int32)}, r"weight is of type torch\.int32"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, r"weight is of type torch\.float64"),
        ({"bias": torch.tensor([1.0, float("inf")])}, "bias holds NaN or infinite"),
    ],
)
def test_weights_are_loaded_strictly(update, words):
    tensors = {k: v for k, v in {"weight": torch.ones(2, 3), "bias": torch.zeros(2), **update}.items() if v is not None}
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    with pytest.raises(ModelError, match=f"here: .*{words}"):
        load_strictly(module, tensors, "here")


def test_half_precision_is_loaded_as_float32():
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    load_strictly(module, {"weight": torch.ones(2, 3).half(), "bias": torch.ones(2).bfloat16()}, "here")
    assert module.weight.dtype == module.bias.dtype == torch.float32 and module(torch.ones(3))[0].item() == 4


def test_prefixes():
    assert select_prefix({"a.b": 1, "ab": 2, "a.c.d": 3}, "a.") == {"b": 1, "c.d": 3}


def test_files_are_for_whom_the_umask_lets_read(tmp_path):
    """A folder of models is shared; safetensors from 0.7 on writes files that their owner alone may read."""
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text(tmp_path / "text", "x")
    write_tensors(tmp_path / "tensors", {"x": torch.zeros(1)})
    assert (tmp_path / "text").stat().st_mode == (tmp_path / "tensors").stat().st_mode == plain.stat().st_mode


def test_leftover_folders_of_dead_writers_go_and_threads_do_not_disturb_each_other(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".x.{dead.pid}.0.partial"
    left.mkdir()
    (left / "half").write_text("half")

    def write(number):
        with replaced_folder(tmp_path / "x") as fresh:
            (fresh / "a").write_text(str(number))
            (fresh / "b").write_text(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "a").read_text() == (tmp_path / "x" / "b").read_text()


def test_a_bit_that_changed_is_found_and_the_same_contents_are_the_same_bytes(tmp_path):
    path, about = tmp_path / "x.safetensors", {key: key for key in ["format", "step", "names", "model", "weights"]}
    write_tensors(path, {"b": torch.arange(8.0), "a": torch.tensor(True)}, about)
    whole = path.read_bytes()
    program = (
        "import torch, sys; from pathlib import Path; from ditifeat.files import write_tensors; "
        "write_tensors(Path(sys.argv[1]) / 'x.safetensors', {'b': torch.arange(8.0), 'a': torch.tensor(True)}, "
        "{key: key for key in 'format step names model weights'.split()})"
    )
    assert run(program, tmp_path).wait() == 0 and path.read_bytes() == whole
    assert read_tensors(path)[1] == about
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="is damaged, as its sha256 is another"):
        read_tensors(path)
