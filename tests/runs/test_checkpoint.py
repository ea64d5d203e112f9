"""Checkpoints: what is saved is what is loaded, whole or not at all, and random states come back."""

import os
import random

import numpy as np
import pytest
import torch
from faults.trying import equal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_vae.runs import checkpoint
from pyro_vae.runs.checkpoint import CheckpointError

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    bits = draw(st.binary(min_size=8, max_size=8))
    kind = draw(st.sampled_from(DTYPES))
    values = torch.Generator().manual_seed(int.from_bytes(bits, "little") >> 1)
    tensor = torch.randn(shape, generator=values, dtype=torch.float64).to(kind)
    return draw(
        st.sampled_from(
            [tensor, tensor.t() if tensor.dim() == 2 else tensor, tensor[..., :1] if tensor.dim() else tensor]
        )
    )


plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20)
nests = st.recursive(
    plain | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(state=st.dictionaries(st.text(max_size=8).filter(lambda name: name != "format"), nests, max_size=5))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_is_what_is_loaded(tmp_path, state):
    path = tmp_path / "state.ckpt"
    checkpoint.save(path, state)
    equal(checkpoint.load(path), {"format": 1, **state}, "state")
    equal(torch.load(path, weights_only=True), {"format": 1, **state}, "torch.load")
    assert os.listdir(tmp_path) == ["state.ckpt"]


def test_a_state_of_optimizers_and_generators_is_loaded(tmp_path):
    net = torch.nn.Linear(3, 2)
    for kind in (torch.optim.Adam, torch.optim.SGD, torch.optim.Adamax):
        optimizer = kind(net.parameters(), lr=0.1)
        net(torch.ones(3)).sum().backward()
        optimizer.step()
        state = {"optimizer": optimizer.state_dict(), "random": checkpoint.random_state()}
        checkpoint.save(tmp_path / "state.ckpt", state)
        equal(checkpoint.load(tmp_path / "state.ckpt"), {"format": 1, **state}, "state")


def test_random_states_come_back():
    with checkpoint.seeded(3):
        checkpoint_state = checkpoint.random_state()
        first = torch.rand(3), np.random.rand(3), random.random(), np.random.randn()
        checkpoint.set_random_state(checkpoint_state)
        second = torch.rand(3), np.random.rand(3), random.random(), np.random.randn()
    assert torch.equal(first[0], second[0])
    assert (first[1] == second[1]).all()
    assert first[2:] == second[2:]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "state.ckpt"
    checkpoint.save(path, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match="No space left"):
                checkpoint.save(path, {"step": 2})
        assert checkpoint.load(path)["step"] == 1
        assert os.listdir(tmp_path) == ["state.ckpt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1], "is not a complete checkpoint"),
        (lambda content: b"", "is not a complete checkpoint"),
        (lambda content: content[:50] + bytes([content[50] ^ 4]) + content[51:], "does not match its checksum"),
    ],
)
def test_damage_is_named(tmp_path, change, said):
    path = tmp_path / "state.ckpt"
    checkpoint.save(path, {"step": 1})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(path)


def test_another_format_and_a_missing_file_are_named(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="does not exist; the run may not have reached its first checkpoint"):
        checkpoint.load(tmp_path / "state.ckpt")
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(tmp_path / "state.ckpt", {})
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="has format 2 and this version of pyro_vae reads format 1"):
        checkpoint.load(tmp_path / "state.ckpt")
