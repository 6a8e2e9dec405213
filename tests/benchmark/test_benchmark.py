import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from ditifeat import InputError, ModelError
from ditifeat.benchmark import benchmark as module
from ditifeat.benchmark.benchmark import benchmark, load_runs, method_name
from ditifeat.benchmark.edits import evaluate_edits
from ditifeat.benchmark.split import in_batches, read_split
from ditifeat.benchmark.tables import specialisation_tables, specialised, table
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingDependencyError
from ditifeat.model.partition import TimeStepPartition
from ditifeat.train.tasks.diffae import build_diffae
from tests.benchmark.conftest import residual_recipe
from tests.conftest import method_recipe, random_model, tiny_recipe

SCORES = {
    "values": {"ap": 0.5},
    "attributes": {"Bright": 0.5, "Coin": 0.5},
    "prevalence": {"Bright": 0.5, "Coin": 0.5},
    "weights": [1.0],
}


@pytest.fixture
def scored(monkeypatch):
    """Probes and reconstructions are replaced; the codes that were scored."""
    found = []
    monkeypatch.setattr(module, "score", lambda codes, split: found.append(codes) or json.loads(json.dumps(SCORES)))

    def errors(model, images, steps):
        error = float(abs(model.encoder(images)).mean())
        return {key: {"inferred_x_T": error, "random_x_T": 2 * error} for key in ("mse", "ssim")}

    monkeypatch.setattr(module, "reconstruction", errors)
    monkeypatch.setattr(module, "specialisation", lambda model, codes, *_: measured(model, codes))
    return found


def measured(model, codes):
    """What `specialisation` gives, of swaps none: the first code takes the place of the effective rank."""
    values = {"error_left": [[0.5]], "mse_random": 0.1, "round_trip": 0.01, "alone": [0.5], "cumulative": [0.5]}
    ranges = {"error_left": [(0, 1000)], "swaps": [], "probe": model.partition.ranges[:1]}
    return {"ranges": ranges, "values": values | {"effective_rank": float(codes[0, 0])}}


def save(folder, recipe, **training):
    model = random_model(recipe)
    model.config = replace(model.config, training=training)
    model.save(folder)
    return folder


def test_runs_of_one_recipe_share_a_row_and_baselines_stand_beside(scored, dataset, tmp_path):
    runs = [
        save(tmp_path / "a" / "model", residual_recipe(), diti_images=80, diti_seconds=3),
        save(tmp_path / "b" / "model", residual_recipe(seed=1), diti_images=80, diti_seconds=5),
        save(tmp_path / "c" / "model", method_recipe("pdae"), diti_images=80),
        save(tmp_path / "d" / "model", residual_recipe(), diti_images=160),
    ]
    result = benchmark([run.parent for run in runs], *dataset, tmp_path / "out", train_size=40, steps=2)
    methods = result["methods"]
    assert [name for name in methods if methods[name]["kind"] == "trained"] == [
        "tiny (80 images)", "pdae (80 images)", "tiny (160 images)",
    ]  # fmt: skip
    assert [name.removeprefix("baseline: ").split(", t =")[0] for name in methods if "baseline" in name] == [
        "PCA of 32 x 32 pixels", "random encoder", "random encoder, PCA-whitened", "frozen DM's down path, PCA-whitened",
        "frozen DM's down path, error-predictive", "frozen DM's bottleneck, mean over space",
    ]  # fmt: skip
    tiny = methods["tiny (80 images)"]
    assert tiny["runs"] == 2 and tiny["mean"]["seconds"] == 4 and tiny["std"]["mse"] > 0
    assert {"mse", "ssim", "mse_random", "parameters"} <= set(tiny["mean"])
    assert len(scored) == 4 + 6 and all(len(codes) == 48 for codes in scored)
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert table(result) in text and "| Bright " in text and "scored on the next 8" in text
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["methods"].keys() == methods.keys()
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 5000
    assert specialisation_tables(result) in text and "## Error left" in text
    assert list(specialised(result)) == ["tiny (80 images)", "pdae (80 images)", "tiny (160 images)"]
    ranks = [float(codes[0, 0]) for codes in scored[:2]]
    found = tiny["specialisation"]
    assert found["mean"]["effective_rank"] == pytest.approx(np.mean(ranks)) and ranks[0] != ranks[1]
    assert found["std"]["effective_rank"] == pytest.approx(np.std(ranks, ddof=1))
    assert (tmp_path / "out" / "specialisation.png").stat().st_size > 5000

    scored.clear()
    more = [*(run.parent for run in runs), save(tmp_path / "e", residual_recipe(seed=2))]
    benchmark(more, *dataset, tmp_path / "out", train_size=40, steps=2)
    assert len(scored) == 1  # the new run's alone


def test_specialisation_is_kept_and_measured_again_as_scores_are(scored, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_baselines", lambda *_: [])
    calls = []
    monkeypatch.setattr(
        module, "specialisation", lambda model, codes, *_: calls.append(len(codes)) or measured(model, codes)
    )
    run, options = save(tmp_path / "a", tiny_recipe()), {"train_size": 40, "steps": 2}
    first = benchmark([run], *dataset, tmp_path / "out", **options)
    assert calls == [48]
    assert benchmark([run], *dataset, tmp_path / "out", **options) == first and len(calls) == 1
    benchmark([run], *dataset, tmp_path / "out", **options | {"steps": 3})  # of reconstructions alone
    assert len(calls) == 1
    benchmark([run], *dataset, tmp_path / "out", **options | {"train_size": 39})
    benchmark([run], *dataset, tmp_path / "out", **options | {"flip_average": True})
    assert len(calls) == 3
    retrained(run)
    benchmark([run], *dataset, tmp_path / "out", **options)
    assert len(calls) == 4


def test_methods_without_a_frozen_dm_have_no_specialisation(scored, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_baselines", lambda *_: [])
    monkeypatch.setattr(module, "specialisation", lambda *_: pytest.fail("there is no frozen DM"))
    build_diffae(method_recipe("diffae")).save(tmp_path / "a")
    result = benchmark([tmp_path / "a"], *dataset, tmp_path / "out", train_size=40, steps=2)
    assert specialised(result) == {} and not (tmp_path / "out" / "specialisation.png").exists()
    assert "## " not in (tmp_path / "out" / "benchmark.md").read_text()


def test_runs_of_one_row_have_one_partition(scored, dataset, tmp_path):
    runs = [save(tmp_path / str(k), tiny_recipe(partition=TimeStepPartition(k, 32))) for k in (4, 8)]
    with pytest.raises(ModelError, match="differ in their partitions"):
        benchmark(runs, *dataset, tmp_path / "out", train_size=40, steps=2)
    assert not scored


def retrained(folder):
    model = random_model(tiny_recipe())
    model.estimator.conv_out.bias.data += 1
    model.save(folder)


CHANGES = {
    "a model retrained in place": lambda data, labels, run: retrained(run),
    "another split": lambda data, labels, run: {"train_size": 39},
    "other steps": lambda data, labels, run: {"steps": 3},
    "codes averaged over flips": lambda data, labels, run: {"flip_average": True},
    "an image changed in place": lambda data, labels, run: (data / "05.png").write_bytes(
        (data / "06.png").read_bytes()
    ),
    "labels changed in place": lambda data, labels, run: labels.write_text(
        labels.read_text().replace("05.png,1", "05.png,0")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_score_is_worked_out_again_for_what_is_not_the_same(change, scored, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_baselines", lambda *_: [])
    run = save(tmp_path / "a", tiny_recipe())
    options = {"train_size": 40, "steps": 2}
    benchmark([run], *dataset, tmp_path / "out", **options)
    scored.clear()
    benchmark([run], *dataset, tmp_path / "out", **options)
    assert not scored
    changed = CHANGES[change](*dataset, run)
    benchmark([run], *dataset, tmp_path / "out", **options | (changed if isinstance(changed, dict) else {}))
    assert scored


def test_plain_and_averaged_scores_are_kept_apart(scored, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_baselines", lambda *_: [])
    run = save(tmp_path / "a", tiny_recipe())

    def result(flip_average):
        found = benchmark([run], *dataset, tmp_path / "out", train_size=40, steps=2, flip_average=flip_average)
        assert ("averaged over horizontal flips" in (tmp_path / "out" / "benchmark.md").read_text()) == flip_average
        return found

    monkeypatch.setattr(
        module, "score", lambda codes, _: scored.append(codes) or {**SCORES, "values": {"ap": float(codes[0, 0])}}
    )
    first = {average: result(average) for average in (False, True)}
    plain, averaged = scored
    images = read_split(*dataset, tiny_recipe().image, 40).images
    encoder = load_runs(run)[0]
    assert np.allclose(averaged, (plain + in_batches(encoder, images[:, :, ::-1].copy())) / 2, atol=1e-5)
    assert not np.allclose(averaged, plain, atol=1e-3)
    assert {average: result(average) for average in (False, True)} == first and len(scored) == 2
    assert first[True]["methods"] != first[False]["methods"]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"train_size": 48}, "train_size = 48 of 48"),
        ({"train_size": 0}, "train_size = 0"),
        ({"train_size": 20.5}, "train_size = 20.5 must be an integer"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"device": "gpu"}, "device = 'gpu'"),
        ({"crop": "middle"}, "crop = 'middle'"),
        ({"flip_average": "no"}, "flip_average = 'no'"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(options, message, tiny_folder, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "score", lambda *_: pytest.fail("scoring began"))
    with pytest.raises(InputError, match=message):
        benchmark([tiny_folder], *dataset, tmp_path / "out", **{"train_size": 40, **options})


def test_runs_that_cannot_be_compared_are_refused(tiny_folder, tmp_path):
    other = save(tmp_path / "other", tiny_recipe(image=Preprocessing(32, (0.1, 0.1, 0.9, 0.9))))
    with pytest.raises(ModelError, match="one preprocessing"):
        load_runs([tiny_folder, other])
    assert [encoder.config.name for encoder in load_runs(str(tiny_folder))] == ["tiny"]
    with pytest.raises(InputError, match="given twice"):
        load_runs([tiny_folder, f"{tiny_folder}/."])
    with pytest.raises(InputError, match="no run"):
        load_runs([])


@pytest.mark.parametrize("evaluate", [benchmark, evaluate_edits])
@pytest.mark.parametrize("library", ["pandas", "tabulate"])
def test_a_missing_library_is_told_before_the_work(evaluate, library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ditifeat\[benchmark\]'") as caught:
        evaluate(["none"], "none", "none", tmp_path, train_size=20)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("library", ["matplotlib", "accelerate"])
def test_the_benchmark_draws_and_initialises(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=library):
        benchmark(["none"], "none", "none", tmp_path, train_size=20)


def test_names_of_methods(tiny_encoder):
    assert method_name(tiny_encoder) == "tiny"


@pytest.mark.slow
def test_the_whole_benchmark(dataset, tmp_path):
    runs = [save(tmp_path / name, tiny_recipe(seed=seed)) for seed, name in enumerate("ab")]
    result = benchmark(runs, *dataset, tmp_path / "out", train_size=40, steps=2)
    each = [values["ap"] for values in result["methods"]["tiny"]["each"]]
    assert result["methods"]["tiny"]["mean"]["ap"] == pytest.approx(np.mean(each)) and each[0] != each[1]
    assert 0 < result["methods"]["tiny"]["mean"]["mse"] < result["methods"]["tiny"]["mean"]["mse_random"]
    found = result["methods"]["tiny"]["specialisation"]["mean"]
    assert np.shape(found["error_left"]) == (5, 5) and np.sum(found["attributes"]["Bright"]) == pytest.approx(1)
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert all(f"## {title}\n" in text for title in ("Error left", "Swaps", "AP per range"))
    assert len(list((tmp_path / "out" / "cache").glob("classifier-*"))) == 1
