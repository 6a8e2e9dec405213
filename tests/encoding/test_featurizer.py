import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ditifeat
from ditifeat import DiTiFeaturizer, InputError
from ditifeat.data.folders import list_folder
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
    ],
)
def test_columns_of_images_as_people_have_them(featurizer, paths, expected, column):
    assert np.allclose(featurizer.fit_transform(column(paths)), expected, atol=1e-5)


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
    for missing in (None, np.nan):
        with pytest.raises(InputError):
            featurizer.transform([str(photos / "00.png"), missing])


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


def test_the_constructor_only_stores():
    assert DiTiFeaturizer("no such model").model == "no such model"
    with pytest.raises(InputError, match="name or folder"):
        DiTiFeaturizer(["x"]).transform(["x.png"])
    with pytest.raises(ditifeat.ModelError):
        DiTiFeaturizer("no such model").transform(["x.png"])
