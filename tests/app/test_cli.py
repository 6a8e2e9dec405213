"""The parser, and what `main` makes of errors, interrupts and closed pipes."""

import inspect
import logging
import os
import shlex
import subprocess
import sys
import time
from importlib import import_module

import pytest

from ditifeat import InputError, __version__
from ditifeat.app import commands
from ditifeat.app.cli import build_parser, main

COMMANDS = [
    "encode", "probe", "learning-curve", "edit", "lost", "search", "index", "align", "resize", "factors", "train", "benchmark",
    "evaluate-edits", "evaluate-dm",
    "evaluate-factors",
    "convert", "export", "push", "info", "demo", "quickstart",
]  # fmt: skip


def subparsers():
    return build_parser()._subparsers._group_actions[0].choices


def test_all_commands_are_there():
    assert list(subparsers()) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    command = shlex.split(lines[lines.index("example:") + 1])
    assert command[:2] == ["ditifeat", name]
    assert build_parser().parse_args(command[1:]).run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    assert all(action.help for action in subparsers()[name]._actions)


FUNCTIONS = {
    "encode": "encoding.encoder encode",
    "probe": "analysis.probe probe",
    "edit": "editing.edit edit",
    "lost": "editing.lost lost",
    "search": "analysis.search search",
    "index": "analysis.index build_index",
    "resize": "data.resize resize",
    "factors": "data.factors write",
    "benchmark": "benchmark.benchmark benchmark",
    "evaluate-edits": "benchmark.edits evaluate_edits",
    "evaluate-dm": "benchmark.evaluate_dm evaluate_dm",
    "evaluate-factors": "benchmark.factors evaluate_factors",
    "convert": "pretrained.official convert",
    "push": "pretrained.push push",
    "export": "encoding.export export_onnx",
    "demo": "app.page serve",
    "train": "train train",
}

OF_THE_COMMAND = {"help", "out", "plot", "model", "train_first", "folder", "attribute", "report", "format", "ray"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_carry_the_names_of_python_arguments(name):
    module, function = FUNCTIONS[name].split()
    item = import_module(f"ditifeat.{module}")
    for part in function.split("."):
        item = getattr(item, part)
    encoder = import_module("ditifeat.encoding.encoder")
    known = {
        name for called in (item, encoder.load_encoder, encoder.encode) for name in inspect.signature(called).parameters
    }
    options = {a.dest for a in subparsers()[name]._actions if a.option_strings}
    assert options - OF_THE_COMMAND <= known


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"ditifeat {__version__}\n"


@pytest.mark.parametrize(
    "words,message",
    [
        ("encode x --out y.npz --batch-size 0", "0 must be within 1.."),
        ("encode x --out y.npz --batch-size -1", "-1 must be within 1.."),
        ("encode x --out y.npz --batch-size 2.5", "invalid integer value: '2.5'"),
        ("encode x --out y.npz --batch-size 99999999999999999999", "must be within 1..2147483647"),
        ("demo --port 99999", "99999 must be within 1..65535"),
        ("encode x --out y.npz --on-error ignore", "invalid choice: 'ignore'"),
        ("encode x --out y.npz --dtype int8", "invalid choice: 'int8'"),
        ("encode --out y.npz", "images"),
        ("probe x.npz y.csv --random-state -1", "-1 must be within 0.."),
        ("probe x.npz y.csv --dims 0", "0 must be within 1.."),
        ("probe x.npz y.csv --train-size nan", "nan must be a finite number"),
        ("probe x.npz y.csv --train-size 0.5 --train-first 7", "not allowed with argument"),
        ("edit x --out y.png --scale nan", "nan must be a finite number"),
        ("edit x --out y.png --scale 1 inf", "inf must be a finite number"),
        ("edit x --out y.png --scale big", "invalid number value: 'big'"),
        ("edit x --out y.png --steps 0", "0 must be within 1.."),
        ("edit x --out y.png --solver implicit", "invalid choice: 'implicit'"),
        ("lost x --out y.png --time-steps -5", "-5 must be within 0.."),
        ("search x y.npz --count 0", "0 must be within 1.."),
        ("resize x --out y.tar --size 0", "0 must be within 1.."),
        ("resize x --out y.tar --size 64 --crop 0 0 1", "expected 4 arguments"),
        ("resize x --out y.tar --size 64 --crop 0 0 1 1/0", "1/0 divides by 0"),
        ("resize x --out y.tar --size 64 --crop 0 0 1 nan", "invalid fraction value: 'nan'"),
        ("benchmark run --data x --labels y --out z", "--train-size"),
        ("benchmark run --data x --labels y --out z --train-size 8 --steps 0", "0 must be within 1.."),
        ("evaluate-edits run --data x --labels y --out z --train-size -8", "-8 must be within 1.."),
        ("encode x --out y.npz --batch 4", "unrecognized arguments: --batch"),  # nothing is guessed
        ("enc x --out y.npz", "invalid choice: 'enc'"),
        ("", "COMMAND"),
    ],
)
def test_odd_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    "words,expected",
    [
        ("probe x y --train-size 0.5", {"train_size": 0.5}),
        ("probe x y --train-size 8000", {"train_size": 8000}),
        ("edit x --out y.png --scale -1 0 1", {"scale": [-1, 0, 1]}),
        ("edit x --out y.png --scale -0.1 --x-T swap", {"scale": [-0.1], "x_T": "swap"}),
        ("encode a b --out y.npz --on-error skip", {"images": ["a", "b"], "on_error": "skip"}),
        ("resize a b --out c.tar --size 8 --crop 1/4 0 .5 1", {"images": ["a", "b"], "crop": [0.25, 0, 0.5, 1]}),
        ("encode a --out y.npz --flip-average", {"flip_average": True}),
        ("benchmark r --data d --labels l --train-size 9 --out o --flip-average", {"flip_average": True}),
        ("evaluate-edits r --data d --labels l --train-size 9 --out o", {"flip_average": False}),
        ("info org/name --revision v1 --local-files-only", {"revision": "v1", "local_files_only": True}),
    ],
)
def test_words_are_read(words, expected):
    found = build_parser().parse_args(words.split())
    assert {key: getattr(found, key) for key in expected} == expected


def raising(error):
    def run(arguments):
        raise error

    return run


@pytest.mark.parametrize(
    "error,code,line",
    [
        (InputError("x.npz: is damaged;\nmake it again"), 2, "ditifeat: x.npz: is damaged; make it again\n"),
        (PermissionError(13, "Permission denied", "/data/x"), 2, "ditifeat: /data/x: Permission denied\n"),
        (OSError("no such device"), 2, "ditifeat: no such device\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_are_one_line(error, code, line, monkeypatch, capsys):
    monkeypatch.setattr(commands, "info", raising(error))
    assert main(["info"]) == code
    assert capsys.readouterr().err == line


def test_errors_of_our_own_making_are_not_hidden(monkeypatch):
    monkeypatch.setattr(commands, "info", raising(AttributeError("a bug")))
    with pytest.raises(AttributeError):
        main(["info"])


def test_the_librarys_notices_go_to_stderr_while_a_command_runs(monkeypatch, capsys):
    logger = logging.getLogger("ditifeat.data")

    def run(arguments):
        logger.info("left out: 2 .txt")
        logger.debug("not this")

    monkeypatch.setattr(commands, "info", run)
    before = list(logging.getLogger("ditifeat").handlers)
    for _ in range(2):
        assert main(["info"]) == 0
        assert capsys.readouterr().err == "INFO: left out: 2 .txt\n"
    assert logging.getLogger("ditifeat").handlers == before and logging.getLogger("ditifeat").level == logging.NOTSET


def test_names_that_the_terminal_cannot_show_are_escaped():
    program = (
        "from ditifeat.app import cli, commands\ncommands.info = lambda _: print('caf\\udce9')\ncli.main(['info'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "caf\\udce9\n"


def unread_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(
    "words,stdout,code,line",
    [
        ("info", unread_pipe, 141, ""),
        ("info --help", unread_pipe, 141, ""),
        ("info --help", full_disk, 2, "ditifeat: [Errno 28] No space left on device\n"),
    ],
)
def test_a_stdout_that_takes_nothing(words, stdout, code, line):
    descriptor = stdout()
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "ditifeat", *words.split()]
    done = subprocess.run(command, stdout=descriptor, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(descriptor)
    assert done.returncode == code and done.stderr == line


def test_no_stdout_at_all():
    command = f"{sys.executable} -m ditifeat --version >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_help_is_fast_and_imports_nothing_heavy():
    program = (
        "import sys; from ditifeat.app.cli import main\ntry: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'numpy', 'sklearn', 'diffusers', 'PIL', 'tqdm'} & set(sys.modules)"
    )
    seconds = []
    for words in (["--help"], ["--version"], ["encode", "--help"]):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", program, *words], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1  # 0.1 s on an idle machine; a torch import alone takes longer than this
