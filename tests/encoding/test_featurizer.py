import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ditifeat
from ditifeat import DiTiFeaturizer, InputError
from ditifeat.data.folders import list_folder
from ditifeat.encoding import featurizer as module
from ditifeat.encoding.featurizer import _cached_encoder
from tests.conftest import make_image, random_model, tiny_recipe


@pytest.fixture
def featurizer(tiny_folder):
    return DiTiFeaturizer(str(tiny_folder))


@pytest.fixture
def paths(photos):
    return [str(path) for path in list_folder(photos)]


@pytest.fixture
def expected(tiny_encoder, paths):
    return tiny_encoder.encode(paths).array


@pytest.mark.parametrize(
    "column",
    [
        list,
        tuple,
        np.array,
        lambda paths: np.array(paths, dtype=object),
        lambda paths: np.array(paths)[:, None],
        lambda paths: [[path] for path in paths],
        lambda paths: [Path(path) for path in paths],
        pandas.Series,
        lambda paths: pandas.Series(paths, index=range(7, 17)),
        lambda paths: pandas.DataFrame({"path": paths}),
        lambda paths: pandas.DataFrame({0: paths}),
        lambda paths: [Path(path).read_bytes() for path in paths],
        lambda paths: pandas.DataFrame({"image": [Path(path).read_bytes() for path in paths]}),
        lambda paths: pandas.DataFrame({("image", "path"): paths}),
        lambda paths: pandas.DataFrame({"column_names": pandas.Categorical(paths)}),
        lambda paths: pandas.Series(paths, dtype="string"),
        lambda paths: objects(map(Image.open, paths)),
        lambda paths: objects(map(Image.open, paths))[:, None],
        lambda paths: pandas.DataFrame({"image": objects(map(Image.open, paths))}),
        lambda paths: pandas.DataFrame({"image": [np.asarray(Image.open(path)) for path in paths]}),
        lambda paths: np.stack([np.asarray(Image.open(path)) for path in paths]),
        lambda paths: (path for path in paths),
    ],
)
def test_columns_of_images_as_people_have_them(featurizer, paths, expected, column):
    assert np.allclose(featurizer.fit_transform(column(paths)), expected, atol=1e-5)


def objects(values):
    """An array of objects; numpy would look into images."""
    values = list(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def bytes_of(paths):
    return [Path(path).read_bytes() for path in paths]


@pytest.mark.parametrize("rows", [list, bytes_of])
@pytest.mark.parametrize(
    ("library", "table"),
    [
        ("polars", lambda polars, rows: polars.Series(rows)),
        ("polars", lambda polars, rows: polars.DataFrame({"image": rows})),
        ("pyarrow", lambda pyarrow, rows: pyarrow.array(rows)),
        ("pyarrow", lambda pyarrow, rows: pyarrow.table({"image": rows})),
        ("datasets", lambda datasets, rows: datasets.Dataset.from_dict({"image": rows})),
    ],
)
def test_columns_of_other_libraries(library, table, rows, featurizer, paths, expected):
    column = table(pytest.importorskip(library), rows(paths))
    assert np.allclose(featurizer.transform(column), expected, atol=1e-5)


def test_columns_of_images_of_datasets(featurizer, paths, expected):
    datasets = pytest.importorskip("datasets")
    images = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    assert np.allclose(featurizer.transform(images), expected, atol=1e-5)
    assert np.allclose(featurizer.transform(images["image"]), expected, atol=1e-5)
    with pytest.raises(InputError, match="a table with columns image, label: pass the one"):
        featurizer.transform(images.add_column("label", [0] * 10))


@pytest.mark.parametrize(
    "numbers",
    [
        np.random.default_rng(0).random((10, 4096)),
        np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8),
        np.arange(10),
        pandas.DataFrame({"age": np.arange(10.0)}),
        pandas.Series(np.arange(10.0)),
        scipy.sparse.eye(4),
        torch.zeros(10, 64),
    ],
)
def test_a_matrix_is_not_one_image(featurizer, numbers):
    """`encode` takes a matrix for one grey image; here its rows would be meant."""
    with pytest.raises(InputError, match=r"of numbers, of shape .* is not rows of images"):
        featurizer.transform(numbers)


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA, pandas.NaT])
@pytest.mark.parametrize("column", [list, pandas.Series, lambda rows: pandas.DataFrame({"path": rows}), objects])
def test_a_missing_image_is_named_by_its_row(featurizer, paths, missing, column):
    with pytest.raises(InputError, match="row 2: the image is missing"):
        featurizer.transform(column([*paths[:2], missing]))


def test_no_rows(featurizer):
    for column in ([], pandas.DataFrame({"path": []}), np.array([], dtype=str), pandas.Series([], dtype=object)):
        assert featurizer.transform(column).shape == (0, 32)


def test_averaging_over_flips(tiny_encoder, tiny_folder, paths, expected):
    featurizer = DiTiFeaturizer(str(tiny_folder), flip_average=True)
    assert featurizer.get_params()["flip_average"] and clone(featurizer).flip_average
    averaged = tiny_encoder.encode(paths, flip_average=True).array
    for transformer in (featurizer, clone(featurizer), make_pipeline(clone(featurizer))):
        assert np.allclose(transformer.fit_transform(paths), averaged, atol=1e-5)
    assert np.allclose(featurizer.set_params(flip_average=False).transform(paths), expected, atol=1e-5)
    assert not np.allclose(averaged, expected, atol=1e-2)


def test_one_string_is_a_folder_or_an_image(featurizer, photos, expected):
    for folder in (str(photos), f"{photos}/", photos):
        assert np.allclose(featurizer.transform(folder), expected, atol=1e-5)
    assert np.allclose(featurizer.transform(str(photos / "00.png")), expected[:1], atol=1e-5)


def test_images_themselves(featurizer):
    image = make_image()
    assert featurizer.transform(image).shape == (1, 32)
    assert featurizer.transform([image, image]).shape == (2, 32)
    assert featurizer.transform(np.stack([np.asarray(image)] * 3)).shape == (3, 32)
    assert featurizer.transform([]).shape == (0, 32)


def test_a_row_is_one_image(featurizer, photos):
    with pytest.raises(InputError, match="1 rows hold 10 images"):
        featurizer.transform([str(photos)])
    for table in (pandas.DataFrame({"a": ["x"], "b": ["y"]}), pandas.DataFrame({"a": ["x"]})[[]]):
        with pytest.raises(InputError, match=r"columns (a, b|none)"):
            featurizer.transform(table)


def test_column_transformers(featurizer, paths, expected):
    table = pandas.DataFrame({"path": paths, "age": np.arange(10.0)}, index=list("abcdefghij"))
    transformer = ColumnTransformer([("image", featurizer, ["path"]), ("number", StandardScaler(), ["age"])])
    assert np.allclose(transformer.fit_transform(table)[:, :32], expected, atol=1e-5)
    frame = transformer.set_output(transform="pandas").fit_transform(table)
    assert list(frame.columns[[0, 31, 32]]) == ["image__s00_d000", "image__s07_d031", "number__age"]
    assert list(frame.index) == list(table.index)
    by_name = make_column_transformer((featurizer, "path"))
    assert np.allclose(by_name.fit_transform(table), expected, atol=1e-5)


def test_pipelines_and_searches_load_the_model_once(featurizer, paths):
    _cached_encoder.cache_clear()
    pipeline = make_pipeline(featurizer, LogisticRegression())
    labels = np.arange(10) % 2
    assert len(cross_val_score(pipeline, paths, labels, cv=2)) == 2
    search = GridSearchCV(pipeline, {"ditifeaturizer__batch_size": [2, 5]}, cv=2).fit(paths, labels)
    assert search.best_estimator_.predict(paths).shape == (10,)
    assert _cached_encoder.cache_info().misses == 1


def count_encoded(monkeypatch):
    """A list that grows by the number of images of each call of `encode`."""
    encoded, encode = [], module.encode
    monkeypatch.setattr(module, "encode", lambda *a, **k: encoded.append(len(a[1])) or encode(*a, **k))
    return encoded


def test_memory_keeps_the_codes_of_training_folds(featurizer, paths, tmp_path, monkeypatch):
    encoded, labels = count_encoded(monkeypatch), np.arange(10) % 2
    grid = {"logisticregression__C": [0.1, 1.0, 10.0]}
    GridSearchCV(make_pipeline(featurizer, LogisticRegression()), grid, cv=5).fit(paths, labels)
    assert sum(encoded) == 3 * 5 * 10 + 10  # candidates x folds x images, and the best on all
    encoded.clear()
    kept = make_pipeline(featurizer, LogisticRegression(), memory=str(tmp_path))
    search = GridSearchCV(kept, grid, cv=5).fit(paths, labels)
    assert sum(encoded) == 5 * 8 + 3 * 5 * 2 + 10  # training folds once, held-out folds per candidate
    assert search.best_estimator_.predict(paths).shape == (10,)


def test_memory_knows_a_model_that_was_trained_again(paths, tmp_path, monkeypatch):
    random_model(tiny_recipe()).save(tmp_path / "model")
    pipeline = make_pipeline(DiTiFeaturizer(tmp_path / "model"), LogisticRegression(), memory=str(tmp_path / "codes"))
    encoded = count_encoded(monkeypatch)
    for _ in range(2):
        pipeline.fit(paths, np.arange(10) % 2)
    assert sum(encoded) == 10
    random_model(tiny_recipe()).save(tmp_path / "model")
    pipeline.fit(paths, np.arange(10) % 2)
    assert sum(encoded) == 20


def loads_of_this_process(estimator, X, y):
    """A score: how often the network was loaded in this process."""
    estimator.predict(X)
    return _cached_encoder.cache_info().misses


@pytest.mark.slow
def test_other_processes_load_the_model_once_each(featurizer, paths):
    pipeline, grid = make_pipeline(featurizer, LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, scoring=loads_of_this_process)
    results = search.fit(paths, np.arange(10) % 2).cv_results_
    assert [results[f"split{i}_test_score"].tolist() for i in range(2)] == [[1, 1], [1, 1]]


def test_every_spelling_of_a_model_and_a_device_is_one_network(tiny_folder, paths, monkeypatch):
    _cached_encoder.cache_clear()
    monkeypatch.chdir(tiny_folder.parent)
    for model in (tiny_folder, str(tiny_folder), tiny_folder.name, f"./{tiny_folder.name}/"):
        for device in (None, "cpu", torch.device("cpu")):
            if device is not None or not torch.cuda.is_available():
                DiTiFeaturizer(model, device=device).transform(paths[:1])
    assert _cached_encoder.cache_info().misses == 1
    for model in (None, "celeba64-mini"):
        DiTiFeaturizer(model, device="cpu").get_feature_names_out()
    assert _cached_encoder.cache_info().misses == 2
    Path("celeba64-mini").mkdir()
    try:
        assert DiTiFeaturizer(None, device="cpu").get_feature_names_out().shape == (512,)
        for name in ("config.json", "model.safetensors"):
            Path("celeba64-mini", name).write_bytes((tiny_folder / name).read_bytes())
        with pytest.raises(ditifeat.ModelError, match="is a bundled model and a folder here"):
            DiTiFeaturizer("celeba64-mini").get_feature_names_out()
    finally:
        shutil.rmtree("celeba64-mini")


def test_threads_load_the_model_once(featurizer, paths, expected):
    _cached_encoder.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: clone(featurizer).transform(paths), range(8)))
    assert _cached_encoder.cache_info().misses == 1
    assert all(np.allclose(row, expected, atol=1e-5) for row in rows)


def test_a_model_that_was_trained_again_in_place_is_noticed(paths, tmp_path):
    random_model(tiny_recipe()).save(tmp_path)
    featurizer = DiTiFeaturizer(tmp_path)
    before = featurizer.transform(paths)
    other = random_model(tiny_recipe())
    for parameter in other.encoder.parameters():
        parameter.data *= 1.5
    other.save(tmp_path)
    after = featurizer.transform(paths)
    assert np.abs(after - before).max() > 0.1
    assert np.allclose(after, ditifeat.load_encoder(tmp_path).encode(paths), atol=1e-5)


def test_clones_and_pickles_stay_small(featurizer, paths):
    featurizer.transform(paths[:1])
    assert clone(featurizer).get_params() == featurizer.get_params()
    data = pickle.dumps(featurizer)
    assert len(data) < 2000
    assert pickle.loads(data).transform(paths[:2]).shape == (2, 32)


def test_set_output_and_names(featurizer, paths):
    frame = featurizer.set_output(transform="pandas").transform(paths)
    assert list(frame.columns[:5]) == ["s00_d000", "s00_d001", "s00_d002", "s00_d003", "s01_d004"]
    some = DiTiFeaturizer(featurizer.model, time_steps=(250, 500)).set_output(transform="pandas").transform(paths)
    assert list(some.columns) == list(frame.columns[8:16])
    assert np.allclose(some, frame.iloc[:, 8:16])
    for time_steps in (5, (0, 100, 200), "ab", (0.0, 100.0)):
        with pytest.raises(InputError, match=r"time.steps"):
            DiTiFeaturizer(featurizer.model, time_steps=time_steps).transform(paths)
    with pytest.raises(InputError, match="no subset"):
        DiTiFeaturizer(featurizer.model, time_steps=(1, 2)).transform(paths)


def test_set_output_polars(featurizer, paths):
    polars = pytest.importorskip("polars")
    frame = featurizer.set_output(transform="polars").transform(polars.DataFrame({"path": paths}))
    assert isinstance(frame, polars.DataFrame) and frame.columns == list(featurizer.get_feature_names_out())


def test_a_pickle_chooses_its_device_where_it_is_used(featurizer, paths, monkeypatch):
    featurizer.transform(paths[:1])
    data = pickle.dumps(featurizer)
    asked = []
    monkeypatch.setattr(module, "choose_device", lambda device: asked.append(device) or torch.device("cpu"))
    assert pickle.loads(data).transform(paths[:1]).shape == (1, 32)
    assert asked == [None]
    with pytest.raises(InputError, match="device = 'cuda:99' cannot be used"):
        monkeypatch.undo()
        pickle.loads(pickle.dumps(featurizer.set_params(device="cuda:99"))).transform(paths[:1])


def test_the_constructor_only_stores():
    assert DiTiFeaturizer("no such model").model == "no such model"
    with pytest.raises(InputError, match="name or folder"):
        DiTiFeaturizer(["x"]).transform(["x.png"])
    with pytest.raises(ditifeat.ModelError):
        DiTiFeaturizer("no such model").transform(["x.png"])
