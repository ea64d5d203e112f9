"""What no likelihood shows of a trained run, and what a plain net reaches where a pair should do better.

    python benchmarks/families.py agreement RUN            of a conditional pair: how often an independent classifier finds in new
                                                           images the class that was asked for
    python benchmarks/families.py accuracy RUN             of a semi-supervised pair: how often its q(y | x) is right on the test split
    python benchmarks/families.py baseline DATA QUADRANTS  of a structured pair's net without a latent: log p(x_out | x_in)

Each prints one line, with the numbers of data; agreement also the classifier's own accuracy on real test data.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import Data, Pair, load_data, pairs
from pyro_vae.nets import MLP
from pyro_vae.pairs import factory as parts
from pyro_vae.posterior import generate
from pyro_vae.runs import Run
from pyro_vae.training import build_from_config

BATCH = 128


def restored(folder: str) -> tuple[Pair, Data]:
    """Return a run's best pair and its data."""
    run = Run.open(folder)
    config = run.config
    data = build_from_config(partial(load_data, config["data"]["name"]), config["data"]["options"])
    pair = build_from_config(partial(pairs.find(config["pair"]["name"]), data.spec), config["pair"]["options"])
    pair.load_state_dict(run.load_best()["parameters"])
    return pair.train(False), data


def trained(net: nn.Module, data: Data, loss: Callable[[dict[str, Tensor]], Tensor], epochs: int) -> nn.Module:
    """Train a net on the training split by Adam with one cycle of the learning rate."""
    optimizer = torch.optim.Adam(net.parameters())
    steps = epochs * data.num_batches(BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for epoch in range(epochs):
        for batch in data.epoch(epoch, BATCH, seed=1):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def judge(data: Data) -> nn.Module:
    """Train a convolutional classifier of images on real training data, and nothing else."""
    channels, height, width = data.spec.image  # type: ignore[misc]
    small = -(-height // 4) * -(-width // 4)
    net = nn.Sequential(
        *(nn.Unflatten(1, (channels, height, width)), nn.Conv2d(channels, 16, 5, stride=2, padding=2), nn.SiLU()),
        *(nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.SiLU(), nn.Flatten(), nn.Dropout(0.3)),
        *(nn.Linear(32 * small, 128), nn.SiLU(), nn.Dropout(0.3), nn.Linear(128, data.spec.classes or 0)),
    )
    return trained(net, data, lambda batch: F.cross_entropy(net(batch["x"]), batch["y"]), epochs=6)


def agreement(folder: str, count: int = 5000) -> str:
    """Show an independent classifier new images, equally many of each class."""
    pair, data = restored(folder)
    torch.manual_seed(0)
    net, test = judge(data), data.batch("test")
    asked = torch.arange(count) % data.spec.classes  # type: ignore[operator]
    batch = {"x": torch.zeros(count, data.spec.features), "y": asked}

    def share(x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return (net(x).argmax(-1) == y).double().mean().item()

    drawn, means = (share(generate(pair, batch, draw=draw)["x"], asked) for draw in (True, False))
    return (
        f"the classifier agrees on {drawn:.2%} of {count} draws ({means:.2%} of their means); "
        f"it is right on {share(test['x'], test['y']):.2%} of {len(test['x'])} real test data"
    )


def accuracy(folder: str) -> str:
    """Compare the guide's most likely class with the test split's labels."""
    pair, data = restored(folder)
    test = data.batch("test")
    with torch.no_grad():
        found = pair.guide.classifier(test["x"]).argmax(-1)  # type: ignore[attr-defined]
    return f"q(y | x) is right on {(found == test['y']).double().mean():.2%} of {len(found)} test data"


def baseline(source: str, quadrants: str, epochs: int = 10) -> str:
    """Train the structured pair's decoder with nothing but x_in as its input, on binary data."""
    data = load_data(source)
    torch.manual_seed(0)
    given = parts.quadrants(data.spec, int(quadrants))
    net = MLP(int(given.sum()), int((~given).sum()), (500, 500))

    def log_p(batch: dict[str, Tensor]) -> Tensor:
        logits, x = net(batch["x"][:, given]), batch["x"][:, ~given]
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    trained(net, data, lambda batch: -log_p(batch).mean(), epochs)
    with torch.no_grad():
        value = log_p(data.batch("test"))
    return f"log p(x_out | x_in) = {value.mean():.2f} ± {value.std() / len(value) ** 0.5:.2f} nats on {len(value)} test data, {quadrants} quadrants given"


COMMANDS: dict[str, Callable[..., str]] = {"agreement": agreement, "accuracy": accuracy, "baseline": baseline}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    print(COMMANDS[sys.argv[1]](*sys.argv[2:]))
