"""The rooms of DESIGN.md, in their order: imports run downwards only, and in no circle."""

import ast
from pathlib import Path

import pytest

import ditifeat

PACKAGE = Path(ditifeat.__file__).parent
ROOMS = (
    "app",
    "benchmark",
    "train",
    "editing",
    "encoding",
    "analysis",
    "pretrained",
    "model",
    "align",
    "data",
    "schema",
    "files",
    "errors",
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = ("ditifeat", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def imported(path, *, late):
    """Modules of ours that a file imports: at its top alone, or (late) in functions and for type checkers too."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = ast.walk(tree) if late else [n for n in tree.body if not isinstance(n, ast.If)]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ditifeat":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in NAMES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ditifeat")


def room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_downwards(path):
    here = room(module_name(path))
    if here in ("", "__main__"):
        pytest.skip("the package itself and `python -m ditifeat` name the public face")
    for name in imported(path, late=True):
        # `import ditifeat` takes the public names, which are imported at their first use.
        if room(name) and here != "app":
            assert ROOMS.index(room(name)) >= ROOMS.index(here), f"{module_name(path)} imports {name}"


def test_every_module_has_a_room():
    assert {room(name) for name in NAMES} - {"", "__main__"} == set(ROOMS)


def test_no_import_circle():
    graph = {
        name: {n for n in imported(path, late=True) if n != "ditifeat" and n != name} for name, path in NAMES.items()
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph.get(name, ())):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_file_is_one_room(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400
