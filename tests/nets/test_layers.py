import pytest
import torch
from torch import nn

from pyro_vae.nets import ACTIVATIONS, MLP, ConvDecoder, ConvEncoder, OneHot, Standardize, start_at

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 5, 9)]

NETS = {
    "mlp": lambda: MLP(12, 7, (20, 9), "gelu"),
    "linear": lambda: MLP(12, 7, ()),
    "conv encoder": lambda: ConvEncoder((1, 3, 4), 7, (4, 6), hidden=10),
    "residual encoder": lambda: ConvEncoder((3, 2, 2), 7, (4,), blocks=2, hidden=10, activation="silu"),
    "encoder with extras": lambda: ConvEncoder((1, 2, 4), 7, (4,), hidden=10, extra=4),
    "conv decoder": lambda: ConvDecoder(12, (1, 3, 5), channels=(4, 6), hidden=10),
    "residual decoder": lambda: ConvDecoder(12, (3, 4, 2), 48, (6,), blocks=1, hidden=10),
}


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return NETS[request.param]().double()


@pytest.mark.parametrize("lead", [(), (5,), (3, 5), (3, 1, 5), (0,)])
def test_leading_dimensions(net, lead):
    x = torch.randn(*lead, 12, dtype=torch.float64)
    y = net(x)
    assert y.shape == (*lead, net.outputs)
    assert y.dtype == torch.float64
    each = [net(row) for row in x.reshape(-1, 12)]
    if each:
        torch.testing.assert_close(y.reshape(-1, net.outputs), torch.stack(each))


def test_starts_near_a_bias(net):
    bias = torch.linspace(-3, 3, net.outputs, dtype=torch.float64)
    x = torch.randn(50, 12, dtype=torch.float64)
    spread = net(x).std(0).mean()
    start_at(net, bias, shrink=0.1)
    y = net(x)
    assert (y.mean(0) - bias).abs().max() < 0.5
    torch.testing.assert_close(y.std(0).mean(), 0.1 * spread)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("blocks", [0, 2])
def test_a_deep_net_passes_its_input_on(activation, blocks):
    """Inputs of size 1 give outputs whose spread is of the order of 1, however deep the net."""
    torch.manual_seed(0)
    x = torch.randn(200, 64)
    for net in (
        MLP(64, 64, (64,) * 3, activation),
        ConvEncoder((1, 8, 8), 64, (8, 8, 8), blocks=blocks, activation=activation),
        ConvDecoder(64, (1, 8, 8), channels=(8, 8, 8), blocks=blocks, activation=activation),
    ):
        assert 0.02 < net(x).std(0).mean() < 5


def test_every_parameter_gets_a_gradient(net):
    net(torch.randn(5, 12, dtype=torch.float64)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_datum_does_not_depend_on_its_neighbours(net):
    x = torch.randn(6, 12, dtype=torch.float64)
    torch.testing.assert_close(net(x)[2], net(x[2:3])[0])


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("blocks", [0, 1])
def test_any_image_size(image, blocks):
    pixels = image[0] * image[1] * image[2]
    code = ConvEncoder(image, 4, (4, 8, 8), blocks=blocks, hidden=16)(torch.randn(2, 3, pixels))
    assert code.shape == (2, 3, 4)
    assert ConvDecoder(4, image, 2 * pixels, (8, 8, 4), blocks=blocks, hidden=16)(code).shape == (
        2,
        3,
        2 * pixels,
    )


def test_decoder_lays_out_channels_then_kinds():
    """With all weights 0 the output is the bias, so a bias on one kind and channel must land there."""
    decoder = ConvDecoder(3, (2, 4, 4), 2 * 32, (4,))
    start_at(decoder, torch.arange(64.0), shrink=0)
    torch.testing.assert_close(decoder(torch.randn(5, 3)), torch.arange(64.0).expand(5, 64))


@pytest.mark.parametrize(("name", "width"), [("mlp", 9), ("conv encoder", 10), ("linear", 12)])
def test_features(name, width):
    assert NETS[name]().features(torch.randn(4, 2, 12)).shape == (4, 2, width)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    assert MLP(3, 2, (5,), name)(torch.randn(4, 3)).shape == (4, 2)


def test_start_of_ordinary_modules():
    bias = torch.tensor([1.0, 2.0])
    sequential = nn.Sequential(Standardize(torch.zeros(3), torch.ones(3)), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    start_at(sequential, bias, shrink=0)
    torch.testing.assert_close(sequential(torch.randn(3)), bias)
    nested = nn.Sequential(nn.Identity(), MLP(3, 2, (4,)))
    start_at(nested, bias, shrink=0)
    torch.testing.assert_close(nested(torch.randn(3)), bias)
    unbiased = nn.Linear(3, 2, bias=False)
    start_at(unbiased, bias, shrink=0)
    torch.testing.assert_close(unbiased(torch.randn(3)), bias)


def test_standardize():
    x = torch.randn(500, 4, dtype=torch.float64) * torch.tensor([1.0, 100.0, 50.0, 0.0]) + 3
    layer = Standardize(x.mean(0), x.std(0))
    y = layer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.std(0)[1:3], torch.ones(2, dtype=torch.float64))
    assert layer(torch.full((4,), 1e3, dtype=torch.float64)).abs().max() < 1000  # a constant feature stays tame
    assert Standardize(torch.zeros(2), torch.zeros(2))(torch.ones(2)).tolist() == [1, 1]
    assert not list(layer.parameters())
    assert set(layer.state_dict()) == {"mean", "std"}


def test_one_hot():
    embed = OneHot(4)
    y = torch.tensor([[0, 3], [2, 2]])
    torch.testing.assert_close(embed(y), nn.functional.one_hot(y, 4).float())
    assert embed.double()(y).dtype == torch.float64
    for label in (4, -1):
        with pytest.raises(IndexError):
            embed(torch.tensor([0, label]))


def test_messages():
    with pytest.raises(ValueError, match=r"activation must be one of tanh, relu"):
        MLP(3, 2, activation="sine")
    with pytest.raises(ValueError, match=r"MLP was built for 3 inputs and got a tensor of shape \(5, 4\)"):
        MLP(3, 2)(torch.zeros(5, 4))
    with pytest.raises(
        ValueError, match=r"an image shape is \(channels, height, width\), all positive, and got \(28, 28\)"
    ):
        ConvEncoder((28, 28), 3)
    with pytest.raises(ValueError, match="a convolutional net needs at least one entry in channels"):
        ConvDecoder(3, (1, 4, 4), channels=())
    with pytest.raises(ValueError, match=r"images \(1, 4, 4\) has a multiple of 16 outputs, not 20"):
        ConvDecoder(3, (1, 4, 4), 20)
    with pytest.raises(ValueError, match=r"a start of shape \(3,\) does not fit a net of 2 outputs"):
        start_at(MLP(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"a start of shape \(3,\) does not fit a net of 16 outputs"):
        start_at(ConvDecoder(3, (1, 4, 4)), torch.zeros(3))
    with pytest.raises(TypeError, match=r"Tanh has neither a method start_at\(bias, shrink\) nor an nn.Linear layer"):
        start_at(nn.Tanh(), torch.zeros(3))
    with pytest.raises(TypeError, match=r"class labels must be whole numbers, and y holds torch.float32"):
        OneHot(3)(torch.zeros(2))
