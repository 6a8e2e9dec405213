import pytest

from ditifeat import InputError


def test_plot(report, tmp_path):
    for name in ("x.png", "x.svg"):
        report.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(InputError, match=r"png, \.pdf"):
        report.plot(tmp_path / "x.doc")
