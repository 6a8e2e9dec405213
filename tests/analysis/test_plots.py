import numpy as np
import pytest

import ditifeat
from ditifeat import InputError
from tests.analysis.conftest import made_up
from tests.conftest import without_package


def test_plot(report, tmp_path):
    for name in ("x.png", "x.SVG"):
        report.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize("name", ["x.doc", "x", "x.jpg"])
def test_other_suffixes_are_refused(report, tmp_path, name):
    with pytest.raises(InputError, match=r"png, \.pdf"):
        report.plot(tmp_path / name)


def test_attributes_without_a_score_are_drawn(tmp_path):
    features, labels = made_up(100)
    ditifeat.probe(features, {"coarse": labels["coarse"], "never": np.zeros(100)}).plot(tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_without_matplotlib_it_is_our_error(report, tmp_path, monkeypatch):
    without_package(monkeypatch, "matplotlib.figure")
    with pytest.raises(ImportError, match=r"pip install 'ditifeat\[plot\]'") as error:
        report.plot(tmp_path / "x.png")
    assert isinstance(error.value, ditifeat.DitifeatError)
