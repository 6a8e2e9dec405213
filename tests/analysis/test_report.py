import numpy as np
import pytest

from ditifeat import InputError, ModelError, ProbeReport
from tests.analysis.conftest import made_up


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
        for key in ("weights", "mean", "std"):
            assert np.array_equal(getattr(loaded[name], key), getattr(report[name], key))


def test_files_that_are_no_reports(tmp_path):
    features, _ = made_up()
    features.save(tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors.*report"):
        ProbeReport.load(tmp_path / "x.safetensors")


def test_unknown_attributes_are_refused(report):
    with pytest.raises(InputError, match=r"no attribute 'Happy'.*coarse, noise, age"):
        report["Happy"]
