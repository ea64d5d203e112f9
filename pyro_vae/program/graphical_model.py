"""The graphical model of a program, found by running it once: its sites and what they depend on."""

from typing import Any, NamedTuple

import torch
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.program.pair import Batch, BatchProgram, Pair
from pyro_vae.program.sites import WRAPPERS, innermost, is_site
from pyro_vae.program.tracing import trace_of
from pyro_vae.program.weights import evaluation


class Node(NamedTuple):
    """One random variable of a program, or one field of the batch that a distribution is computed
    from.
    """

    name: str
    kind: str
    """"latent", "observed", "auxiliary" (the guide's own), or "given" (a field that is no random
    variable).
    """
    parents: tuple[str, ...]
    distribution: str
    """Name of the family, such as "Normal"; empty for a field."""
    size: tuple[int, ...]
    """Event shape: what one datum has."""
    plates: tuple[str, ...]
    """Names of the plates around it, from the outside in."""


def structure(pair: Pair, program: BatchProgram, batch: Batch) -> list[Node]:
    """Return the nodes of the pair's model or guide: the fields that it reads first, then its sites
    in their order.

    Parents are direct: values that reach a distribution through no other site. What the program
    reads only to learn the batch's size, or only to observe, is no parent. Values that leave torch
    on their way (NumPy, ``.item()``) are not followed.
    """
    fields = {name: value for name, value in batch.items() if value.numel()}
    tracked = {name: ProvenanceTensor(value, frozenset({_field(name)})) for name, value in fields.items()}
    with evaluation(pair, 0), _Track() as track, torch.no_grad():
        ran = trace_of(program, {**batch, **tracked})
    sites = {name: site for name, site in ran.nodes.items() if is_site(site)}
    parents = {name: track.parents[name] - {name} for name in sites}
    given = [name for name in fields if any(_field(name) in found for found in parents.values())]
    # what a field and a site share is one thing when the site observes that field: y ~ p(y), x ~ p(x | y)
    merged = {_field(name) for name in given if name in sites}
    nodes = [
        Node(name, "given", (), "", tuple(batch[name].shape[1:]), (pair.data_plate,))
        for name in given
        if _field(name) not in merged
    ]
    order = {node.name: i for i, node in enumerate(nodes)} | {name: len(nodes) + i for i, name in enumerate(sites)}
    for name, site in sites.items():
        names = {parent.removeprefix("field ") for parent in parents[name]} - {name}
        # a later site is no parent: it is the field of its name that this site looks at, as a label where there is one
        names -= {other for other in names if order.get(other, 0) > order[name]}
        nodes.append(
            Node(
                name,
                _kind(site),
                tuple(sorted((n for n in names if n in order), key=order.__getitem__)),
                _family(site["fn"]),
                tuple(site["fn"].event_shape),
                tuple(frame.name for frame in sorted(site["cond_indep_stack"], key=lambda f: f.dim or 0)),
            )
        )
    return nodes


def descendants(nodes: list[Node], name: str) -> set[str]:
    """Return the names of all sites that depend on ``name``, directly or through others."""
    found = {name}
    while True:
        more = {node.name for node in nodes if found.intersection(node.parents)} - found
        if not more:
            return found - {name}
        found |= more


def _field(name: str) -> str:
    return f"field {name}"  # a space, so that no site has this name


class _Track(Messenger):
    """Marks values drawn at a site with its name; what they were computed from is in ``parents``."""

    def __enter__(self) -> "_Track":
        self.parents: dict[str, set[str]] = {}
        return super().__enter__()

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_site(msg):
            return
        # its own draw as it is, since some flows can invert no other; data without where they came from
        value = detach_provenance(msg["value"]) if msg["is_observed"] else msg["value"]
        try:
            read = msg["fn"].log_prob(value)
        except NotImplementedError:  # known by its draws alone
            read = msg["fn"].sample()
        self.parents[msg["name"]] = set(get_provenance(read))
        if isinstance(msg["value"], Tensor) and msg["value"].numel():
            msg["value"] = ProvenanceTensor(detach_provenance(msg["value"]), frozenset({msg["name"]}))


def _kind(site: Any) -> str:
    if site["is_observed"]:
        return "observed"
    return "auxiliary" if site["infer"].get("is_auxiliary") else "latent"


def _family(fn: Any) -> str:
    return type(innermost(fn, WRAPPERS)).__name__.lstrip("_")
