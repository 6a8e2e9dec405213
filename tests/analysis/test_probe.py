import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat import Features, InputError
from ditifeat.analysis.sparse import promask
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


def test_dimensions_of_low_variance_count_for_little():
    """Sixty dimensions of noise, at a hundredth of the others' scale, cost nothing; at their scale they cost AP."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(300, 80)).astype(np.float32)
    y = (codes[:, :20].sum(1) + 4 * rng.normal(size=300) > 0).astype(int)
    small = codes * np.where(np.arange(80) < 20, 1, 0.01).astype(np.float32)
    alone, low, high = (
        ditifeat.probe(x, {"y": y}, train_rows=np.arange(100)).mean_ap for x in (codes[:, :20], small, codes)
    )
    assert low == pytest.approx(alone, abs=0.01) and low > high + 0.03, (alone, low, high)
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
        ({"protocol": None}, "sklearn, paper"),
        ({"dims": 0}, "dims = 0"),
        ({"dims": 2.5}, "dims = 2.5"),
        ({"dims": 41}, "dims = 41"),
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


@pytest.mark.slow
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
    assert float(done.stdout) < 3


@pytest.fixture
def quick_promask(monkeypatch):
    monkeypatch.setattr("ditifeat.analysis.linear.promask", partial(promask, steps=40))


@pytest.mark.usefixtures("quick_promask")
@pytest.mark.parametrize("protocol,dims", [("sklearn", None), ("sklearn", 4), ("paper", None), ("paper", 4)])
@pytest.mark.parametrize("value,prevalence", [(0, 0.0), (1, 1.0), (-1, 0.0)])
def test_an_attribute_with_one_value(caplog, protocol, dims, value, prevalence):
    features, labels = made_up(200)
    labels = {"coarse": labels["coarse"], "one": np.full(200, value)}
    with caplog.at_level("WARNING", "ditifeat"):
        report = ditifeat.probe(features, labels, protocol=protocol, dims=dims)
    assert "attribute one: the training rows have one value only" in caplog.text
    assert report["one"].scores["prevalence"] == prevalence and np.isnan(report["one"].score)
    assert not report["one"].weights.any() and report.best_range("one") is None
    assert report.mean_ap == report["coarse"].score
    (row,) = (line for line in str(report).splitlines() if line.startswith("one "))
    assert row.split()[1:] == ["nan", "nan", f"{prevalence:.3f}", "(one", "value", "only)"]


def test_both_values_in_training_but_one_in_the_test_rows():
    features, labels = made_up(100)
    y = labels["coarse"].copy()
    y[50:] = 0
    report = ditifeat.probe(features, {"y": y}, train_rows=range(50))
    other = ditifeat.probe(features, {"y": y}, train_rows=range(50, 100))
    assert np.isnan(other["y"].score) and 0 < other["y"].scores["prevalence"] < 1 and other.best_range("y") is None
    assert report["y"].weights.any() and report["y"].scores["prevalence"] == 0 and np.isnan(report["y"].score)


@pytest.mark.usefixtures("quick_promask")
@pytest.mark.parametrize("protocol,dims", [("sklearn", None), ("sklearn", 4), ("paper", None), ("paper", 4)])
def test_a_missing_label_leaves_its_row_out_for_its_attribute_alone(protocol, dims):
    features, labels = made_up(400)
    full = {key: labels[key].astype(float) for key in ("coarse", "noise")}
    holes = {"coarse": full["coarse"].copy(), "noise": full["noise"]}
    holes["coarse"][::4] = np.nan
    options = {"protocol": protocol, "dims": dims}
    report = ditifeat.probe(features, holes, train_rows=range(300), **options)
    assert list(report) == ["coarse", "noise"]
    assert (report["coarse"].missing, report["noise"].missing) == (100, 0)
    assert report["coarse"].scores["prevalence"] == np.mean(np.delete(full["coarse"][300:], slice(0, None, 4)))
    alone = ditifeat.probe(features, {"noise": full["noise"]}, train_rows=range(300), **options)
    assert report["noise"].scores == pytest.approx(alone["noise"].scores, abs=0.15)
    if protocol == "sklearn":
        assert np.allclose(report["noise"].weights, alone["noise"].weights, atol=1e-5)
        # What the missing labels were makes no difference.
        kept = np.arange(400) % 4 > 0
        half = ditifeat.probe(
            features[kept], full["coarse"][kept], train_rows=np.flatnonzero(np.arange(400)[kept] < 300), **options
        )
        assert half["label"].scores["ap"] == pytest.approx(report["coarse"].scores["ap"], abs=0.03)
    (row,) = (line for line in str(report).splitlines() if line.startswith("coarse "))
    assert row.endswith("(100 without a label)")
    assert report.to_pandas().loc["coarse", "missing"] == 100


def test_labels_of_training_or_test_rows_alone():
    features, labels = made_up(100)
    for missing in (slice(0, 50), slice(50, 100)):
        y = labels["coarse"].astype(float)
        y[missing] = np.nan
        report = ditifeat.probe(
            features, {"y": y, "age": np.where(np.isnan(y), y, labels["age"])}, train_rows=range(50)
        )
        assert np.isnan(report["y"].score) and np.isnan(report["age"].score)
        assert report["y"].missing == report["age"].missing == 50


def test_codes_in_every_kind_of_array():
    features, labels = made_up(60)
    expected = ditifeat.probe(features.array, labels)["coarse"].weights
    tensor = torch.from_numpy(features.array)
    for codes in (tensor, torch.nn.Parameter(tensor), tensor.double(), features.to_pandas(), features.array.tolist()):
        assert np.array_equal(ditifeat.probe(codes, labels)["coarse"].weights, expected)


def test_classes_are_refused():
    features, _ = made_up(30)
    with pytest.raises(InputError, match="get_dummies"):
        ditifeat.probe(features, {"shape": np.arange(30) % 3})


def test_the_report_says_what_made_the_features(tmp_path):
    features, labels = made_up(100)
    features = replace(features, weights="a" * 64, preprocessing="b" * 12, flip_average=True, skipped=("bad.png",))
    report = ditifeat.probe(features, labels)
    assert report.about["weights"] == "a" * 64 and report.about["preprocessing"] == "b" * 12
    assert report.about["skipped"] == ["bad.png"] and report.about["model"] == "made up"
    assert report["coarse"].encoder_weights == "a" * 64 and report["coarse"].preprocessing == "b" * 12
    assert report.about["flip_average"] is report["coarse"].flip_average is True
    report.save(tmp_path / "report.safetensors")
    loaded = ditifeat.ProbeReport.load(tmp_path / "report.safetensors")
    assert loaded.about["flip_average"] is loaded["coarse"].flip_average is True and "flip_average: True" in str(loaded)
    assert ditifeat.probe(replace(features, flip_average=False), labels)["coarse"].flip_average is False
    assert ditifeat.probe(features.array, labels)["coarse"].flip_average is None


@pytest.mark.parametrize(
    "codes", [["a", "b", "c", "d"], [[1, 2], [3], [4], [5]], np.zeros((3, 2)), np.zeros((4, 2, 2)), 7, None]
)
def test_codes_that_are_no_features(codes):
    with pytest.raises(InputError, match="features"):
        ditifeat.probe(codes, [0, 1, 0, 1])


def test_plain_arrays_have_no_ranges():
    features, labels = made_up()
    report = ditifeat.probe(features.array, labels["coarse"])
    assert report.ranges == () and report["label"].scores["ap"] > 0.9
    with pytest.raises(InputError, match="no partition"):
        report.plot("x.png")
