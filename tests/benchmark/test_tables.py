import json

import pytest

from ditifeat.benchmark.tables import COLUMNS, EDIT_COLUMNS, attribute_table, edit_tables, grouped, heading, table


def row(method, ap, kind="trained", **values):
    return {
        "method": method,
        "kind": kind,
        "values": {"ap": ap, "images": 80, **values},
        "attributes": {"Odd": ap, "Early": ap / 2},
        "prevalence": {"Odd": 0.5, "Early": 0.25},
        "weights": [ap, 1 - ap],
    }


@pytest.fixture
def result():
    rows = [
        row("tiny (80 images)", 0.4, mse=0.01, captured=3),
        row("pdae (80 images)", 0.3, mse=float("nan")),
        row("tiny (80 images)", 0.6, mse=0.03, captured=4),
        row("baseline: PCA", 0.2, kind="baseline"),
    ]
    about = {"train rows": 24, "test rows": 16, "reconstructed": 16, "steps": 3}
    about |= {"flip_average": False, "probe seeds": [0, 1, 2]}
    return {"about": about, "methods": grouped(rows)}


def test_runs_of_one_method_share_a_row(result):
    tiny, pdae, pca = result["methods"].values()
    assert list(result["methods"]) == ["tiny (80 images)", "pdae (80 images)", "baseline: PCA"]
    assert tiny["runs"] == 2 and pdae["runs"] == 1 and pca["kind"] == "baseline"
    assert tiny["mean"]["ap"] == pytest.approx(0.5) and tiny["std"]["ap"] == pytest.approx(0.2 / 2**0.5)
    assert [each["ap"] for each in tiny["each"]] == [0.4, 0.6]
    assert tiny["attributes"] == pytest.approx({"Odd": 0.5, "Early": 0.25})
    assert tiny["weights"] == pytest.approx([0.5, 0.5])


def test_what_was_not_measured_is_left_out(result):
    pdae = result["methods"]["pdae (80 images)"]
    assert "mse" not in pdae["mean"] and "mse" not in pdae["each"][0] and pdae["std"] == {}
    json.dumps(result, allow_nan=False)  # which other languages read


def cells(text, first):
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table(result):
    text = table(result)
    assert cells(text, "method") == ["method", "runs", *COLUMNS.values()]
    found = dict(zip(cells(text, "method"), cells(text, "tiny"), strict=True))
    assert found["AP, logistic"] == "0.5000 ± 0.1414" and found["captured"] == "3.5" and found["images"] == "80"
    assert dict(zip(cells(text, "method"), cells(text, "pdae"), strict=True))["MSE"] == ""


def test_table_of_attributes(result):
    text = attribute_table(result)
    assert cells(text, "Early") == ["Early", "0.250", "0.250", "0.150", "0.100"]


def test_heading(result):
    assert "24 images, scored on the next 16" in heading(result) and "3 + 3 DDIM steps" in heading(result)
    assert "averaged over" not in heading(result)
    result["about"]["flip_average"] = True
    assert "averaged over horizontal flips" in heading(result)


def test_edit_tables():
    path = [{"scale": 0.3, "target": 0.5, "off_target": 0.1, "most_changed": ["Coin"]}]
    about = {"edited": 4, "steps": 2, "flip_average": True, "classifier_ap": 0.5, "strength": 0.6, "equal_change": 0.25}
    edits = {
        "tiny: dense": {"mean": {"target": 0.5, "reached": 1.0}, "attributes": {"Bright": path}},
        "tiny: time-steps 0-300 of another": {"mean": {"off_target": 0.123}},
    }
    common = {"attributes": ["Bright"], "off_target": {"tiny: dense": 0.05}}
    text = edit_tables({"about": about, "edits": edits, "common": common})
    assert cells(text, "edit")[: len(EDIT_COLUMNS) + 1] == ["edit", *EDIT_COLUMNS.values()]
    assert "(Bright): tiny: dense 0.050." in text and "4 held-out images, 2 + 2 evaluations" in text
    assert cells(text, "tiny: dense, strength 0.3") == ["tiny: dense, strength 0.3", "Bright", "0.50", "0.10", "Coin"]
    assert "Directions are of codes averaged over horizontal flips." in text
    plain = edit_tables({"about": about | {"flip_average": False}, "edits": edits, "common": common})
    assert "averaged over" not in plain
    nothing = {"attributes": [], "off_target": {}}
    assert "no attribute whose" in edit_tables({"about": about, "edits": edits, "common": nothing})
