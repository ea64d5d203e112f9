"""Checks of a pair's numbers: supports, finite densities, and a gradient for every parameter."""

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.program.contract import Look, Problem, first_line
from pyro_vae.program.declaration import declared
from pyro_vae.program.sites import innermost, samples


def supports(look: Look) -> Iterator[Problem]:
    """Draws and data must lie in the supports of the distributions that judge them."""
    _, model = look.traces()
    for name, site in samples(model).items():
        value, fn = site["value"], site["fn"]
        if value.is_floating_point() and not value.isfinite().all():
            problem = f"the draws of {look.guide_name} at site {name!r} are not all finite"
            yield Problem(name, problem, "Keep its loc and scale finite")
            continue
        try:
            valid = fn.support.check(value)
        except NotImplementedError:
            continue
        if valid.all():
            continue
        low, high = value.min().item(), value.max().item()
        family = type(innermost(fn)).__name__
        if site["is_observed"]:
            yield Problem(
                name,
                f"site {name!r} has values from {low:.4g} to {high:.4g} ({_example(value, valid, fn)}) "
                f"outside the support of its likelihood {family}",
                _remedy(value, family),
            )
        else:
            yield Problem(
                name,
                f"{look.guide_name} draws values from {low:.4g} to {high:.4g} at site {name!r}, outside the "
                f"support of its prior {family}",
                "Use a guide distribution with the prior's support",
            )


def finite(look: Look) -> Iterator[Problem]:
    """Every log-probability must be finite, where the objective needs them."""
    if "density" not in declared(look.pair.objective).needs:
        return
    guide, model = look.traces()
    for trace, who in ((guide, look.guide_name), (model, look.model_name)):
        for name, site in samples(trace).items():
            try:
                with pyro.validation_enabled(False):
                    log_prob = site["fn"].log_prob(site["value"])
            except NotImplementedError as error:
                kind, needs = type(innermost(site["fn"])).__name__, type(look.pair.objective).__name__
                yield Problem(
                    name,
                    f"site {name!r} of {who} is a {kind}, which has no log-probability "
                    f"({first_line(error)}), and {needs} needs it",
                    "Use the objective Adversarial with a critic for a guide, or a distribution with a log_prob",
                )
                continue
            odd = log_prob[~log_prob.isfinite()]
            if len(odd):
                yield Problem(
                    name,
                    f"the log-probability of site {name!r} of {who} is {odd[0].item()} for {len(odd)} of "
                    f"{log_prob.numel()} values",
                    "Keep its scale away from 0 and its parameters finite, or rescale the data",
                )


def validates(look: Look) -> Iterator[Problem]:
    """The pair must pass Pyro's own validation."""
    try:
        look.traces(validate=True)
    except Exception as error:
        yield Problem(
            "",
            f"the pair does not pass Pyro's validation: {first_line(error)}",
            "Correct the distribution's arguments",
        )


def gradients(look: Look) -> Iterator[Problem]:
    """Every parameter must get a gradient, and the loss be finite."""
    pair = look.pair
    parameters = pair.named_parameters()
    before = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    try:
        loss = _loss_and_grads(look)
        total = sum(float(part) for part in loss) if isinstance(loss, tuple) else float(loss)
        if total - total != 0:
            yield Problem(
                "",
                f"the loss of {type(pair.objective).__name__} is {total}",
                "Start from parameters that give a finite ELBO",
            )
        idle = _idle(look)
        for name, p in parameters.items():
            if p.grad is None and id(p) not in idle:
                yield Problem(
                    name,
                    f"no gradient reaches the parameter {name!r} {tuple(p.shape)}",
                    "Use it in the program, remove it, or set requires_grad=False",
                )
        yield from _unregistered(look, parameters)
    except Exception as error:
        yield Problem(
            "",
            f"{type(pair.objective).__name__} fails on the pair: {first_line(error)}",
            "Use an objective that suits its sites",
        )
    finally:
        for name, p in parameters.items():
            p.grad = before[name]


def _loss_and_grads(look: Look) -> Any:
    """Return the loss; gradients are taken as in training, also of nets without ``pyro.module``."""
    objective, programs = look.pair.objective, (look.pair.bound_model, look.pair.bound_guide)
    announced = any(site["type"] == "param" for trace in look.structure for site in trace.nodes.values())
    if announced or not hasattr(objective, "differentiable_loss"):
        return objective.loss_and_grads(*programs, look.batch)
    loss = objective.differentiable_loss(*programs, look.batch)
    if torch.is_tensor(loss) and loss.requires_grad:
        loss.backward()
        return loss.detach()
    return loss


def _idle(look: Look) -> set[int]:
    """Return the parameters of nets that a program can reach and does not use.

    They are not called, not announced, and get no gradient. A function's globals and an object's
    attributes may hold such nets; in a program that is a module itself they are a mistake.
    """
    bounds = (look.pair.bound_model, look.pair.bound_guide)
    announced = {id(tensor) for bound in bounds for tensor in bound.store["params"].values()}
    idle: set[int] = set()
    for name, module in look.pair.modules().items():
        parameters = list(module.parameters())
        busy = any(id(part) in look.ran for part in module.modules())
        busy |= any(p.grad is not None or id(p) in announced for p in parameters)
        if name not in ("model", "guide") and not busy:
            idle |= {id(p) for p in parameters}
    return idle


def _unregistered(look: Look, parameters: dict[str, Any]) -> Iterator[Problem]:
    """Find trainable tensors that the log-probabilities depend on and no optimizer would be given."""
    known = {id(p) for p in parameters.values()}
    for trace in look.traces():
        for name, site in samples(trace).items():
            for leaf in _leaves(_carrier(site)):
                if id(leaf) not in known:
                    known.add(id(leaf))
                    yield Problem(
                        name,
                        f"site {name!r} depends on a trainable tensor {tuple(leaf.shape)} that neither model "
                        "nor guide registers, so it would never be trained",
                        "Make it an nn.Parameter of a module, or register it with pyro.param",
                    )


def _carrier(site: dict) -> Tensor:
    """Return what carries a site's dependence on parameters: its log-probability, or a draw of it
    where there is none.
    """
    try:
        return site["fn"].log_prob(site["value"])
    except NotImplementedError:
        return site["fn"]()


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    todo, seen = [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo.extend(parent for parent, _ in node.next_functions)


def _example(value: Tensor, valid: Tensor, fn: Any) -> str:
    rows = value.reshape(-1, *fn.event_shape)[~valid.reshape(-1)] if valid.dim() < value.dim() else value[~valid]
    flat = rows.reshape(-1)
    odd = flat[(flat != 0) & (flat != 1)]
    return f"such as {(odd if len(odd) else flat)[0].item():.4g}"


def _remedy(value: Tensor, family: str) -> str:
    unit = bool(((value >= 0) & (value <= 1)).all())
    if family == "Bernoulli" and unit:
        return (
            "Binarize the data (--binarize dynamic or static), or use a likelihood for grey values "
            "(--likelihood normal)"
        )
    if unit:
        return "Use a likelihood with these values in its support (--likelihood normal)"
    return "Rescale the data to the likelihood's support, or use one for real values (--likelihood normal)"
