import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import ditifeat
from ditifeat import DiTiFeaturizer
from ditifeat.data.folders import list_folder
from ditifeat.encoding.featurizer import _cached_encoder


@pytest.fixture
def transformer(tiny_folder):
    return DiTiFeaturizer(str(tiny_folder))


@pytest.fixture
def paths(photos):
    return [str(path) for path in list_folder(photos)]


def test_it_gives_what_encode_gives(transformer, tiny_encoder, paths):
    expected = ditifeat.encode(tiny_encoder, paths).array
    assert np.allclose(transformer.fit_transform(paths), expected, atol=1e-5)
    assert np.allclose(transformer.transform(np.array(paths, dtype=object)), expected, atol=1e-5)


def test_pipelines_and_searches_load_the_model_once(transformer, paths):
    _cached_encoder.cache_clear()
    pipeline = make_pipeline(transformer, LogisticRegression())
    labels = np.arange(10) % 2
    assert len(cross_val_score(pipeline, paths, labels, cv=2)) == 2
    search = GridSearchCV(pipeline, {"ditifeaturizer__batch_size": [2, 5]}, cv=2).fit(paths, labels)
    assert search.best_estimator_.predict(paths).shape == (10,)
    assert _cached_encoder.cache_info().misses == 1


def test_clones_and_pickles_stay_small(transformer, paths):
    transformer.transform(paths[:1])
    assert clone(transformer).get_params() == transformer.get_params()
    data = pickle.dumps(transformer)
    assert len(data) < 2000
    assert pickle.loads(data).transform(paths[:2]).shape == (2, 32)


def test_set_output_and_names(transformer, paths):
    frame = transformer.set_output(transform="pandas").transform(paths)
    assert list(frame.columns[:5]) == ["s00_d000", "s00_d001", "s00_d002", "s00_d003", "s01_d004"]
    some = DiTiFeaturizer(transformer.model, time_steps=(250, 500)).set_output(transform="pandas").transform(paths)
    assert list(some.columns) == list(frame.columns[8:16])


def test_the_constructor_only_stores():
    assert DiTiFeaturizer("no such model").model == "no such model"
    with pytest.raises(ditifeat.ModelError):
        DiTiFeaturizer("no such model").transform(["x.png"])
