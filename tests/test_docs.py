"""What README, CONTRIBUTING, changelog and cards say is true: their code runs, their commands parse, their links exist."""

import ast
import io
import json
import re
import shlex
import shutil
import tokenize
from functools import partial
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import ditifeat
from ditifeat.app.cli import build_parser, main
from ditifeat.benchmark import tables
from ditifeat.train.loop import Task

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ditifeat.__file__).parent  # of the wheel, where that is tested
CARDS = sorted((ROOT / "weights_card").rglob("*.md"))
CELEBA64 = ROOT / "weights_card" / "celeba64-mini"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + CARDS
# Left column of the project's vocabulary, as exact phrases: each has a standard term, which is used in its place.
NOT_OUR_WORDS = {
    r"pictures?": "image",
    r"lost codes?|codes? `lost`": "error-predictive",
    r"white codes?|codes? `white`": "PCA-whitened",
    r"floors|floor:": "baseline",
    r"(the|a|our) judge|judge (of|on)|judged": "attribute classifier",
    r"faithfulness": "edit evaluation",
    r"leakages?|leaks?": "off-target change",
    r"AP, nearest": "k-NN AP",
    r"own relative sizes?": "scale",
    r"(?<![Ss]tandard )deviations?": "standard deviation",
    r"way back is the way there": "round trip",
    r"implicit (solver|steps?)|solver=.implicit.": "fixed-point DDIM inversion",
    r"ladders?": "grid of time-steps",
    r"(encoder|estimator|training) begins?( as)?": "initialise",
    r"shared out": "allocated",
    r"by heart": "overfit",
    r"(quiet|loud) (codes?|dimensions?|directions?)|too (quiet|loud)": "low or high variance",
    r"whole or not at all|whole-or-nothing": "atomic",
    r"mirrored": "averaged over horizontal flips",
    r"switches": "ablations",
    r"first so many": "first N",
    r"artefacts?": "model folder",
    r"512 numbers|numbers a (face|image)": "512-dimensional",
    r"a pass|(row|column|number|dimensions|share)s? an? (image|attribute|process)(?! may)": "per",
}
# How lines of bash blocks begin that are parsed and not run, and why. Pages below weights_card/ that are no README show what
# made their numbers: data sets and hours are needed.
NOT_RUN = {
    "pip install": "installs; .ci/run runs the README's lines, tests/test_distribution.py installs what is built",
    "python -m pytest": "these are the tests",
    "ditifeat train images64": "trains for an hour; tests/train/test_pipeline.py trains small models",
}
NOT_OUR_NAMES = r"\b(REACH|FEW|SHOWN|FAMILIAR|STARTED_ON|LADDER|_once|altered)\b"  # of constants and functions


def blocks(path, language):
    """The text of a page's code fences whose info string begins with a language."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


def page_id(path):
    return str(path.relative_to(ROOT))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with `photos/` (the bundled faces), `labels.csv`, `me.jpg` and `you.jpg`, as the pages have them."""
    faces = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))
    (tmp_path / "photos").mkdir()
    rows = ["name,Smiling,Male"]
    for i, face in enumerate(faces):
        shutil.copy(face, tmp_path / "photos" / face.name)
        rows.append(f"{face.name},{i % 2},{i // 2 % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    for face, name in zip(faces, ("me.jpg", "you.jpg"), strict=False):
        Image.open(face).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python") and p.name != "CONTRIBUTING.md"], ids=page_id)
def test_python_blocks_run(path, workplace, monkeypatch):
    """A page's blocks share their names, as for a reader who types them one after the other."""
    monkeypatch.setattr(ditifeat, "edit", partial(ditifeat.edit, steps=2))  # 20 by default
    names = {}
    for i, code in enumerate(blocks(path, "python")):
        exec(compile(code, f"{path.name}, block {i + 1}", "exec"), names)
    made = {file.name for file in workplace.iterdir()}
    if path.name == "README.md" and path.parent == ROOT:
        assert {"smile.png", "swap.png", "probe.png", "features.npz"} <= made


def test_the_new_method_is_the_tested_one():
    """CONTRIBUTING quotes `tests/train/test_new_method.py`, which trains it; its file can be imported as it stands."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    tested = (ROOT / "tests" / "train" / "test_new_method.py").read_text("utf-8")
    file, line = blocks(ROOT / "CONTRIBUTING.md", "python")
    assert file[file.index("@dataclass") :].strip() in tested
    assert line.strip(" ,\n") in tested
    assert blocks(ROOT / "CONTRIBUTING.md", "yaml")[0] in tested
    names = {"__name__": "autoencoder"}
    exec(compile(file, "CONTRIBUTING.md", "exec"), names)
    assert issubclass(names["AutoencoderTask"], Task)
    assert "ditifeat/train/tasks/autoencoder.py" in text


def shell_lines(path):
    """Every line of a page's bash blocks, without comments."""
    lines = "".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.split(" #")[0].strip()]


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in PAGES if p.name in ("README.md", "CONTRIBUTING.md")], ids=page_id)
def test_bash_blocks_run(path, workplace, tiny_folder):
    """One line after the other, as a reader types them; `run/model` is there, as training would leave it."""
    shutil.copytree(tiny_folder, workplace / "run" / "model")
    for line in shell_lines(path):
        if line.startswith(tuple(NOT_RUN)):
            continue
        program, *words = shlex.split(line)
        assert program == "ditifeat", f"{line}: is not run; say in NOT_RUN why"
        assert main(words) == 0, line
        made = [workplace / word for option, word in pairwise(words) if option in ("--out", "--plot")]
        assert all(file.exists() for file in made), line


def test_what_is_not_run_is_there():
    lines = [line for path in PAGES if path.name in ("README.md", "CONTRIBUTING.md") for line in shell_lines(path)]
    assert all(any(line.startswith(beginning) for line in lines) for beginning in NOT_RUN)


def test_every_block_of_code_is_known():
    """A fence of another language, or an indented one, would be overlooked."""
    for path in PAGES:
        fences = re.findall(r"^[ ]*```(\w*)", path.read_text("utf-8"), re.M)[::2]
        assert set(fences) <= {"python", "bash", "yaml", "bibtex", "text"}, page_id(path)
        known = sum(len(blocks(path, language)) for language in ("python", "bash", "yaml", "bibtex", "text"))
        assert known == len(fences), page_id(path)


def commands():
    """(page, line) of every line of a bash block, and of every inline command of ours with an option."""
    for path in PAGES:
        text = path.read_text("utf-8")
        lines = shell_lines(path)
        lines += re.findall(
            r"`((?:ditifeat|python examples/)[^`]* --[^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        )
        yield from ((page_id(path), line.split(" #")[0].strip()) for line in lines if line.strip())


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_commands_exist(page, line):
    program, *words = shlex.split(line)
    if program == "ditifeat":
        build_parser().parse_args(words)
    elif program == "python" and words[0].startswith("examples/"):
        text = (ROOT / words[0]).read_text("utf-8")
        assert all(f'"{word}"' in text for word in words[1:] if word.startswith("--")), f"{page}: {line}"
    else:
        assert program in ("pip", "python", "ruff", "mypy", "accelerate", "cp", "git"), f"{page}: {line}"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_exist(path):
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        assert found.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{path.name} links to {target}"


@pytest.mark.parametrize("name", ["benchmark", "edits"])
def test_tables_are_what_commands_write(name):
    result = json.loads((CELEBA64 / f"{name}.json").read_text("utf-8"))
    text = (CELEBA64 / f"{name}.md").read_text("utf-8")
    if name == "benchmark":
        assert text == tables.page(result)
    else:
        assert text == tables.edit_tables(result)


def test_readme_is_short_and_keeps_its_two_commands():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 135
    assert lines.count("```bash quickstart") == lines.count("```bash tests") == 1


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_pages_use_standard_terms(path):
    assert not private_words(path.read_text("utf-8"))


def private_words(text):
    """What is found of NOT_OUR_WORDS, with the word to take instead."""
    text = " ".join(text.split())
    found = ((re.search(rf"\b({phrase})\b", text), word) for phrase, word in NOT_OUR_WORDS.items())
    return [f"{match[0]!r}: say {word!r}" for match, word in found if match]


def texts(path):
    """(line, text) of every docstring, message and comment of a module."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_and_messages_use_standard_terms(path):
    found = [f"line {line}: {word}" for line, text in texts(path) for word in private_words(text)]
    assert not found, "\n".join(found)
    assert not re.search(NOT_OUR_NAMES, path.read_text("utf-8"))
