"""A masked net of labels reads the labels before a place, all of them, and nothing else."""

from itertools import product

import pytest
import torch

from pyro_vae.nets import MaskedLabels


def shaken(places: int, labels: int, hidden: tuple[int, ...]) -> MaskedLabels:
    torch.manual_seed(0)
    net = MaskedLabels(places, labels, width=3, hidden=hidden)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net.double()


@pytest.mark.parametrize("hidden", [(7,), (2, 5), ()])
def test_it_reads_every_label_before_a_place_and_no_other(hidden: tuple[int, ...]) -> None:
    net = shaken(4, 3, hidden)
    x = torch.randint(3, (20, 4))
    before = net(x).unflatten(-1, (3, 4))
    for place in range(4):
        other = x.clone()
        other[:, place] = (other[:, place] + 1) % 3
        moved = (net(other).unflatten(-1, (3, 4)) - before).abs().amax((0, 1)) > 1e-9
        assert moved.tolist() == [at > place for at in range(4)]


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_the_steps_say_what_the_pass_says(lead: tuple[int, ...]) -> None:
    net = shaken(4, 3, (9,))
    x, drawn = torch.randint(3, (*lead, 4)), torch.zeros(*lead, 4, dtype=torch.float64)
    whole = net(x).unflatten(-1, (3, 4))
    with torch.no_grad():
        for place, said in zip(net.order.tolist(), net.steps(drawn), strict=True):
            torch.testing.assert_close(said, whole[..., place], rtol=1e-12, atol=1e-12)
            drawn[..., place] = x[..., place].double()


def test_at_first_it_says_little() -> None:
    said = MaskedLabels(16, 32)(torch.randint(32, (50, 16)))
    assert 0 < said.std() < 0.3


def test_a_single_place_has_nothing_to_read() -> None:
    net = shaken(1, 3, (4,))
    every = net(torch.tensor(list(product(range(3), repeat=1))))
    assert torch.equal(every, every[:1].expand_as(every))
