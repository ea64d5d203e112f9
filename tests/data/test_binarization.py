import numpy as np
import pytest

from pyro_vae.data import binarization as binarize
from pyro_vae.data.binarization import draw, key, random_words

PLACES = np.arange(2000)


def test_the_probability_is_exact_when_every_random_byte_comes_up_equally_often(monkeypatch):
    every_byte = np.repeat(np.arange(256, dtype=np.uint8), 255).view(np.uint64)[None]
    fresh = np.arange(255, dtype=np.uint64)  # what replaces the 255 rejected bytes

    def enumerated(key, counters):
        return (every_byte if counters.ndim == 2 else fresh).copy()

    monkeypatch.setattr(binarize, "random_words", enumerated)
    for k in range(256):
        ones = draw(np.full((1, 256 * 255), k, np.uint8), 255, key=0, positions=np.zeros(1, int)).sum()
        assert ones * 255 == k * 256 * 255


@pytest.mark.parametrize("top", [255, 16, 3])
def test_frequencies_of_codes(top):
    k = np.arange(top + 1, dtype=np.uint8)
    n = 2000 * 500
    ones = sum(
        draw(np.tile(k, (2000, 1)), top, key=key(top, i), positions=PLACES).sum(0, dtype=int) for i in range(500)
    )
    assert ones[0] == 0
    assert ones[-1] == n
    p = k[1:-1] / top
    assert np.abs((ones[1:-1] / n - p) / np.sqrt(p * (1 - p) / n)).max() < 4.5  # 254 normal scores


def test_frequencies_of_real_values():
    p = np.array([0.0, 1e-3, 0.25, 0.7, 1.0], np.float32)
    n = 2000 * 200
    ones = sum(draw(np.tile(p, (2000, 1)), None, key=key(i), positions=PLACES).sum(0, dtype=int) for i in range(200))
    assert ones[0] == 0
    assert ones[-1] == n
    assert np.abs((ones / n - p)[1:-1] / np.sqrt(p * (1 - p) / n)[1:-1]).max() < 4.5


def test_pixels_data_and_streams_are_uncorrelated():
    grey = np.full((2000, 784), 128, np.uint8)
    a, b = (draw(grey, 255, key=key(i), positions=PLACES) - 0.5 for i in (1, 2))
    for left, right in ((a, b), (a[:, 1:], a[:, :-1]), (a[1:], a[:-1]), (a[:, 8:], a[:, :-8])):
        assert abs((left * right).mean() * 4) < 5 / np.sqrt(left.size)


def test_a_datum_gets_the_same_draw_whatever_comes_with_it():
    grey = np.random.default_rng(0).integers(0, 256, (50, 13), dtype=np.uint8)
    whole = draw(grey, 255, key=7, positions=np.arange(50))
    some = np.array([41, 3, 17])
    assert (draw(grey[some], 255, key=7, positions=some) == whole[some]).all()


def test_the_stream_is_splitmix64():
    # first outputs for seed 1234567, as published with the reference implementation in C
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_words(1234567, np.arange(1, 5, dtype=np.uint64)).tolist() == wanted


def test_keys_differ_in_every_part():
    keys = {key("noise", seed, epoch, step) for seed in range(5) for epoch in range(5) for step in range(5)}
    assert len(keys) == 125
    assert all(0 <= k < 2**64 for k in keys)
