"""A pair as a module: for other loops, wrappers and exports."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.nn.parallel import DistributedDataParallel

import pyro_vae as pv
from pyro_vae.program import PairError
from pyro_vae.runs import seeded


@pytest.fixture(scope="module")
def digits():
    return pv.load_data("digits")


def built(name, data, **options):
    torch.manual_seed(0)
    return pv.pairs.PAIRS[name](data.spec, **options)


def test_the_loss_is_minus_the_elbo_and_the_parameters_are_the_pairs(digits):
    pair = built("latent", digits, latent=3, hidden=[8])
    module, batch = pair.module(), digits.batch("train", 32)
    with seeded(1):
        loss = module(batch)
    with seeded(1):
        expected = Trace_ELBO().loss(pair.bound_model, pair.bound_guide, batch) / 32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    own = pair.named_parameters()
    assert {name: id(p) for name, p in module.named_parameters()} == {name: id(p) for name, p in own.items()}
    assert module.state_dict().keys() >= pair.state_dict().keys()


def test_other_loops_train_the_pair(digits):
    pair = built("latent", digits, latent=3, hidden=[32])
    before = pv.elbo(pair, digits.batch("valid")).elbo
    module = pair.module().train()
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 22)
    for epoch in range(2):
        for step, batch in enumerate(digits.epoch(epoch, 64, seed=0)):
            (module(batch) / 2).backward()
            if step % 2:  # gradients of two batches
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                average.update_parameters(module)
    after = pv.elbo(pair, digits.batch("valid")).elbo
    averaged = pv.elbo(average.module.pair, digits.batch("valid")).elbo
    assert after > before + 5
    assert averaged > before + 2
    assert averaged != after


def test_processes_can_wrap_it(digits, tmp_path):
    module = built("latent", digits, latent=2, hidden=[8]).module()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        DistributedDataParallel(module)(digits.batch("train", 8)).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for p in module.parameters())


def model(net, x):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(net(x.new_zeros(len(x), 1)) + shared, scale).to_event(1), obs=x)


def guide(x):
    pyro.sample("shared", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 0.1))


def test_what_all_data_share_counts_once_for_all(digits):
    pair = pv.Pair(functools.partial(model, torch.nn.Linear(1, 2)), guide)
    batch = {"x": torch.randn(6, 2)}
    pair.bound_guide(batch), pair.bound_model(batch)
    names = dict(pair.module(num_data=6).named_parameters())
    assert names.keys() == pair.named_parameters().keys() >= {"param.scale", "param.loc"}
    with pytest.raises(PairError, match=r"all data share shared, .* give module\(num_data=...\)"):
        pair.module()(batch)
    with seeded(0):
        whole = pair.module(num_data=6)(batch)
    with seeded(0):
        assert whole.item() == pytest.approx(Trace_ELBO().loss(pair.bound_model, pair.bound_guide, batch) / 6, rel=1e-5)


def test_a_pair_with_an_algorithm_of_its_own_has_no_loss(digits):
    pair = built("latent", digits, latent=2, hidden=[8])
    with pytest.raises(PairError, match="algorithm of its own"):
        pv.Pair(pair.model, pair.guide, stepper=object).module()


@pytest.mark.parametrize(
    ("name", "options", "given"),
    [
        ("conditional", {}, {"y": 3}),
        *(
            pytest.param(name, options, {}, marks=pytest.mark.slow)
            for name, options in (("latent", {}), ("hierarchical", {}), ("grouped", {"items": 4}))
        ),
    ],
)
def test_the_decoder_is_exported_for_any_number_of_codes(digits, name, options, given):
    pair = built(name, digits, hidden=[8], **options)
    decoder, z = pair.decoder(**given), torch.randn(5, sum(pair.decoder(**given).sizes.values()))
    assert torch.allclose(decoder(z), pair.decode(z, **given), atol=1e-6)
    size = torch.export.Dim("size")
    exported = torch.export.export(decoder, (z,), dynamic_shapes=({0: size},), strict=False)
    more = torch.randn(7, z.shape[1])
    assert torch.allclose(exported.module()(more), pair.decode(more, **given), atol=1e-6)


def no_parameters(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1), obs=x)


def test_parameters_have_to_be_there():
    pair = pv.Pair(no_parameters, lambda x: None)
    with pytest.raises(PairError, match="has no parameters before its programs have run"):
        pair.module()


def test_the_decoder_needs_what_the_model_is_given(digits):
    with pytest.raises(PairError, match="decoder needs y"):
        built("conditional", digits, latent=2, hidden=[8]).decoder()
    with pytest.raises(PairError, match="so there is no z to decode"):
        built("mixture", digits, components=2).decoder()
