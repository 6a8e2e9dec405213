import sys

import numpy as np
import pytest

from ditifeat.benchmark.plots import plot_benchmark, plot_curves, plot_specialisation, plot_weights
from ditifeat.errors import DitifeatError

METHOD = {"kind": "trained", "attributes": {"Odd": 0.5, "Early": 0.3}, "weights": [0.7, 0.2, 0.1]}
RESULT = {"methods": {"tiny": METHOD, "pdae": METHOD | {"attributes": {"Odd": 0.6}}, "PCA": {"kind": "baseline"}}}
RANGES = {"error_left": [[0, 500], [500, 1000]], "swaps": [[0, 500], [500, 1000]]}
SWAPS = {"low": [0.2, 0.8], "rest": [0.9, 0.1]}
SPECIALISATION = {
    "tiny": {
        "ranges": RANGES,
        "mean": {"error_left": [[0.9, 0.9], [0.5, 0.1]], "swaps": SWAPS},
        "std": {"swaps": SWAPS},
    },
    "pdae": {"ranges": RANGES, "mean": {"error_left": [[0.9], [0.1]]}},
}
CALLS = {
    plot_benchmark: RESULT,
    plot_specialisation: SPECIALISATION,
    plot_weights: {"tiny": np.arange(6.0).reshape(3, 2)},
    plot_curves: {"tiny": [(80, 0.3), (160, 0.4)]},
}


@pytest.mark.parametrize("plot", CALLS)
def test_plots(plot, tmp_path):
    plot(CALLS[plot], tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("plot", CALLS)
def test_without_matplotlib(plot, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DitifeatError, match="matplotlib"):
        plot(CALLS[plot], tmp_path / "plot.png")
