import pickle
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest

from ditifeat import AttributeProbe, InputError, ModelError, ProbeReport
from tests.analysis.conftest import made_up
from tests.conftest import without_package


def test_table(report):
    lines = str(report).splitlines()
    assert lines[0].split() == ["attribute", "AP", "AUROC", "prevalence", "best", "time-steps"]
    assert lines[1].startswith("coarse") and lines[1].endswith("200-300")
    assert any(line.startswith("mean") for line in lines)
    assert "train rows: 480, test rows: 120" in lines[-1]
    frame = report.to_pandas()
    assert frame.loc["coarse", "alone 200-300"] == report["coarse"].alone[2]


def test_saved_and_loaded_is_the_same(report, tmp_path):
    report.save(tmp_path / "x.safetensors")
    loaded = ProbeReport.load(tmp_path / "x.safetensors")
    assert str(loaded) == str(report) and loaded.ranges == report.ranges
    for name in report:
        for field in fields(AttributeProbe):
            value, expected = getattr(loaded[name], field.name), getattr(report[name], field.name)
            assert np.array_equal(value, expected) if field.name in ("weights", "mean", "std") else value == expected
    assert loaded.about == report.about


def test_files_that_are_no_reports(tmp_path):
    features, _ = made_up()
    features.save(tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors.*report"):
        ProbeReport.load(tmp_path / "x.safetensors")


def test_unknown_attributes_are_refused(report):
    for kind in (InputError, KeyError):
        with pytest.raises(kind, match=r"^no attribute 'Happy'; the report has coarse, noise, age$"):
            report["Happy"]
    for key in ("", 0, ["coarse"], None):
        with pytest.raises(KeyError, match="no attribute"):
            report[key]
    with pytest.raises(KeyError):
        report.best_range("Happy")


def test_a_report_is_a_mapping(report):
    assert isinstance(report, Mapping) and list(report) == list(report.keys()) == ["coarse", "noise", "age"]
    assert dict(report) == report.probes and list(report.values()) == [report[name] for name in report]
    assert [name for name, probe in report.items()] == [probe.name for probe in report.values()]
    assert "coarse" in report and "Happy" not in report and 3 not in report
    assert report.get("Happy") is None and report.get("age") is report["age"] and len(report) == 3
    assert {**report}["age"] is report["age"]


def test_equality_and_hash_are_the_object_s(report):
    other = ProbeReport(report.probes, report.ranges, report.about)
    assert report == report and report != other and len({report, other}) == 2
    probe = report["coarse"]
    assert probe == probe and probe != replace(probe) and len({probe, replace(probe)}) == 2
    assert report != dict(report) and "coarse" not in (report, other)


def test_reports_print_and_pickle(report):
    assert repr(report) == f"ProbeReport(3 attributes, mean AP {report.mean_ap:.3f})"
    assert str(pickle.loads(pickle.dumps(report))) == str(report)
    assert str(ProbeReport({})) == "" and np.isnan(ProbeReport({}).mean_ap)


def test_predictions(report):
    features, labels = made_up()
    probe = report["age"]
    predicted = probe.predict(features)
    assert predicted.shape == (600,) and np.corrcoef(predicted, labels["age"])[0, 1] > 0.95
    assert probe.predict(features.array[0]) == pytest.approx(predicted[0])
    for wrong in (features.array[:, :-1], np.zeros((1, 2, 40)), 3.0):
        with pytest.raises(InputError, match="codes of shape"):
            probe.predict(wrong)


def test_predictions_for_features_of_another_origin_are_refused(report):
    features, _ = made_up()
    probe = replace(report["age"], encoder_weights="a" * 64, preprocessing="b" * 12, flip_average=True)
    features = replace(features, flip_average=True)
    probe.predict(replace(features, weights="a" * 64, preprocessing="b" * 12))
    for key, words in (("weights", "other weights"), ("preprocessing", "another way")):
        with pytest.raises(InputError, match=words):
            probe.predict(replace(features, **{key: "c" * 12}))
    plain = replace(features, flip_average=False)
    with pytest.raises(InputError, match="plain, not averaged over flips; encode them with flip_average=True"):
        probe.predict(plain)
    replace(probe, flip_average=None).predict(plain)  # of a bare array


def test_long_values_are_shortened_in_the_table(report):
    about = {"weights": "a" * 64, "skipped": ["1.png", "2.png"]}
    assert str(ProbeReport({}, (), about)) == f"weights: {'a' * 12}, skipped: 2"


def test_a_table_without_pandas_is_our_error(report, monkeypatch):
    without_package(monkeypatch, "pandas")
    with pytest.raises(ImportError, match="pip install pandas"):
        report.to_pandas()
