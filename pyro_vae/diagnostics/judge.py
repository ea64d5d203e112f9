"""A small classifier of a data set, trained once: the eyes that samples are looked at with."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.diagnostics.one_thread import one_thread

MAX_TAUGHT = 20_000  # training data that it learns from
STEPS = 900  # at least, however small the data set
WIDTH = 64  # hidden units: the features
_KNOWN: dict[tuple[str, str, int], "Judge"] = {}
MAX_KNOWN = 8


class Judge(NamedTuple):
    """A perceptron with one hidden layer; weights as scikit-learn gives them."""

    hidden: tuple[Tensor, Tensor]  # (features, width), (width,)
    out: tuple[Tensor, Tensor]  # (width, classes), or (width, 1) of two classes
    labels: Tensor  # (classes,) that it knows

    @classmethod
    @one_thread()
    def train(cls, x: Tensor, y: Tensor, *, width: int = WIDTH, passes: int = 15, seed: int = 0) -> "Judge":
        """Train on ``x``, (data, features), with classes ``y``, (data,)."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        net = MLPClassifier((width,), max_iter=passes, early_stopping=False, random_state=seed, batch_size=128)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it need not converge for features
            warnings.filterwarnings("ignore", "Got `batch_size`")  # a few data are one batch
            net.fit(x.cpu().numpy(), y.cpu().numpy())
        first, last = (
            (torch.as_tensor(w), torch.as_tensor(b)) for w, b in zip(net.coefs_, net.intercepts_, strict=True)
        )
        return cls(first, last, torch.as_tensor(net.classes_))

    def features(self, x: Tensor) -> Tensor:
        """Return the hidden layer, ``(data, width)``."""
        weight, bias = self.hidden
        return torch.relu(x.cpu().to(weight.dtype) @ weight + bias)

    def classes(self, x: Tensor) -> Tensor:
        """Return the class of each datum: long, ``(data,)``."""
        weight, bias = self.out
        scores = self.features(x) @ weight + bias
        chosen = scores.argmax(-1) if len(self.labels) > 2 else (scores[:, 0] > 0).long()
        return self.labels[chosen]


def judge_of(data: Data, *, seed: int = 0) -> Judge:
    """Return the classifier of a data set's training split, trained the first time it is asked for.

    It depends on the data and the seed alone, so that figures of different runs, and of different
    days, are in the same features.
    """
    name = (data.fingerprint, data.spec.binarize, seed)
    if name not in _KNOWN:
        train, _ = data.subset("train", MAX_TAUGHT)
        steps = max(1, len(train["x"]) // 128)
        if len(_KNOWN) >= MAX_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[name] = Judge.train(train["x"], train["y"], passes=max(15, -(-STEPS // steps)), seed=seed)
    return _KNOWN[name]
