import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import ditifeat
from ditifeat import ImageDecodeError, InputError
from ditifeat.encoding.encoder import stream
from tests.conftest import make_image


@pytest.fixture
def features(tiny_encoder, photos):
    return ditifeat.encode(tiny_encoder, photos)


def test_a_folder_gives_a_row_a_image(features, tiny_encoder, photos):
    assert features.shape == (10, 32) and features.dtype == np.float32 and len(features) == 10
    assert features.names[0] == "00.png" and features.names[-1] == "more/09.png"
    one = ditifeat.encode(tiny_encoder, photos / "more" / "09.png")
    assert one.shape == (32,)
    assert np.allclose(one, features.array[-1], atol=1e-4)


def test_one_image_is_one_dimensional_and_a_list_is_not(tiny_encoder):
    image = make_image()
    for single in (image, np.asarray(image), torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)):
        assert ditifeat.encode(tiny_encoder, single).shape == (32,)
    assert ditifeat.encode(tiny_encoder, [image]).shape == (1, 32)
    assert ditifeat.encode(tiny_encoder, np.asarray(image)[None]).shape == (1, 32)


def test_no_image_gives_no_row(tiny_encoder, tmp_path):
    for nothing in ([], iter(()), np.zeros((0, 32, 32, 3), np.uint8), tmp_path):
        features = ditifeat.encode(tiny_encoder, nothing)
        assert features.shape == (0, 32) and features.names == ()


def test_rows_do_not_depend_on_the_batch_size(tiny_encoder, photos):
    rows = [np.asarray(ditifeat.encode(tiny_encoder, photos, batch_size=size)) for size in (1, 3, 64)]
    assert np.abs(rows[0] - rows[1]).max() < 1e-5 and np.abs(rows[0] - rows[2]).max() < 1e-5


def test_rows_are_what_the_network_says(tiny_encoder):
    image = make_image(width=32, height=32)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert np.allclose(ditifeat.encode(tiny_encoder, image), tiny_encoder(x.contiguous())[0], atol=1e-4)


def flipped(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def test_averaging_over_flips_is_the_mean_of_both_codes(tiny_encoder):
    images = [make_image(i, width=32, height=32) for i in range(3)]
    plain, mirror = (ditifeat.encode(tiny_encoder, rows).array for rows in (images, [*map(flipped, images)]))
    averaged = ditifeat.encode(tiny_encoder, images, flip_average=True)
    assert averaged.flip_average and not ditifeat.encode(tiny_encoder, images).flip_average
    assert np.abs(averaged.array - (plain + mirror) / 2).max() < 1e-5
    assert np.abs(averaged.array - plain).max() > 0.01
    as_tensor = tiny_encoder.encode(images, flip_average=True, output="torch")
    assert np.abs(as_tensor.numpy() - averaged.array).max() < 1e-5


def test_an_image_and_its_flip_have_the_same_averaged_features_alone(tiny_encoder):
    image = make_image(5, width=32, height=32)
    for average, same in ((True, True), (False, False)):
        one, other = (tiny_encoder.encode(x, flip_average=average).array for x in (image, flipped(image)))
        assert np.allclose(one, other, atol=1e-5) == same


def test_averaged_rows_do_not_depend_on_the_batch_size(tiny_encoder, photos):
    rows = [tiny_encoder.encode(photos, batch_size=size, flip_average=True).array for size in (1, 3, 64)]
    assert np.abs(rows[0] - rows[1]).max() < 1e-5 and np.abs(rows[0] - rows[2]).max() < 1e-5


def test_torch_output(tiny_encoder, photos):
    codes = ditifeat.encode(tiny_encoder, photos, output="torch")
    assert isinstance(codes, torch.Tensor) and codes.shape == (10, 32) and codes.dtype == torch.float32


def test_nothing_global_changes(tiny_encoder, photos):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    ditifeat.encode(tiny_encoder, photos)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and not tiny_encoder.network.training


def test_a_bar_for_several_batches_alone(tiny_encoder, photos, capsys):
    ditifeat.encode(tiny_encoder, photos, progress=True)
    ditifeat.encode(tiny_encoder, photos, batch_size=4)
    assert capsys.readouterr().err == ""
    ditifeat.encode(tiny_encoder, photos, batch_size=4, progress=True)
    assert "10/10" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": 2.5},
        {"batch_size": "8"},
        {"crop": "left"},
        {"crop": None},
        {"on_error": "ignore"},
        {"flip_average": "no"},
        {"flip_average": None},
        {"output": "jax"},
    ],
)
def test_wrong_arguments_are_refused(tiny_encoder, arguments):
    with pytest.raises(InputError):
        ditifeat.encode(tiny_encoder, [make_image()], **arguments)


@pytest.mark.parametrize("encoder", [None, "celeba64-mini", torch.nn.Identity()])
def test_what_is_no_encoder_is_refused(encoder):
    with pytest.raises(InputError, match="load_encoder"):
        ditifeat.encode(encoder, [make_image()])


def test_a_bad_image_is_named(tiny_encoder, tmp_path):
    make_image().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(ImageDecodeError, match=r"bad\.png"):
        ditifeat.encode(tiny_encoder, tmp_path)


def test_an_iterator_is_read_as_it_goes(tiny_encoder):
    first = next(stream(tiny_encoder, (make_image(i) for i in range(10**9)), batch_size=2))
    assert first[0] == ["0", "1"] and first[1].shape == (2, 32)


def test_results_are_held_once(tiny_encoder, monkeypatch):
    """Peak memory stays near the result's size, where a list of batches would need it twice."""
    rows = torch.zeros(500, 32)
    monkeypatch.setattr("ditifeat.encoding.encoder.stream", lambda *_, **__: ((["x"] * 500, rows) for _ in range(400)))
    tracemalloc.start()
    features = ditifeat.encode(tiny_encoder, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.shape == (200_000, 32)
    names = 200_000 * 8 * 3
    assert peak < 1.5 * features.array.nbytes + names
