import csv

import numpy as np
import pytest

import ditifeat
from ditifeat import InputError, TimeStepPartition
from ditifeat.app.cli import main
from tests.conftest import without_package


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(codes):
    noise = np.random.default_rng(1).standard_normal(len(codes))
    return {
        "easy": codes[:, 0] + 0.3 * noise > 0,
        "noise": noise > 0,
        "rare": codes[:, 1] > 1.9,
        "age": codes[:, 2] + 0.3 * noise,
    }


def test_more_labels_are_better_until_there_is_nothing_to_learn(codes, labels):
    curve = ditifeat.learning_curve(codes, labels, train_sizes=[5, 20, 80, 400], train_rows=range(400))
    assert curve.train_sizes.tolist() == [5, 20, 80, 400]
    for name in ("easy", "age"):
        mean = curve.scores[name].mean(1)
        assert (np.diff(mean) > 0).all() and mean[-1] > 0.9
    prevalence = labels["noise"][400:].mean()
    assert np.abs(curve.scores["noise"].mean(1) - prevalence).max() < 0.08
    assert curve.scores["easy"].std(1)[0] > curve.scores["easy"].std(1)[2] > 0
    assert curve.kinds == {"easy": "binary", "noise": "binary", "rare": "binary", "age": "real"}


@pytest.mark.parametrize("options", [{}, {"protocol": "paper"}, {"dims": 3}, {"random_state": 7}])
def test_with_all_rows_it_is_the_probe(codes, labels, options):
    curve = ditifeat.learning_curve(codes, labels, train_sizes=[1.0], train_size=0.7, n_repeats=3, **options)
    report = ditifeat.probe(codes, labels, train_size=0.7, **options)
    assert curve.train_sizes.tolist() == [420]
    for name in labels:
        assert np.allclose(curve.scores[name], report[name].score, atol=1e-6), name
    assert np.allclose(curve.mean_ap, report.mean_ap)


def test_draws_are_of_the_training_rows_nested_and_repeatable(codes, labels):
    def curve(labels, sizes, **options):
        return ditifeat.learning_curve(codes, labels, train_sizes=sizes, train_rows=range(400), **options)

    first, again, other = (curve(labels, [20, 80], random_state=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.scores["easy"], again.scores["easy"])
    assert not np.array_equal(first.scores["easy"], other.scores["easy"])
    # A size's scores do not depend on the other sizes, nor a draw's on how many there are.
    assert np.array_equal(
        curve(labels, [80], random_state=3, n_repeats=2).scores["easy"][0], first.scores["easy"][1, :2]
    )
    # The test rows train nothing: with other labels there, the fits stay the same.
    flipped = np.concatenate([labels["easy"][:400], ~labels["easy"][400:]])
    opposite = curve({"easy": flipped}, [400])
    assert opposite.scores["easy"].mean() < 0.4


def test_one_value_only_scores_as_a_constant(codes, labels):
    curve = ditifeat.learning_curve(codes, {"rare": labels["rare"]}, train_sizes=[3, 400], train_rows=range(400))
    assert 0 < curve.one_valued[0] <= 5 and curve.one_valued[1] == 0
    prevalence = labels["rare"][400:].mean()
    assert (np.isclose(curve.scores["rare"][0], prevalence)).sum() == curve.one_valued[0]
    assert "one value only" in str(curve)
    never = ditifeat.learning_curve(codes, {"never": np.zeros(600)}, train_sizes=[10])
    assert np.isnan(never.scores["never"]).all() and np.isnan(never.mean_ap).all() and never.one_valued.tolist() == [5]
    constant = np.where(np.arange(600) < 400, 1.5, codes[:, 0])
    assert (
        ditifeat.learning_curve(codes, {"x": constant}, train_sizes=[10], train_rows=range(400)).scores["x"].max() == 0
    )


def test_missing_labels_are_left_out(codes, labels):
    some = np.where(np.arange(600) % 3 == 0, np.nan, labels["easy"])
    curve = ditifeat.learning_curve(codes, {"some": some, "easy": labels["easy"]}, train_sizes=[30, 1.0])
    assert curve.scores["some"][-1].mean() > 0.9
    report = ditifeat.probe(codes, {"some": some})
    assert np.allclose(curve.scores["some"][-1], report["some"].score)


def test_sizes_as_scikit_learn_takes_them(codes, labels):
    def sizes(given):
        return ditifeat.learning_curve(codes, labels, train_sizes=given, train_rows=range(400), n_repeats=1).train_sizes

    assert sizes(None).tolist() == [10, 25, 63, 159, 400]
    assert sizes([0.5, 0.1, 40]).tolist() == [40, 200]
    assert sizes(np.array([400, 2])).tolist() == [2, 400]
    assert sizes(np.linspace(0.1, 1.0, 4)).tolist() == [40, 160, 280, 400]


@pytest.mark.parametrize(
    "sizes", [[1], [401], [0], [-3], [0.0], [1.5], [0.001], [True], ["10"], [None], [], 10, [float("nan")]]
)
def test_sizes_that_do_not_fit(codes, labels, sizes):
    with pytest.raises(InputError, match="train_sizes"):
        ditifeat.learning_curve(codes, labels, train_sizes=sizes, train_rows=range(400))


@pytest.mark.parametrize(
    "options",
    [
        {"n_repeats": 0},
        {"n_repeats": 2.5},
        {"random_state": -1},
        {"protocol": "other"},
        {"dims": 17},
        {"train_size": 0.5, "train_rows": range(10)},
    ],
)
def test_other_arguments_that_do_not_fit(codes, labels, options):
    with pytest.raises(InputError):
        ditifeat.learning_curve(codes, labels, **options)


def test_what_is_shown(codes, labels, tmp_path, monkeypatch):
    curve = ditifeat.learning_curve(codes, labels, train_sizes=[20, 80], n_repeats=2)
    lines = str(curve).splitlines()
    assert lines[0].split() == ["training", "rows", "20", "80"]
    mean = curve.mean_ap
    assert f"{mean.mean(1)[1]:.3f} ± {mean.std(1)[1]:.3f}" in next(line for line in lines if line.startswith("mean"))
    assert lines[-1] == "protocol: sklearn, random_state: 0, n_repeats: 2, test rows: 120"
    frame = curve.to_pandas()
    assert len(frame) == 4 * 2 * 2 and frame["score"].notna().all()
    row = frame.query("attribute == 'age' and train_size == 80 and draw == 1").iloc[0]
    assert row["score"] == curve.scores["age"][1, 1] and row["kind"] == "real"
    curve.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000
    with pytest.raises(InputError, match=r"\.png"):
        curve.plot(tmp_path / "curve.txt")
    without_package(monkeypatch, "pandas")
    with pytest.raises(ImportError, match="pip install pandas"):
        curve.to_pandas()


def test_the_command(codes, labels, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = tuple(f"{i}.png" for i in range(len(codes)))
    ditifeat.Features(codes, names, TimeStepPartition(4, 16)).save("features.npz")
    rows = [f"{name},{int(value)}" for name, value in zip(names, labels["easy"], strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["name,easy", *rows]))
    words = ["learning-curve", "features.npz", "labels.csv"]
    options = ["--train-sizes", "10", "0.5", "--n-repeats", "3", "--train-first", "400"]
    assert main([*words, *options, "--out", "curve.csv", "--plot", "curve.svg"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["training", "rows", "10", "200"]
    table = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert len(table) == 6 and table[0].keys() == {"attribute", "kind", "train_size", "draw", "score"}
    assert (tmp_path / "curve.svg").exists()
    for more in (["--out", "curve.npz"], ["--plot", "curve.doc"], ["--train-sizes", "1"], ["--dims", "99"]):
        assert main([*words, *more]) == 2
    assert "ditifeat: " in capsys.readouterr().err
