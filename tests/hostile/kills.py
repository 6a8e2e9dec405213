"""SIGKILL at random moments: what is done again afterwards gives the same final bytes as without it."""

import hashlib
import inspect
import json
import os
import random
import shutil
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path

# All of it is imported before a process is forked, so that each attempt costs its work alone.
import diffusers  # noqa: F401
import numpy as np
import sklearn.linear_model  # noqa: F401
import torch

import ditifeat
import ditifeat.train
from ditifeat.encoding import output
from ditifeat.errors import DitifeatError, MissingFileError
from ditifeat.model.diti import DiTi
from ditifeat.train import evaluate, loop
from ditifeat.train.sections import Optimiser
from tests.conftest import make_image, random_model, tiny_recipe
from tests.hostile.files import some_features

TIMED = ("seconds", "images_per_second", "device", "precision")


def make_photos(folder, count=24):
    folder.mkdir()
    for i in range(count):
        make_image(i).save(folder / f"{i:02d}.png")


class Train:
    """A whole run of a tiny recipe, with a checkpoint after each step."""

    def __init__(self, scratch):
        make_photos(scratch / "photos")
        self.photos = scratch / "photos"
        recipe = tiny_recipe(holdout=4)
        few = Optimiser(48, batch=4, lr=1e-3, ema=0.5)
        self.recipe = replace(
            recipe, dm=replace(recipe.dm, optimiser=few), section=replace(recipe.section, optimiser=few)
        )

    def work(self, folder):
        loop.CHECKPOINT_MINUTES = 0
        evaluate.STEPS = 5
        loop.Trainer._preview = lambda trainer: None
        ditifeat.train.train(self.recipe, self.photos, folder / "run", resume=True)

    def check(self, folder):
        pass

    def result(self, folder):
        return hashes(folder / "run" / "model", lambda path: path.suffix in (".safetensors", ".json"))


class Encode:
    """A folder of images to Parquet shards of a few rows."""

    def __init__(self, scratch):
        make_photos(scratch / "photos", 100)
        self.photos, self.model = scratch / "photos", scratch / "model"
        random_model(tiny_recipe()).save(self.model)

    def work(self, folder):
        output.SHARD_ROWS = 8
        encoder = ditifeat.load_encoder(self.model, device="cpu")
        ditifeat.encode(encoder, self.photos, batch_size=4, out=folder / "x.parquet")

    def check(self, folder):
        if (folder / "x.parquet").exists():
            try:
                found = ditifeat.Features.load(folder / "x.parquet")
            except DitifeatError:
                return
            assert len(found) == 100, "a part was read as the whole"

    def result(self, folder):
        return hashes(folder / "x.parquet", lambda path: path.suffix == ".parquet")


class SaveModel:
    """A model saved over another."""

    def __init__(self, scratch):
        self.recipe = tiny_recipe()

    def prepare(self, folder):
        random_model(self.recipe).save(folder / "model")

    def work(self, folder):
        model = random_model(self.recipe)
        for parameter in model.parameters():
            parameter.data += 1
        yield
        model.save(folder / "model")

    def check(self, folder):
        try:
            model = DiTi.load(folder / "model")
        except MissingFileError as error:
            assert "config.json" in str(error)
            return
        old = random_model(self.recipe).state_dict()
        changes = {float((value - old[key]).abs().max() > 0.5) for key, value in model.named_parameters()}
        assert len(changes) == 1, "half of one model and half of another"

    def result(self, folder):
        return hashes(folder / "model", lambda path: True)


class SaveFeatures:
    """Features saved over others, in each of the formats."""

    def __init__(self, scratch, suffixes=(".npz", ".safetensors", ".npy", ".parquet")):
        self.suffixes = suffixes
        self.old, self.new = some_features(50), some_features(60_000)

    def prepare(self, folder):
        for suffix in self.suffixes:
            self.old.save(folder / f"x{suffix}")

    def work(self, folder):
        for suffix in self.suffixes:
            self.new.save(folder / f"x{suffix}")

    def check(self, folder):
        for suffix in self.suffixes:
            try:
                found = ditifeat.Features.load(folder / f"x{suffix}")
            except DitifeatError as error:
                assert "x.npy.json" in str(error) or suffix == ".parquet", error
                continue
            known = next(each for each in (self.old, self.new) if len(each) == len(found))
            assert np.array_equal(found.array, known.array) and found.names == known.names

    def result(self, folder):
        return hashes(folder, lambda path: True)


JOBS = {"train": Train, "encode": Encode, "save-model": SaveModel, "save-features": SaveFeatures}


def hashes(folder, wanted):
    """The sha256 of each file; of configurations without what was spent on the training."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and wanted(path) and not path.name.startswith(".lock"):
            data = path.read_bytes()
            if path.name == "config.json" and "training" in (said := json.loads(data)):
                said["training"] = {k: v for k, v in said["training"].items() if not any(word in k for word in TIMED)}
                data = json.dumps(said).encode()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def fork(function, *arguments):
    """Run a function in a process of its own; give its number, and a descriptor that is written to when work begins."""
    ready, begun = os.pipe()
    process = os.fork()
    if process:
        os.close(begun)
        return process, ready
    status = 1
    try:
        torch.set_num_threads(1)
        steps = function(*arguments)
        if hasattr(steps, "__next__"):  # it prepares, yields, and works
            next(steps)
            os.write(begun, b"x")
            next(steps, None)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def working(job, folder):
    """The job's work as steps: prepare, yield, work."""
    steps = job.work
    if inspect.isgeneratorfunction(steps):
        yield from steps(folder)
    else:
        yield
        steps(folder)


def finish(process, ready):
    os.close(ready)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def complete(job, folder):
    """Check what was left, and do the work again."""
    job.check(folder)
    for _ in working(job, folder):
        pass


def fresh(job, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if hasattr(job, "prepare"):
        process, ready = fork(job.prepare, folder)
        assert finish(process, ready) == 0


def run(name, count, scratch):
    """Kill a job at so many random moments; the same ones of its length in each run.

    Returns:
        How many were killed before their end, and what went wrong.
    """
    scratch = Path(scratch) / name
    scratch.mkdir()
    rng, folder = random.Random(name), scratch / "out"
    holder = scratch / "inputs"
    holder.mkdir()
    job = JOBS[name](holder)
    fresh(job, folder)
    process, ready = fork(working, job, folder)
    os.read(ready, 1)
    begun = time.monotonic()
    assert finish(process, ready) == 0, "the undisturbed run failed"
    length, expected = time.monotonic() - begun, job.result(folder)
    killed, failures = 0, []
    for number in range(count):
        fresh(job, folder)
        process, ready = fork(working, job, folder)
        os.read(ready, 1)
        time.sleep(rng.random() * length)
        os.kill(process, signal.SIGKILL)
        killed += finish(process, ready) == -signal.SIGKILL
        if finish(*fork(complete, job, folder)) != 0:
            failures.append((number, "could not go on"))
        elif (found := job.result(folder)) != expected:
            different = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
            failures.append((number, f"other bytes: {different[:5]}"))
    return length, killed, failures
