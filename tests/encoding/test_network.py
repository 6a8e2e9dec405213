"""The network's threads: order, errors in their place, nothing global changed; how a long run decides its dtype."""

import threading

import numpy as np
import pytest
import torch

from ditifeat.data.counting import count_images
from ditifeat.encoding import run, speed
from ditifeat.encoding.network import in_threads
from ditifeat.encoding.speed import Way, fastest_way
from tests.conftest import make_image

CPU = torch.device("cpu")


def default_threads():
    """What a new thread takes for torch's number of threads."""
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_results_come_in_order(count):
    assert list(in_threads(lambda x: x * x, range(count), CPU)) == [i * i for i in range(count)]


@pytest.mark.parametrize("at", [0, 1, 2, 7])
def test_what_is_wrong_with_an_item_comes_after_those_before_it(at):
    def items():
        yield from range(at)
        raise KeyError("wrong")

    found = []
    with pytest.raises(KeyError, match="wrong"):
        found.extend(in_threads(lambda x: x, items(), CPU))
    assert found == list(range(at))


def test_what_goes_wrong_in_the_work_comes_in_its_place():
    found = []
    with pytest.raises(ZeroDivisionError):
        for result in in_threads(lambda x: 1 / (3 - x), range(10), CPU):
            found.append(result)
    assert len(found) == 3


def test_items_are_pulled_a_little_ahead():
    pulled = []

    def items():
        for i in range(10**6):
            pulled.append(i)
            yield i

    results = in_threads(lambda x: x, items(), CPU)
    next(results)
    results.close()
    assert len(pulled) < 20


def test_the_number_of_threads_stays():
    before = torch.get_num_threads(), default_threads()
    inside = set(in_threads(lambda _: torch.get_num_threads(), range(20), CPU))
    assert (torch.get_num_threads(), default_threads()) == before and len(inside) == 1
    assert inside.pop() * min(before[0], 8) <= before[0]


@pytest.mark.parametrize(
    "rates, expected",
    [
        ({"float32": 100, "bfloat16": 200}, "bfloat16"),
        ({"float32": 100, "bfloat16": 120}, "float32"),
        ({"float32": 100, "bfloat16": 50}, "float32"),
        ({"float32": 100, "bfloat16": 200, "bfloat16, channels last": 210}, "bfloat16, channels last"),
        ({"float32": 100, "float32, channels last": 110, "bfloat16": 120}, "float32, channels last"),
    ],
)
def test_the_fastest_way_is_chosen_where_it_is_worth_it(tiny_encoder, monkeypatch, rates, expected):
    monkeypatch.setattr(speed, "codes_in", lambda network, way, flip_average: str(way))
    monkeypatch.setattr(speed, "_rate", lambda way, pixels: rates.get(way, 1))
    assert str(fastest_way(tiny_encoder.network, [torch.float32, torch.bfloat16])) == expected


def test_the_network_itself_stays_as_it_is(tiny_encoder):
    fastest_way(tiny_encoder.network, [torch.float32, torch.bfloat16])
    weight = next(tiny_encoder.network.parameters())
    assert weight.dtype == torch.float32 and weight.is_contiguous()


def test_a_way_gives_nearly_the_same_codes(tiny_encoder):
    pixels = np.stack([np.asarray(make_image(i, 32, 32)) for i in range(4)])
    plain = speed.codes_in(tiny_encoder.network, Way(torch.float32, False), False)(pixels)
    for way, tolerance in ((Way(torch.float32, True), 1e-4), (Way(torch.bfloat16, True), 0.03)):
        codes = speed.codes_in(tiny_encoder.network, way, False)(pixels)
        assert codes.dtype == torch.float32 and not codes.is_inference()
        assert (codes - plain).norm() < tolerance * plain.norm()


def test_long_runs_are_known_by_number_or_by_size(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(run, "LONG_RUN", 10)
    (tmp_path / "x.tar").write_bytes(bytes(10 * run.SMALL_IMAGE))
    (tmp_path / "y.tar").write_bytes(bytes(9 * run.SMALL_IMAGE))
    cases = {
        str(photos): True,
        str(photos / "00.png"): False,
        str(tmp_path / "x.tar"): True,
        str(tmp_path / "y.tar"): False,
    }
    for images, expected in cases.items():
        assert run._is_long(images, count_images(images)) == expected, images
    assert not run._is_long(iter([]), None)


def test_images_are_counted_where_that_is_cheap(photos, tmp_path):
    (tmp_path / "list.txt").write_text("a.png\n\nb.png\n")
    assert count_images(photos) == 10 and count_images([photos, photos / "00.png"]) == 11
    assert count_images(f"{photos}/*.png") == 7 and count_images(tmp_path / "list.txt") == 2
    assert count_images([make_image()] * 3) == 3 and count_images(np.zeros((4, 8, 8, 3))) == 4
    assert count_images(tmp_path / "x.tar") is None and count_images([tmp_path / "x.tar", photos]) is None
