"""Two figures of a trained run that no likelihood shows.

    python benchmarks/families.py agreement RUN     of a conditional pair: how often an independent classifier finds in new data the
                                                    class that was asked for
    python benchmarks/families.py accuracy RUN      of a semi-supervised pair: how often its q(y | x) is right on the test split

Each prints one line with the numbers of data and, for agreement, the classifier's own accuracy on real test data.
"""

import sys
from collections.abc import Callable

import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from pyro_vae import Data, Pair, load_data, pairs
from pyro_vae.predictive import generate
from pyro_vae.runs import Run


def restored(folder: str) -> tuple[Pair, Data]:
    """Return a run's best pair and its data."""
    run = Run.open(folder)
    config = run.config
    data = load_data(config["data"]["name"], **config["data"]["options"])
    pair = pairs.find(config["pair"]["name"])(data.spec, **config["pair"]["options"])
    pair.load_state_dict(run.load_best()["parameters"])
    return pair.train(False), data


def agreement(folder: str, count: int = 5000) -> str:
    """Train a classifier on real training data (means of nothing, no generated data) and show it drawn data."""
    pair, data = restored(folder)
    train, test = data.batch("train"), data.batch("test")
    judge = MLPClassifier((400,), max_iter=20, early_stopping=True, random_state=0)
    judge.fit(train["x"].numpy(), train["y"].numpy())
    asked = torch.arange(count) % data.spec.classes  # type: ignore[operator]
    x = torch.zeros(count, data.spec.features)
    drawn = generate(pair, {"x": x, "y": asked}, draw=True)["x"]
    means = generate(pair, {"x": x, "y": asked})["x"]

    def share(x: Tensor, y: Tensor) -> float:
        return float((judge.predict(x.numpy()) == y.numpy()).mean())

    return (
        f"classifier agrees with the class asked for on {share(drawn, asked):.2%} of {count} draws "
        f"({share(means, asked):.2%} of their means); it is right on {share(test['x'], test['y']):.2%} of real test data"
    )


def accuracy(folder: str) -> str:
    """Compare the guide's most likely class with the test split's labels."""
    pair, data = restored(folder)
    test = data.batch("test")
    with torch.no_grad():
        found = pair.guide.classifier(test["x"]).argmax(-1)  # type: ignore[attr-defined]
    return f"q(y | x) is right on {(found == test['y']).double().mean():.2%} of {len(found)} test data"


COMMANDS: dict[str, Callable[[str], str]] = {"agreement": agreement, "accuracy": accuracy}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    print(COMMANDS[sys.argv[1]](sys.argv[2]))
