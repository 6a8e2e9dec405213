import subprocess
import sys

import numpy as np
import pytest

import ditifeat
from ditifeat import Features, InputError
from tests.analysis.conftest import PARTITION, made_up


def test_it_finds_what_is_there(report):
    assert report["coarse"].scores["ap"] > 0.9 and report["coarse"].scores["auroc"] > 0.9
    assert abs(report["noise"].scores["auroc"] - 0.5) < 0.15
    assert report["age"].kind == "real" and report["age"].scores["r"] > 0.95
    assert report.mean_ap == pytest.approx(np.mean([report["coarse"].scores["ap"], report["noise"].scores["ap"]]))
    assert report["coarse"].score == report["coarse"].scores["ap"]


def test_it_finds_where(report):
    assert report.ranges[2] == (200, 300)
    assert report.best_range("coarse") == (200, 300)
    alone, cumulative = report["coarse"].alone, report["coarse"].cumulative
    assert alone[2] > 0.9 and max(alone[:2] + alone[3:]) < 0.6
    assert cumulative[1] < 0.6 and min(cumulative[2:]) > 0.9
    assert report["age"].cumulative[-1] > 0.95 > report["age"].cumulative[-2]


def test_scores_are_those_of_scikit_learn():
    """On a split and codes written out by hand."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score

    from ditifeat.analysis.linear import LOGIT_VARIANCE

    features, labels = made_up()
    report = ditifeat.probe(features, labels, train_rows=np.arange(400))
    x = (features.array - features.array[:400].mean(0)) / np.sqrt(features.array[:400].var(0).mean())
    model = LogisticRegression(C=LOGIT_VARIANCE / 40, tol=1e-8, max_iter=1000).fit(x[:400], labels["coarse"][:400])
    expected = average_precision_score(labels["coarse"][400:], model.decision_function(x[400:]))
    assert report["coarse"].scores["ap"] == pytest.approx(expected, abs=0.003)
    assert np.allclose(report["coarse"].predict(features.array[400:]), model.decision_function(x[400:]), atol=0.02)


def test_what_is_small_in_codes_stays_small_to_the_probe():
    """Sixty dimensions of noise, a hundredth of the others' size, cost nothing; at their size they cost AP."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(300, 80)).astype(np.float32)
    y = (codes[:, :20].sum(1) + 4 * rng.normal(size=300) > 0).astype(int)
    small = codes * np.where(np.arange(80) < 20, 1, 0.01).astype(np.float32)
    alone, quiet, loud = (
        ditifeat.probe(x, {"y": y}, train_rows=np.arange(100)).mean_ap for x in (codes[:, :20], small, codes)
    )
    assert quiet == pytest.approx(alone, abs=0.01) and quiet > loud + 0.03, (alone, quiet, loud)
    paper = [ditifeat.probe(x, {"y": y}, train_rows=np.arange(100), protocol="paper").mean_ap for x in (small, codes)]
    assert paper[0] == pytest.approx(paper[1], abs=1e-3)  # it standardises each


def test_the_unit_of_codes_does_not_matter():
    features, labels = made_up()
    one, other = (ditifeat.probe(features.array * unit, labels, train_rows=np.arange(400)) for unit in (1, 1000))
    assert one["coarse"].scores["ap"] == pytest.approx(other["coarse"].scores["ap"], abs=1e-4)
    assert one["age"].scores["r"] == pytest.approx(other["age"].scores["r"], abs=1e-4)


def test_splits_are_explicit_and_repeatable():
    features, labels = made_up()
    assert str(ditifeat.probe(features, labels, random_state=3)) == str(
        ditifeat.probe(features, labels, random_state=3)
    )
    assert str(ditifeat.probe(features, labels, random_state=3)) != str(
        ditifeat.probe(features, labels, random_state=4)
    )
    mask = np.arange(600) < 400
    assert str(ditifeat.probe(features, labels, train_rows=mask)) == str(
        ditifeat.probe(features, labels, train_rows=range(400))
    )
    for size in (0.5, 300, np.float32(0.5), np.int64(300)):
        assert ditifeat.probe(features, labels, train_size=size).about["train rows"] == 300


def test_test_rows_do_not_reach_the_fit():
    """Changing a test row's features changes no weight."""
    features, labels = made_up()
    changed = features.array.copy()
    changed[500:] = 77
    other = Features(changed, features.names, PARTITION)
    first, second = (ditifeat.probe(f, labels, train_rows=range(400)) for f in (features, other))
    assert np.array_equal(first["coarse"].weights, second["coarse"].weights)


def test_the_paper_s_protocol():
    features, labels = made_up(rows=5000)
    report = ditifeat.probe(features, labels, protocol="paper")
    assert report["coarse"].scores["ap"] > 0.7 and report.about["protocol"] == "paper"
    again = ditifeat.probe(features, labels, protocol="paper")
    assert np.array_equal(report["coarse"].weights, again["coarse"].weights)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"train_size": 1.5}, "share"),
        ({"train_rows": [0, 10**6]}, "outside"),
        ({"train_rows": [0]}, "at least 2"),
        ({"train_rows": np.ones(3, bool)}, "mask"),
        ({"train_size": 600}, "number of rows"),
        ({"train_size": range(9)}, "rows are train_rows"),
        ({"train_rows": 0.5}, "a share is train_size"),
        ({"train_size": 0.5, "train_rows": range(9)}, "either train_size"),
        ({"random_state": -1}, "random_state = -1"),
        ({"random_state": None}, "random_state = None"),
        ({"protocol": "magic"}, "sklearn, paper"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        ditifeat.probe(*made_up(), **arguments)


def test_features_that_cannot_be_probed():
    with pytest.raises(InputError, match=r"\(n, d\)"):
        ditifeat.probe(np.zeros(5), [0] * 5)
    with pytest.raises(InputError, match="NaN"):
        ditifeat.probe(np.full((9, 2), np.nan), [0] * 9)


def test_forty_attributes_of_many_rows_take_seconds():
    """In a process of its own, on one thread, so that the time is its own."""
    program = """
import numpy as np, time, ditifeat
rng = np.random.default_rng(0)
codes = rng.normal(size=(8000, 512)).astype(np.float32)
labels = {str(i): codes[:, i] + rng.normal(size=8000) > 0.5 for i in range(40)}
features = ditifeat.Features(codes, tuple(map(str, range(8000))), ditifeat.TimeStepPartition(64, 512))
start = time.process_time()
ditifeat.probe(features, labels)
print(time.process_time() - start)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60


def test_an_attribute_with_one_value_is_left_out_of_the_mean(caplog):
    features, labels = made_up()
    labels["never"] = np.zeros(600)
    with caplog.at_level("WARNING", "ditifeat"):
        report = ditifeat.probe(features, labels)
    assert "attribute never" in caplog.text
    assert np.isnan(report["never"].scores["ap"]) and np.isfinite(report.mean_ap)
    assert "never" in str(report)


def test_plain_arrays_have_no_ranges():
    features, labels = made_up()
    report = ditifeat.probe(features.array, labels["coarse"])
    assert report.ranges == () and report["label"].scores["ap"] > 0.9
    with pytest.raises(InputError, match="no partition"):
        report.plot("x.png")
