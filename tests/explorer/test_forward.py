"""A page's arithmetic is torch's: every operation and every kind of decoder, computed by a browser."""

import json
import re
from pathlib import Path

import pytest
import torch
from browser import browser, in_browser
from torch.nn import functional as F
from zoo import batch, spec

import pyro_vae as pv
from pyro_vae import explorer
from pyro_vae.explorer.contents import _inputs, _mean, packed
from pyro_vae.explorer.controls import controls_of, levels_of
from pyro_vae.explorer.recording import record
from pyro_vae.program import PairError

FORWARD = (Path(explorer.__file__).parent / "forward.js").read_text()


def computed(cases, folder: Path) -> list[torch.Tensor]:
    """Return what a browser makes of recordings, each with its inputs."""
    told = [
        {
            "program": {"steps": recording.steps, "result": recording.result},
            "weights": torch.cat([*recording.constants, torch.zeros(1)]).tolist(),
            "inputs": {name: value.reshape(-1).tolist() for name, value in inputs.items()},
        }
        for recording, inputs in cases
    ]
    script = """
        const cases = JSON.parse(document.getElementById("cases").textContent);
        document.getElementById("out").textContent = JSON.stringify(cases.map(c =>
          Array.from(compile(c.program, Float32Array.from(c.weights))(c.inputs))));"""
    shown = f'<script type="application/json" id="cases">{json.dumps(told)}</script><pre id="out"></pre>'
    document = in_browser(f"<!doctype html>{shown}<script>{FORWARD}{script}</script>", folder)
    found = re.search(r'<pre id="out">(.*?)</pre>', document, re.DOTALL)
    return [torch.tensor(values, dtype=torch.float64) for values in json.loads(found[1])]


X = torch.linspace(-3, 3, 24).reshape(1, 2, 3, 4)
W = torch.linspace(-1, 1, 3 * 2 * 3 * 3).reshape(3, 2, 3, 3)
OPERATIONS = {
    "relu": F.relu,
    "leaky relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "steep softplus": lambda x: F.softplus(x, beta=9.0, threshold=5.0),
    "tanh": torch.tanh,
    "erf": torch.erf,
    "rounded": lambda x: (x * 2).round(),
    "arithmetic": lambda x: 2 - x / 3 + x**2 * (x + 1) - torch.maximum(x, x.flip(0) * 0.5),
    "add with alpha": lambda x: torch.add(x, x, alpha=-3),
    "trigonometry": lambda x: torch.sin(torch.atan(x)) + torch.cos(x),
    "exp and log": lambda x: torch.log1p(x.exp()) + torch.expm1(-x.abs()),
    "roots": lambda x: (x * x + 1).sqrt() + (x * x + 1).rsqrt() + (x * x + 1).reciprocal(),
    "where": lambda x: torch.where(x > 0.3, x, -x * 5),
    "logic": lambda x: ((x > 0) & ~(x >= 2)).float(),
    "clamp": lambda x: x.clamp(-1, 0.5) + x.clamp(min=0.1),
    "sums": lambda x: x.sum(1) + x.mean((1,)),
    "sum of all": lambda x: x.sum(),
    "largest": lambda x: x.amax((2, 3)),
    "logsumexp": lambda x: x.logsumexp(2),
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, (3, 4), torch.arange(12.0).reshape(3, 4), torch.ones(3, 4)),
    "permuted": lambda x: x.permute(3, 1, 0, 2).reshape(4, 6)[1:, ::2],
    "flipped": lambda x: torch.cat([x.flip(-1), x.transpose(2, 3).reshape(1, 2, 3, 4)], 1),
    "repeated": lambda x: x.repeat(1, 2, 1, 1).unfold(1, 2, 2),
    "stacked": lambda x: torch.stack([x, 2 * x], 2),
    "chunks": lambda x: torch.chunk(x, 2, 1)[1][:, :, :2] * x.split([1, 2], 2)[1],
    "unbound": lambda x: x.unbind(2)[1],
    "upsampled": lambda x: F.interpolate(x, scale_factor=2),
    "convolution": lambda x: F.conv2d(x, W, torch.ones(3), stride=(1, 2), padding=(1, 2), dilation=(1, 2)),
    "transposed convolution": lambda x: F.conv_transpose2d(
        x, W.transpose(0, 1), torch.ones(3), 2, padding=1, output_padding=1
    ),
    "products": lambda x: x.reshape(4, 6) @ torch.linspace(0, 1, 18).reshape(6, 3) + x.reshape(2, 2, 6)[:, 0, :3].sum(),
    "batched products": lambda x: torch.bmm(x[0].transpose(1, 2), x[0]),
    "a matrix and a vector": lambda x: x.reshape(4, 6) @ torch.arange(6.0),
    "a constant": lambda x: torch.ones(3),
}


@browser
def test_every_operation_is_torchs(tmp_path):
    cases = [(record(lambda given, op=op: op(given["x"]), {"x": X}), {"x": X}) for op in OPERATIONS.values()]
    for name, op, found in zip(OPERATIONS, OPERATIONS.values(), computed(cases, tmp_path), strict=True):
        expected = op(X).double().reshape(-1)
        assert found.shape == expected.shape, name
        assert (found - expected).abs().max() < 1e-5 * (1 + expected.abs().max()), name


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda given: given["x"].sort(-1).values, "no operation sort"),
        (lambda given: (given["x"] * 1).add_(1), "add_"),
        (lambda given: given["x"] * float(given["x"].sum()), "_local_scalar_dense"),
        (lambda given: given["x"].long().float(), "conversion to whole numbers"),
        (lambda given: torch.bernoulli(given["x"].sigmoid()), "bernoulli"),
        (lambda given: F.conv2d(given["x"], W[:2, :1], groups=2), "convolution in groups"),
    ],
)
def test_what_a_page_cannot_do_is_refused_by_name(fn, said):
    with pytest.raises(PairError, match=said):
        record(fn, {"x": X})


def test_a_class_by_its_number_may_be_one_hot():
    weight = torch.linspace(-1, 1, 8).reshape(4, 2)
    recording = record(lambda given: F.one_hot(given["y"], 4).float() @ weight, {"y": torch.zeros(1, dtype=torch.long)})
    rows = next(step for step in recording.steps if step["op"] == "rows")
    assert rows["width"] == 4
    assert any(torch.equal(constant, torch.eye(4).reshape(-1)) for constant in recording.constants)


def test_what_the_result_does_not_need_is_left_out():
    recording = record(lambda given: (given["x"].sort(-1), given["x"] * 2, torch.ones(2) * 5)[1], {"x": X})
    assert [step["op"] for step in recording.steps if step["op"] not in ("const", "take")] == ["input", "mul"]
    assert sum(map(len, recording.constants)) == X.numel()


PAIRS = [
    ("latent", {"hidden": [9, 7], "activation": name}, {})
    for name in ("silu", "relu", "gelu", "elu", "tanh", "softplus")
]
PAIRS += [
    ("latent", {"net": "conv"}, {}),
    ("latent", {"latent": 2, "likelihood": "normal-predicted", "prior": "mixture", "components": 3}, {}),
    ("latent", {"likelihood": "continuous-bernoulli"}, {"support": "unit"}),
    ("latent", {}, {"support": "binary"}),
    ("autoencoder", {"hidden": [8]}, {}),
    ("flow", {"hidden": [8]}, {}),
    ("linear", {"latent": 3}, {}),
    ("conditional", {"hidden": [8]}, {"classes": 3, "y": ()}),
    ("conditional", {"hidden": [8], "prior": "learned"}, {"y": (2,)}),
    ("attribute", {"hidden": [8]}, {"y": (2,)}),
    ("hierarchical", {"latent": [4, 3, 2], "hidden": [8]}, {}),
    ("semi_supervised", {"hidden": [8]}, {"classes": 3, "y": (), "labelled": ()}),
    ("mixture", {"components": 4}, {}),
]


def moved(name, options, fields):
    """Return a pair of the zoo away from where it begins, its data, and what a page can move."""
    described = spec(**fields)
    torch.manual_seed(0)
    pair = pv.pairs.PAIRS[name](described, **options)
    data = {key: value.float() if value.dtype == torch.float64 else value for key, value in batch(described, 2).items()}
    if fields.get("support") == "unit":
        data["x"] = data["x"].sigmoid()
    pv.check_pair(pair, data)
    with torch.no_grad():
        for parameter in pair.named_parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    controls = controls_of(pair, data, described)
    return pair, data, controls, levels_of(pair, data, controls, "x")


@pytest.mark.slow
@browser
def test_decoders_are_torchs_at_every_level(tmp_path):
    cases, expected, names = [], [], []
    for name, options, fields in PAIRS:
        pair, data, controls, levels = moved(name, options, fields)
        one = {key: value[:1] for key, value in data.items()}
        for level in levels:
            recording = record(
                lambda g, p=pair, o=one, c=controls, v=level: _mean(p, o, c, v, g), _inputs(controls, level)
            )
            given = {key: _somewhere(controls[key], value) for key, value in _inputs(controls, level).items()}
            with torch.no_grad():
                expected.append(_mean(pair, one, controls, level, given).double().reshape(-1))
            cases.append((recording, given))
            names.append(f"{name} {options} {level.name}")
    assert len(names) == len(PAIRS) + 2  # a hierarchy of three levels is moved in three ways
    for what, known, found in zip(names, expected, computed(cases, tmp_path), strict=True):
        assert (found - known).abs().max() < 1e-4 * max(1.0, float(known.abs().max())), what
    damaged, given = cases[0]
    next(constant for constant in damaged.constants if constant.abs().max() > 0.1)[0] += 1.0
    (found,) = computed([(damaged, given)], tmp_path)
    assert (found - expected[0]).abs().max() > 1e-2


def _somewhere(control, like):
    if control.kind == "vector":
        return torch.linspace(-1.3, 1.7, control.size)[None]
    return torch.eye(control.size)[[1]] if control.event else torch.ones_like(like)


def test_numbers_travel_as_little_endian_floats():
    assert packed(torch.tensor([1.0, -2.0])) == "AACAPwAAAMA="
    assert packed(torch.tensor([255], dtype=torch.uint8)) == "/w=="
