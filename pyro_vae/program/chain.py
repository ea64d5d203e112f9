"""Chains: pairs of many levels whose steps are one function of the level, as a diffusion's are.

The programs draw z1 ... zT and x. What makes them a chain is that both can be asked for any level
by itself (l an int, or a long tensor of one level per datum):

    model.step(z, l)      p(zl-1 | zl), l = 2 ... T; with model.prior() and model.decoder(z1)
    guide.jump(x, l)      q(zl | x), l = 1 ... T, without the levels between
    guide.back(z, x, l)   q(zl-1 | zl, x), l = 2 ... T

Then the ELBO is a sum of one term per level, each of which needs that level alone:

    E log p(x | z1) - sum of KL(q(zl-1 | zl, x) || p(zl-1 | zl)) - KL(q(zT | x) || p(zT))

*Deep Unsupervised Learning using Nonequilibrium Thermodynamics* (Sohl-Dickstein et al., 2015),
arXiv 1503.03585, eq. 14.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.program.contract import Look, Problem
from pyro_vae.program.handlers import unwrapped
from pyro_vae.program.pair import BatchProgram, Pair, PairError, program_name

METHODS = {"guide": ("jump", "back", "levels"), "model": ("step", "prior", "decoder")}
TOLERANCE = 1e-3  # of log densities that agree, relative to their size: sums over many features in single precision


@dataclass(frozen=True)
class Chain:
    """A chain's two programs, and the terms of its ELBO, in nats per datum ``(..., batch)``."""

    model: Any
    guide: Any

    @property
    def top(self) -> int:
        """T, the number of levels."""
        return len(self.guide.levels)

    def reconstruction(self, x: Tensor) -> Tensor:
        """Return log p(x | z1) at a draw of z1."""
        log_p: Tensor = self.model.decoder(self.guide.jump(x, 1).rsample()).log_prob(x)
        return log_p

    def step(self, x: Tensor, level: int | Tensor) -> Tensor:
        """Return KL(q(zl-1 | zl, x) || p(zl-1 | zl)) at a draw of zl, for levels above the first."""
        z = self.guide.jump(x, level).rsample()
        return kl_divergence(self.guide.back(z, x, level), self.model.step(z, level))

    def prior(self, x: Tensor) -> Tensor:
        """Return KL(q(zT | x) || p(zT))."""
        return kl_divergence(self.guide.jump(x, self.top), self.model.prior())

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """Return what each site adds to the ELBO, of one draw of each level: they need not be from
        one path through the chain.
        """
        found = {f"z{level - 1}": -self.step(x, level) for level in range(2, self.top + 1)}
        return found | {f"z{self.top}": -self.prior(x), "x": self.reconstruction(x)}


def chain_of(model: Callable, guide: Callable) -> Chain:
    """Return the chain that two programs are.

    Raises:
        PairError: one of them lacks a method.
    """
    inner = {"model": _bare(model), "guide": _bare(guide)}
    for role in ("model", "guide"):
        for method in METHODS[role]:
            if not hasattr(inner[role], method):
                raise PairError(
                    f"the {role} {program_name(inner[role])} has no '{method}', so the pair is no chain whose levels "
                    "can be taken one by one; use the pair diffusion, or the objective elbo"
                )
    return Chain(**inner)


def chain_in(pair: Pair) -> Chain | None:
    """Return the chain that a pair is, or None."""
    try:
        return chain_of(pair.model, pair.guide)
    except PairError:
        return None


def _bare(program: Callable) -> Any:
    bare = unwrapped(program)
    return bare.program if isinstance(bare, BatchProgram) else bare


def agrees(look: Look) -> Iterator[Problem]:
    """Compare what a chain says of its levels with what its programs draw there."""
    chain = chain_in(look.pair)
    if chain is None:
        return
    guide, model = look.traces()
    x = look.batch["x"]
    with torch.no_grad():
        for method, level, said, is_so in _levels(chain, x, guide, model):
            if not bool(((said - is_so).abs() <= TOLERANCE * (1 + said.abs() + is_so.abs())).all()):
                first = int((said - is_so).abs().argmax())
                yield Problem(
                    f"z{level}",
                    f"at level {level} the log-densities of {method} and of the programs differ, "
                    f"{float(said[first]):.6g} and {float(is_so[first]):.6g} at datum {first}",
                    f"Let '{method}' be what the programs draw from",
                )
                return


def _levels(chain: Chain, x: Tensor, guide: Trace, model: Trace) -> Iterator[tuple[str, int, Tensor, Tensor]]:
    """Yield method, level, the log-density that follows from it, and the programs', ``(batch,)``."""
    z = {level: guide.nodes[f"z{level}"]["value"] for level in range(1, chain.top + 1)}

    def log_q(level: int) -> Tensor:
        density: Tensor = guide.nodes[f"z{level}"]["fn"].log_prob(z[level])
        return density

    def jump(level: int) -> Tensor:
        density: Tensor = chain.guide.jump(x, level).log_prob(z[level])
        return density

    yield "jump", 1, jump(1), log_q(1)
    for level in range(2, chain.top + 1):
        # q(zl-1 | x) q(zl | zl-1) = q(zl | x) q(zl-1 | zl, x)
        back = chain.guide.back(z[level], x, level).log_prob(z[level - 1])
        yield "back", level, jump(level) + back - jump(level - 1), log_q(level)
        below = model.nodes[f"z{level - 1}"]["fn"].log_prob(z[level - 1])
        yield "step", level, chain.model.step(z[level], level).log_prob(z[level - 1]), below
