"""Masked nets see what stands before a feature, all of it, and nothing else; their steps are their pass."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from pyro_vae.nets import MaskedMLP, PixelCNN, pixel_distance, raster
from pyro_vae.nets.masked import shares
from pyro_vae.nets.masked_convolution import _radii

IMAGE = (1, 5, 4)
COLOUR = (3, 3, 3)
RANDOM = torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])


def shaken(net: nn.Module) -> nn.Module:
    """Give every parameter a value: last layers and direct connections begin at or near 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net.double()


def made(order: Tensor = RANDOM, kinds: int = 1, hidden: tuple[int, ...] = (20,), **options: object) -> nn.Module:
    return shaken(MaskedMLP(order, kinds, hidden, "silu", **options))


def cnn(image: tuple[int, int, int] = IMAGE, kinds: int = 1, **options: object) -> nn.Module:
    return shaken(PixelCNN(image, kinds, (6, 6, 9), "silu", **options))


def reads(net: nn.Module) -> Tensor:
    """Return whether what is said of a feature (row) depends on a feature (column), over several data and kinds."""
    found = torch.zeros(net.inputs, net.inputs, dtype=torch.bool)
    for x in torch.randn(5, net.inputs, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(net, x)
        found |= (jacobian.unflatten(0, (net.kinds, -1)) != 0).any(0)
    return found


def places(net: nn.Module) -> Tensor:
    place = torch.empty_like(net.order)
    place[net.order] = torch.arange(len(net.order))
    return place


NETS = {
    "made": lambda: made(),
    "made, kinds": lambda: made(kinds=3),
    "made, two layers": lambda: made(hidden=(20, 9)),
    "made, few units": lambda: made(hidden=(3, 2)),
    "made, one layer": lambda: made(hidden=()),
    "made, one feature": lambda: made(torch.tensor([0]), hidden=(3,)),
    "made, two features": lambda: made(torch.tensor([1, 0]), hidden=(3, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_made_reads_all_that_stands_before_and_nothing_else(name: str) -> None:
    net = NETS[name]()
    place = places(net)
    assert torch.equal(reads(net), place < place.unsqueeze(-1))


@pytest.mark.parametrize("hidden", [(20,), (9, 7), (2,)])
@pytest.mark.parametrize("field", [1, 2, 3, 7])
def test_a_field_limits_a_made_in_places_of_the_order(hidden: tuple[int, ...], field: int) -> None:
    net = made(hidden=hidden, field=field)
    back = places(net).unsqueeze(-1) - places(net)
    assert torch.equal(reads(net), (back > 0) & (back <= field))


@pytest.mark.parametrize("image", [IMAGE, COLOUR])
@pytest.mark.parametrize("field", [1, 2, 9])
def test_a_field_limits_a_made_in_pixels_of_an_image(image: tuple[int, int, int], field: int) -> None:
    distance = pixel_distance(image)
    net = made(raster(image), hidden=(60, 60), distance=distance, field=field)
    place = places(net)
    assert torch.equal(reads(net), (place < place.unsqueeze(-1)) & (distance <= field))


@pytest.mark.parametrize("image", [IMAGE, COLOUR])
@pytest.mark.parametrize("field", [None, 1, 2, 3, 6])
def test_a_pixelcnn_reads_nothing_behind_or_beyond_its_field(image: tuple[int, int, int], field: int | None) -> None:
    net = cnn(image, kinds=2, field=field)
    place, distance = places(net), pixel_distance(image)
    seen = reads(net)
    allowed = (place < place.unsqueeze(-1)) & (distance <= (5 if field is None else field))
    assert not (seen & ~allowed).any()
    # the blind spot of plain masked convolutions lies to the right in the rows above, and nowhere else
    column = torch.arange(image[2]).repeat(image[0] * image[1])
    assert seen[allowed & (column <= column.unsqueeze(-1))].all()
    assert (field or 5) == net.reach


def test_a_colour_is_drawn_channel_after_channel() -> None:
    assert raster((3, 1, 2)).tolist() == [0, 2, 4, 1, 3, 5]
    seen = reads(cnn((3, 1, 2)))
    assert seen[2, 0]
    assert seen[4, 2]
    assert not seen[0].any()
    assert seen[1, [0, 2, 4]].all()


@pytest.mark.parametrize("hidden", [(500,), (300, 100)])
def test_no_feature_lacks_a_path_in_the_masks_of_many_features(hidden: tuple[int, ...]) -> None:
    """The hidden units alone leave 283 of 306,936 pairs without a path; the direct connections do not."""
    net = MaskedMLP(torch.arange(784), 1, hidden)
    paths = torch.eye(784)
    for layer in [*net.hidden, net.last]:
        paths = (layer.mask @ paths).clamp(max=1)
    below = torch.ones(784, 784).tril(-1)
    assert not (paths * (1 - below)).any()
    assert torch.equal((paths + net.direct.mask).clamp(max=1), below)


def test_at_first_the_net_says_little() -> None:
    for net in (MaskedMLP(torch.arange(64), 2), PixelCNN((1, 8, 8), 2)):
        said = net((torch.rand(50, 64) < 0.5).float())
        assert 0 < said.std() < 0.3


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize(
    "make",
    [*NETS.values(), lambda: cnn(kinds=2), lambda: cnn(COLOUR, kinds=2), lambda: cnn(COLOUR, field=1)],
)
def test_the_steps_say_what_the_pass_says(make: object, lead: tuple[int, ...]) -> None:
    net = make()
    torch.manual_seed(2)
    x, drawn = torch.randn(*lead, net.inputs, dtype=torch.float64), torch.zeros(*lead, net.inputs, dtype=torch.float64)
    whole = net(x).unflatten(-1, (net.kinds, -1))
    with torch.no_grad():
        for feature, said in zip(net.order.tolist(), net.steps(drawn), strict=True):
            torch.testing.assert_close(said, whole[..., feature], rtol=1e-12, atol=1e-12)
            drawn[..., feature] = x[..., feature]


def test_the_field_is_shared_out_among_the_layers() -> None:
    for field, layers in product(range(1, 12), range(1, 7)):
        for radii in (shares(field, layers), _radii(field, layers)):
            assert sum(radii) == field
            assert len(radii) == layers
            assert radii[0] >= 1
    assert shares(None, 2) == [None, None]
    assert _radii(7, 5) == [3, 1, 1, 1, 1]


@pytest.mark.parametrize("order", [[0, 1, 1], [1, 2, 3], [-1, 0, 1]])
def test_an_order_is_a_permutation(order: list[int]) -> None:
    with pytest.raises(ValueError, match="names each from 0 to 2 once, and this one lacks"):
        MaskedMLP(torch.tensor(order))


def test_a_pixelcnn_has_a_layer() -> None:
    for hidden in ((), (2,)):
        with pytest.raises(ValueError, match="at least one layer of at least 3 channels"):
            PixelCNN(COLOUR, 1, hidden)
