"""Pictures of a Boltzmann machine: its filters, its chains, and how well log Z is known.

See ``pyro_vae.plots``.
"""

import itertools
import math

import torch
from matplotlib.figure import Figure

from pyro_vae.conditionals import Boltzmann
from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import (
    BLUE,
    GREY,
    NORMAL,
    ORANGE,
    SMALL,
    at_least,
    headline,
    is_image,
    mean_of_x,
    panel,
    sheet,
)
from pyro_vae.posterior import NotDrawable, generate, repeat_batch
from pyro_vae.program import Pair

TEMPERATURES = (10, 30, 100, 300, 1000)


@picture
def filters(pair: Pair, data: Data, *, count: int = 64) -> Figure:
    """Draw what each hidden unit answers to: its weights as an image, white for, black against.

    Args:
        count: number of hidden units, those of the largest weights first.
    """
    at_least(1, count=count)
    weights = _machine(pair).weights.detach().T
    if not is_image(data.spec):
        raise NotDrawable(f"filters are pictures of images, and x of {data.spec.name} is none; draw `chains`")
    shown = weights[weights.square().sum(1).argsort(descending=True, stable=True)][:count]
    shown = 0.5 + 0.5 * shown / shown.abs().amax(1, keepdim=True).clamp(min=1e-9)
    across = min(len(shown), 16)
    down = math.ceil(len(shown) / across)
    shown = torch.cat([shown, torch.ones(down * across - len(shown), shown.shape[1]).to(shown)])
    return sheet(shown.unflatten(0, (down, across)), data, title="Filters: the weights of each hidden unit")


@picture
def chains(pair: Pair, data: Data, *, count: int = 6, columns: int = 10, seed: int = 0) -> Figure:
    """Draw Gibbs sampling as a film strip: each row is a chain that begins at a draw of the model.

    A row that hardly changes belongs to a chain that does not mix.

    Args:
        count: number of chains.
        columns: pictures of each, after 0, 1, 2, 4, ... steps.
        seed: of the draws.
    """
    at_least(1, count=count)
    at_least(2, columns=columns)
    energy = _machine(pair).energy
    x = mean_of_x(generate(pair, repeat_batch(data.batch(data.choose(), count), count), seed=seed, draw=True))
    steps = [0, *(2**i for i in range(columns - 1))]
    strip = [x]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for before, after in itertools.pairwise(steps):
            strip.append(energy.gibbs(strip[-1], after - before))
    return sheet(
        torch.stack(strip, 1),
        data,
        title="Chains: states of Gibbs sampling, from a draw of the model",
        columns=list(map(str, steps)),
        xlabel="steps",
    )


@picture
def bracket(pair: Pair, data: Data, *, draws: int = 100, seed: int = 0) -> Figure:
    """Draw how annealing closes in on log Z: from below on the way there, from above back.

    Args:
        draws: chains of annealing.
        seed: of the draws.
    """
    at_least(1, draws=draws)
    machine = _machine(pair)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = [machine.anneal(temperatures=number, chains=draws) for number in TEMPERATURES]
    figure, axes = panel(3.4)
    lower = [one.forward.mean().item() for one in found]
    axes.plot(TEMPERATURES, lower, "o-", color=BLUE, label="forward: E log w, at most log Z")
    if all(one.reverse is not None for one in found):
        start = "exact draws" if found[0].exact else "chains, a bound if they have mixed"
        upper = [one.reverse.mean().item() for one in found if one.reverse is not None]
        axes.plot(TEMPERATURES, upper, "o-", color=ORANGE, label=f"back from {start}")
    axes.axhline(found[-1].lower, color=GREY, lw=1, ls=":", label=f"estimate: {found[-1].lower:.2f}")
    axes.set_xscale("log")
    axes.set_xlabel("temperatures", fontsize=NORMAL)
    axes.set_ylabel("log Z, nats", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.legend(fontsize=SMALL, frameon=False)
    headline(figure, "Bracket: log Z by annealed importance sampling")
    return figure


def _machine(pair: Pair) -> Boltzmann:
    for module in pair.modules().values():
        for part in module.modules():
            if isinstance(part, Boltzmann):
                return part
    raise NotDrawable("the pair has no Boltzmann machine, such as `boltzmann` has; draw `samples`")
