"""A run's folder: claimed by a recipe, resumed by it alone, summed up for the card."""

import json
import os
import subprocess
import sys

import pytest

from ditifeat import RecipeError
from ditifeat.errors import FolderInUseError, WriteError
from ditifeat.train.run import claimed
from tests.conftest import tiny_recipe
from tests.train.conftest import make_run


def claim(folder, recipe, resume=False):
    with claimed(folder, recipe, resume=resume):
        pass


def test_a_folder_belongs_to_one_recipe(tmp_path):
    folder = tmp_path / "run"
    claim(folder, tiny_recipe())
    (folder / "dm-run").mkdir()
    with pytest.raises(RecipeError, match="--resume"):
        claim(folder, tiny_recipe())
    claim(folder, tiny_recipe(), resume=True)
    with pytest.raises(RecipeError, match="another recipe"):
        claim(folder, tiny_recipe(seed=1), resume=True)


def test_a_run_that_was_refused_before_training_may_begin_again(tmp_path):
    folder = tmp_path / "run"
    claim(folder, tiny_recipe())  # then no image was found, say
    claim(folder, tiny_recipe(seed=1))
    claim(folder, tiny_recipe(seed=1), resume=True)


def test_recipes_are_compared_as_recipes(tmp_path):
    """A comment, or a key that is not there yet and has its default, makes no other recipe."""
    folder = tmp_path / "run"
    claim(folder, tiny_recipe())
    path = folder / "recipe.yaml"
    text = path.read_text()
    assert "flip: true\n" in text and "  encoder_lr: 1.0\n" in text
    path.write_text("# mine\n" + text.replace("flip: true\n", "").replace("  encoder_lr: 1.0\n", ""))
    claim(folder, tiny_recipe(), resume=True)
    with pytest.raises(RecipeError, match="another recipe"):
        claim(folder, tiny_recipe(flip=False), resume=True)


def test_nothing_precious_is_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RecipeError, match="not empty"):
        claim(tmp_path, tiny_recipe())
    with pytest.raises(RecipeError, match="not empty"):
        claim(tmp_path / "thesis.tex", tiny_recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("resume", [False, True])
def test_the_second_run_in_a_folder_is_refused(tmp_path, resume):
    with (
        claimed(tmp_path, tiny_recipe(), resume=False),
        pytest.raises(FolderInUseError, match=f"process {os.getpid()}"),
    ):
        claim(tmp_path, tiny_recipe(), resume=resume)
    claim(tmp_path, tiny_recipe(), resume=True)


def test_a_run_of_another_process_is_seen_until_it_dies(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from ditifeat.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(FolderInUseError, match=f"process {other.pid}"):
            claim(tmp_path, tiny_recipe(), resume=True)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    claim(tmp_path, tiny_recipe(), resume=True)


def test_what_the_system_says_of_files_becomes_our_error(tmp_path):
    with (
        pytest.raises(WriteError, match=r"log\.jsonl: No space left.*--resume"),
        claimed(tmp_path, tiny_recipe(), resume=False),
    ):
        raise OSError(28, os.strerror(28), "log.jsonl")
    with pytest.raises(WriteError, match="may write"), claimed(tmp_path, tiny_recipe(), resume=True):
        raise WriteError("free space, or choose a folder that you may write to")  # ours stay as they are


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match=str(tmp_path)):
        claim(tmp_path / "run", tiny_recipe())


def test_a_place_where_no_folder_can_be_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        claim(tmp_path / "file" / "run", tiny_recipe())


def test_the_summary_counts_what_was_spent_and_what_was_seen(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "diti-run").mkdir()
    record = {
        "step": 50,
        "images": 200,
        "seconds": 2.0,
        "precision": "float32",
        "device": "CPU",
        "networks": ["encoder"],
        "parameters": 7,
    }
    gpu = {"precision": "bf16", "device": "NVIDIA L4", "peak_share": 0.12345}
    # The run was killed after 100 steps, and went on from step 50 on another device.
    later = [record | {"step": 100, "images": 400}, record | {"step": 100, "images": 400} | gpu]
    (tmp_path / "diti-run" / "log.jsonl").write_text("\n".join(map(json.dumps, [record, *later])))
    assert run.summary() == {
        "recipe": "tiny", "seed": 0, "training_images": 12, "diti_images": 400, "diti_seconds": 6,
        "diti_precision": "float32, then bf16", "diti_device": "CPU, then NVIDIA L4", "diti_peak_share": 0.123,
        "diti_networks": "encoder", "diti_parameters": 7,
    }  # fmt: skip
