"""Classifiers that figures are made with take one thread, whatever the process takes."""

from collections.abc import Callable

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_info, threadpool_limits

import pyro_vae as pv
from pyro_vae.diagnostics.criticism import probes, two_sample
from pyro_vae.diagnostics.judge import Judge

X = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(120) % 2


@pytest.mark.parametrize(
    ("kind", "figure"),
    [
        (MLPClassifier, lambda: Judge.train(X, Y, width=4, passes=1)),
        (LogisticRegression, lambda: two_sample(X, X + 1)),
        (LogisticRegression, lambda: probes(X, Y, X, Y)),
        (LogisticRegression, lambda: pv.density_ratio(X, X + 1, folds=2)),
    ],
    ids=["judge", "two_sample", "probes", "density_ratio"],
)
def test_one_thread(kind: type, figure: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    fit, threads = kind.fit, []

    def noting(*args: object, **kwargs: object) -> object:
        threads.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return fit(*args, **kwargs)

    monkeypatch.setattr(kind, "fit", noting)
    with threadpool_limits(2, "blas"):
        figure()
        outside = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert set(threads) == {1}
    assert outside == {2}
