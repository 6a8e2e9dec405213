import json

import numpy as np
import pytest

from ditifeat.benchmark.tables import (
    COLUMNS,
    EDIT_COLUMNS,
    attribute_table,
    averaged,
    edit_tables,
    grouped,
    heading,
    page,
    specialisation_tables,
    specialised,
    table,
)


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


def specialisation(shift=0.0, **changes):
    """Of two ranges; `shift` is added to all shares of the first and taken from the second."""
    values = {
        "error_left": [[0.9 + shift, 0.9 + shift], [0.5, 0.25 - shift]],
        "mse_random": 0.01 + shift,
        "round_trip": 0.0001,
        "swaps": {
            "low": [0.2 + shift, 0.8 - shift],
            "rest": [0.75, 0.25],
            "ratio": [0.5, float("nan")],
            "attributes": [0.42 + shift, 0.58 - shift],
        },
        "attributes": {"Odd": [0.3 + shift, 0.7 - shift], "Early": [0.6, 0.4]},
        "alone": [0.4 + shift, 0.5],
        "cumulative": [0.4 + shift, 0.6],
        "effective_rank": 12.0 + shift,
    }
    ranges = {"error_left": [[0, 100], [100, 1000]], "swaps": [[0, 300], [300, 1000]], "probe": [[0, 50], [50, 1000]]}
    return {"ranges": ranges, "values": {**values, **changes}}


@pytest.fixture
def measured(result):
    one = specialisation(error_left=[[0.875], [0.375]])
    one["values"] = {key: value for key, value in one["values"].items() if key not in ("swaps", "attributes")}
    one["ranges"]["probe"] = [[0, 1000]]
    one["values"] |= {"alone": [0.55], "cumulative": [0.55]}
    rows = [
        row("tiny (80 images)", 0.4) | {"specialisation": specialisation()},
        row("pdae (80 images)", 0.3) | {"specialisation": one},
        row("tiny (80 images)", 0.6) | {"specialisation": specialisation(0.1)},
        row("baseline: PCA", 0.2, kind="baseline"),
    ]
    result["about"] |= {"error images": 7, "sampled": 5, "sampling steps": 20}
    return result | {"methods": grouped(rows)}


def test_averages_of_nested_numbers():
    runs = [{"a": {"b": [1.0, 2.0]}, "c": 3}, {"a": {"b": [2.0, 6.0]}, "c": float("nan")}]
    assert averaged(runs, np.mean) == {"a": {"b": [1.5, 4.0]}, "c": None}


def test_runs_of_one_method_share_their_specialisation(measured):
    tiny, pdae = specialised(measured).values()
    assert list(specialised(measured)) == ["tiny (80 images)", "pdae (80 images)"]
    assert tiny["ranges"] == specialisation()["ranges"] and "std" not in pdae
    assert tiny["mean"]["error_left"] == [pytest.approx([0.95, 0.95]), pytest.approx([0.5, 0.2])]
    assert tiny["std"]["error_left"][1] == pytest.approx([0, 0.1 / 2**0.5])
    assert tiny["mean"]["attributes"]["Odd"] == pytest.approx([0.35, 0.65])
    assert tiny["mean"]["swaps"]["ratio"] == [0.5, None]
    json.dumps(measured, allow_nan=False)


def lines(text, title):
    """The cells of each row of a section's table, by column."""
    section = next(part for part in text.split("## ") if part.startswith(title + "\n"))
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], found, strict=True)) for found in rows[2:]]


def test_specialisation_tables(measured):
    text = specialisation_tables(measured)
    tiny, pdae = lines(text, "Sampling and effective rank")
    assert tiny["MSE, random x_T"] == "0.0600 ± 0.0707" and tiny["effective rank"] == "12.1 ± 0.1"
    assert pdae == {
        "method": "pdae (80 images)", "MSE, random x_T": "0.0100", "MSE, round trip": "0.000100", "effective rank": "12.0"
    }  # fmt: skip
    errors = lines(text, "Error left")
    assert [row["time-steps"] for row in errors] == ["0-100", "100-1000"] * 2
    assert errors[1]["code of 0-100"] == "0.50 ± 0.00" and errors[1]["whole code"] == "0.20 ± 0.07"
    assert errors[3] == {
        "method": "pdae (80 images)", "time-steps": "100-1000", "code of 0-100": "", "whole code": "0.38"
    }  # fmt: skip
    swaps = lines(text, "Swaps")
    assert [row["method"] for row in swaps] == ["tiny (80 images)"] * 2
    assert swaps[0]["low frequencies"] == "0.25 ± 0.07" and swaps[0]["the rest"] == "0.75 ± 0.00"
    assert swaps[0]["attributes"] == "0.47 ± 0.07" and swaps[0]["largest"] == "Early 0.60, Odd 0.35"
    assert swaps[1]["largest"] == "Odd 0.65, Early 0.40" and swaps[1]["low / rest"] == ""
    alone = lines(text, "AP per range")
    assert [row["AP alone"] for row in alone] == ["0.4500 ± 0.0707", "0.5000 ± 0.0000", "0.5500"]
    assert [row["AP up to here"] for row in alone] == ["0.4500 ± 0.0707", "0.6000 ± 0.0000", "0.5500"]
    assert "covariance of 16 test images' codes" in text
    assert "7 test images" in text and "5 test images, sampled in 20 DDIM steps" in text


def test_page(result, measured):
    text = page(measured)
    assert text.startswith(heading(measured)) and table(measured) in text and attribute_table(measured) in text
    assert text.endswith(specialisation_tables(measured))
    plain = measured | {"methods": {"baseline: PCA": measured["methods"]["baseline: PCA"]}}
    assert specialisation_tables(plain) == "" and "## " not in page(plain)


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
