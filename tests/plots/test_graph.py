"""The drawn graphical model: plates hold what belongs to them and nothing else, and no words lie over a node."""

import itertools

import pytest
import torch
from zoo import ROWS

from pyro_vae.plots.graphical_model import Box, _extent, _frames, _half, _layout
from pyro_vae.program import Node, structure


def node(name, parents=(), plates=("data",), kind="latent", distribution="Normal"):
    return Node(name, kind, parents, distribution, (10,), plates)


def inside(inner: Box, outer: Box) -> bool:
    return outer.left < inner.left and inner.right < outer.right and outer.low < inner.low and inner.high < outer.high


def check(nodes):
    at = _layout(nodes)
    frames = _frames(nodes, at)
    boxes = {one.name: _extent(one, at[one.name]) for one in nodes}
    for one, other in itertools.combinations(boxes, 2):
        assert not boxes[one].meets(boxes[other]), (one, other)
    members = {plate: {one.name for one in nodes if plate in one.plates} for plate in frames}
    for plate, frame in frames.items():
        for name, box in boxes.items():
            assert inside(box, frame) if name in members[plate] else not box.meets(frame), (plate, name)
    for one, other in itertools.permutations(frames, 2):
        if members[one] < members[other]:
            assert inside(frames[one], frames[other])
            assert frames[one].low - frames[other].low > 0.15  # room for the outer one's name


def test_items_lie_within_their_datum():
    items = ("data", "items")
    check([node("v"), node("w", plates=items), node("x", ("v", "w"), items, "observed")])
    check([node("x", kind="given"), node("mask", kind="given"), node("v", ("x", "mask")), node("w", ("x", "v"), items)])
    equal = [node("w", plates=items), node("x", ("w",), items)]
    frames = _frames(equal, _layout(equal))
    assert inside(frames["items"], frames["data"])


def test_long_names_fit_their_nodes_and_long_words_find_room():
    nodes = [
        node("y", distribution="OneHotCategorical"),
        node("z"),
        node("classification", ("y", "z"), kind="observed"),
    ]
    check(nodes)
    assert _half(nodes[2])[0] > 2 * _half(nodes[0])[0]


@pytest.mark.parametrize("name", ["grouped", "semi_supervised", "hierarchical", "mixture"])
def test_pairs_of_the_zoo_are_drawn_without_overlaps(name):
    row = next(row for key, row in ROWS.items() if key.startswith(name))
    torch.manual_seed(0)
    pair = row.build()
    for program in (pair.bound_model, pair.bound_guide):
        check(structure(pair, program, row.batch(3)))
