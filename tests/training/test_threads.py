"""Two fits at once in threads of one process: one after the other, each as if it were alone."""

import threading

import pytest
import torch

import pyro_vae as pv


@pytest.mark.slow
def test_two_fits_in_two_threads_are_two_fits(monkeypatch):
    torch.manual_seed(0)
    data = pv.load_data({"x": torch.randn(120, 4)})

    def pair_of(seed):
        torch.manual_seed(seed)
        return pv.pairs.latent(data.spec, latent=2, hidden=[4])

    def fit(pair, seed):
        return pv.fit(pair, data, epochs=6, batch_size=16, compile="off", seed=seed).history[-1]["elbo"]

    alone = [fit(pair_of(seed), seed) for seed in (1, 2)]
    pairs, found, failed = [pair_of(seed) for seed in (1, 2)], {}, []

    def run(pair, seed):
        try:
            found[seed] = fit(pair, seed)
            pv.log_evidence(pair, data.batch("valid"), num_samples=20)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(pair, seed)) for pair, seed in zip(pairs, (1, 2), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    assert [found[1], found[2]] == alone
