"""Pyro's best-known examples, in small, with the import changed: Pyro's losses, and replayed.

The programs are written as in Pyro's `examples/` and tutorials, with fewer units and data.
"""

import functools
import warnings
from argparse import Namespace
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as PyrosSVI
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from svi_scripts import Cases, agree, make
from torch import nn
from torch.distributions import constraints
from torch.nn import functional as F

CASES = Cases()
case = CASES.add
PIXELS = 16


def images(n: int = 6) -> torch.Tensor:
    return torch.rand(n, PIXELS).round()


def mlp(*sizes: int) -> nn.Sequential:
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Softplus())]
    return nn.Sequential(*layers[:-1])


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(PIXELS, 8, 4), mlp(2, 8, PIXELS)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = torch.zeros(x.shape[0], 2, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            loc_img = torch.sigmoid(self.decoder.forward(z))
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, PIXELS))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(z_loc, z_scale.exp()).to_event(1))


@case()
def vae(kind):
    v = Vae()
    svi = make(kind, v.model, v.guide)
    return [svi.step(images()) for _ in range(6)]


def joined(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], -1)


class SsVae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder_y, self.encoder_z, self.decoder = mlp(PIXELS, 8, 3), mlp(PIXELS + 3, 8, 4), mlp(5, 8, PIXELS)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        n = xs.size(0)
        with pyro.plate("data"):
            zs = pyro.sample("z", dist.Normal(xs.new_zeros([n, 2]), xs.new_ones([n, 2])).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(xs.new_ones([n, 3]) / 3.0), obs=ys)
            loc = torch.sigmoid(self.decoder(joined(zs, ys)))
            pyro.sample("x", dist.Bernoulli(loc).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(xs)))
            loc, scale = self.encoder_z(joined(xs, ys)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    def model_classify(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            if ys is not None:
                with poutine.scale(scale=46.0):
                    pyro.sample("y_aux", dist.OneHotCategorical(logits=self.encoder_y(xs)), obs=ys)

    def guide_classify(self, xs, ys=None):
        pass


@case()
def ss_vae_with_two_losses_and_one_optimizer(kind):
    one = SsVae()
    optimizer = pyro.optim.Adam({"lr": 0.01, "betas": (0.9, 0.999)})
    guide = config_enumerate(one.guide, "parallel", expand=True)
    options = {} if kind is PyrosSVI else {"compile": "recorded"}
    basic = kind(one.model, guide, optimizer, loss=TraceEnum_ELBO(max_plate_nesting=1), **options)
    aux = kind(one.model_classify, one.guide_classify, optimizer, loss=Trace_ELBO(), **options)
    make.last, losses = basic, []
    for i in range(10):
        labels = (F.one_hot(torch.randint(3, (6,)), 3).float(),) if i % 3 == 1 else ()
        x = images()
        losses += [basic.step(x, *labels), aux.step(x, *labels)]
    return losses


def batch_normed(*sizes: int) -> nn.Sequential:
    layers = [p for a, b in pairwise(sizes) for p in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Scanvi(nn.Module):
    def __init__(self):
        super().__init__()
        self.z2_decoder, self.x_decoder = batch_normed(5, 6, 4), batch_normed(2, 6, 2 * PIXELS)
        self.z2l_encoder, self.classifier = batch_normed(PIXELS, 6, 6), batch_normed(2, 6, 3)
        self.z1_encoder = batch_normed(5, 6, 4)

    @staticmethod
    def flat(net, t):
        return net(t.reshape(-1, t.size(-1))).reshape((*t.shape[:-1], -1))

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(PIXELS), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.01):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(2)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)), obs=y)
            loc, scale = self.flat(self.z2_decoder, joined(z1, y)).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, F.softplus(scale)).to_event(1))
            size = pyro.sample("l", dist.LogNormal(1.0, x.new_ones(1)).to_event(1))
            gate, mu = self.x_decoder(z2).chunk(2, -1)
            logits = (size * mu.softmax(-1) + 1e-6).log() - (theta + 1e-6).log()
            x_dist = dist.ZeroInflatedNegativeBinomial(gate_logits=gate, total_count=theta, logits=logits)
            pyro.sample("x", x_dist.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.01):
            h1, h2 = self.z2l_encoder(x).chunk(2, -1)
            pyro.sample("l", dist.LogNormal(h1[..., -1:], F.softplus(h2[..., -1:])).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(h1[..., :-1], F.softplus(h2[..., :-1])).to_event(1))
            y_dist = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", y_dist)
            else:
                pyro.factor("classification_loss", 0.1 * y_dist.log_prob(y), has_rsample=False)
            loc, scale = self.flat(self.z1_encoder, joined(z2, y)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(loc, F.softplus(scale)).to_event(1))


@case()
def scanvi(kind):
    warnings.filterwarnings("ignore", "TraceEnum_ELBO found no sample sites configured")
    one = Scanvi()
    guide = config_enumerate(one.guide, "parallel", expand=True)
    svi = make(kind, one.model, guide, TraceEnum_ELBO(max_plate_nesting=1))
    losses = []
    for i in range(10):
        y = F.one_hot(torch.randint(3, (6,)), 3).float() if i % 2 else None
        losses.append(svi.step(torch.poisson(torch.full((6, PIXELS), 2.0)), y))
    return losses


@case()
def lda(kind):
    args = Namespace(num_topics=3, num_words=8, num_docs=10, num_words_per_doc=5)
    predictor = nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3), nn.Softmax(-1))

    def model(data=None, args=None, batch_size=None):
        with pyro.plate("topics", args.num_topics):
            weights = pyro.sample("topic_weights", dist.Gamma(1.0 / args.num_topics, 1.0))
            words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(args.num_words) / args.num_words))
        with pyro.plate("documents", args.num_docs) as ind:
            if data is not None:
                assert data.shape == (args.num_words_per_doc, args.num_docs)
                data = data[:, ind]
            topics = pyro.sample("doc_topics", dist.Dirichlet(weights))
            with pyro.plate("words", args.num_words_per_doc):
                which = pyro.sample("word_topics", dist.Categorical(topics), infer={"enumerate": "parallel"})
                data = pyro.sample("doc_words", dist.Categorical(words[which]), obs=data)
        return data

    def parametrized_guide(predictor, data, args, batch_size=None):
        weights = pyro.param(
            "topic_weights_posterior", lambda: torch.ones(args.num_topics), constraint=constraints.positive
        )
        shape = args.num_topics, args.num_words
        words = pyro.param("topic_words_posterior", lambda: torch.ones(shape), constraint=constraints.greater_than(0.5))
        with pyro.plate("topics", args.num_topics):
            pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(words))
        pyro.module("predictor", predictor)
        with pyro.plate("documents", args.num_docs, batch_size) as ind:
            data = data[:, ind]
            counts = torch.zeros(args.num_words, ind.size(0)).scatter_add(0, data, torch.ones(data.shape))
            pyro.sample("doc_topics", dist.Delta(predictor(counts.transpose(0, 1)), event_dim=1))

    data = model(args=args)
    guide = functools.partial(parametrized_guide, predictor)
    svi = make(kind, model, guide, TraceEnum_ELBO(max_plate_nesting=2))
    return [svi.step(data, args=args, batch_size=4) for _ in range(6)]


class Air(nn.Module):
    """Two steps of attention over 6 x 6 images, with a baseline net."""

    def __init__(self):
        super().__init__()
        self.rnn, self.bl_rnn = nn.LSTMCell(36 + 6, 8), nn.LSTMCell(36 + 6, 8)
        self.predict, self.encode, self.decode = nn.Linear(8, 7), nn.Linear(9, 4), nn.Linear(2, 9)
        self.bl_predict = nn.Linear(8, 1)
        self.h_init, self.c_init = nn.Parameter(torch.zeros(1, 8)), nn.Parameter(torch.zeros(1, 8))
        self.where = torch.tensor([3.0, 0.0, 0.0])

    @staticmethod
    def theta(where):
        out = torch.cat((where.new_zeros(where.size(0), 1), where), 1)
        return torch.index_select(out, 1, torch.tensor([1, 0, 2, 0, 1, 3])).view(-1, 2, 3)

    def window_to_image(self, where, windows):
        grid = F.affine_grid(self.theta(where), torch.Size((len(where), 1, 6, 6)), align_corners=False)
        return F.grid_sample(windows.view(-1, 1, 3, 3), grid, align_corners=False).view(-1, 6, 6)

    def image_to_window(self, where, images):
        inverse = torch.cat((where.new_ones(len(where), 1), -where[:, 1:]), 1) / where[:, 0:1]
        grid = F.affine_grid(self.theta(inverse), torch.Size((len(where), 1, 3, 3)), align_corners=False)
        return F.grid_sample(images.view(-1, 1, 6, 6), grid, align_corners=False).view(-1, 9)

    def model(self, data, batch_size, z_pres_prior_p):
        pyro.module("decode", self.decode)
        with pyro.plate("data", data.size(0)) as ix:
            batch = data[ix]
            n = batch.size(0)
            x, pres = batch.new_zeros(n, 6, 6), batch.new_ones(n, 1)
            for t in range(2):
                pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(z_pres_prior_p(t) * pres).to_event(1))
                with poutine.mask(mask=pres.squeeze(-1).bool()):
                    where = pyro.sample(f"z_where_{t}", dist.Normal(self.where.expand(n, 3), 0.5).to_event(1))
                    what = pyro.sample(f"z_what_{t}", dist.Normal(x.new_zeros(n, 2), 1.0).to_event(1))
                x = x + self.window_to_image(where, torch.sigmoid(self.decode(what))) * pres.view(-1, 1, 1)
            obs = dist.Normal(x.view(n, -1), 0.3 * x.new_ones(n, 36)).to_event(1)
            pyro.sample("obs", obs, obs=batch.view(n, -1))

    def guide(self, data, batch_size, z_pres_prior_p):
        for name in ("rnn", "bl_rnn", "predict", "encode", "bl_predict"):
            pyro.module(name, getattr(self, name))
        h, c = pyro.param("h_init", self.h_init), pyro.param("c_init", self.c_init)
        with pyro.plate("data", data.size(0), subsample_size=batch_size) as ix:
            batch = data[ix]
            n = batch.size(0)
            h, c = h.expand(n, -1), c.expand(n, -1)
            bl = h.detach(), c.detach()
            pres, where, what = batch.new_ones(n, 1), batch.new_zeros(n, 3), batch.new_zeros(n, 2)
            for t in range(2):
                state = torch.cat((batch.view(n, -1), where, what, pres), 1)
                h, c = self.rnn(state, (h, c))
                bl = self.bl_rnn(state.detach(), bl)
                p, loc, scale = self.predict(h).split((1, 3, 3), -1)
                baseline = {"baseline_value": (self.bl_predict(bl[0]) * pres).squeeze(-1)}
                d = dist.Bernoulli(torch.sigmoid(p) * pres).to_event(1)
                pres = pyro.sample(f"z_pres_{t}", d, infer={"baseline": baseline})
                with poutine.mask(mask=pres.squeeze(-1).bool()):
                    d = dist.Normal(loc + self.where, F.softplus(scale)).to_event(1)
                    where = pyro.sample(f"z_where_{t}", d)
                    loc, scale = self.encode(self.image_to_window(where, batch)).chunk(2, -1)
                    what = pyro.sample(f"z_what_{t}", dist.Normal(loc, F.softplus(scale)).to_event(1))


def prior_p(opt_step, time_step):
    return 0.8 / (1 + time_step) - min(1e-4 * opt_step, 0.1)


def air(kind, at):
    one, data = Air(), torch.rand(10, 6, 6)
    svi = make(kind, one.model, one.guide, TraceGraph_ELBO(), lr=1e-3)
    return [svi.step(data, batch_size=4, z_pres_prior_p=functools.partial(prior_p, at(i))) for i in range(7)]


@case()
def air_without_annealing(kind):
    return air(kind, lambda i: 0)


def reverse_sequences(mini_batch, seq_lengths):
    """As in `pyro.contrib.examples.polyphonic_data_loader`, like the two that follow."""
    reversed_mini_batch = torch.zeros_like(mini_batch)
    for b in range(mini_batch.size(0)):
        T = seq_lengths[b]
        time_slice = torch.arange(T - 1, -1, -1, device=mini_batch.device)
        reversed_mini_batch[b, 0:T, :] = torch.index_select(mini_batch[b, :, :], 0, time_slice)
    return reversed_mini_batch


def pad_and_reverse(rnn_output, seq_lengths):
    rnn_output, _ = nn.utils.rnn.pad_packed_sequence(rnn_output, batch_first=True)
    return reverse_sequences(rnn_output, seq_lengths)


def get_mini_batch(rows, sequences, seq_lengths):
    order = torch.sort(seq_lengths[rows])[1].flip(0)
    seq_lengths, rows = seq_lengths[rows][order], rows[order]
    mini_batch = sequences[rows, 0 : seq_lengths.max(), :]
    mask = torch.arange(mini_batch.shape[1]) < seq_lengths.unsqueeze(-1)
    reversed_ = reverse_sequences(mini_batch, seq_lengths)
    reversed_ = nn.utils.rnn.pack_padded_sequence(reversed_, seq_lengths, batch_first=True)
    return mini_batch, reversed_, mask, seq_lengths


class Dmm(nn.Module):
    def __init__(self):
        super().__init__()
        self.emitter, self.trans, self.combiner = mlp(2, 4, 3), mlp(2, 4), mlp(2 + 4, 4)
        self.rnn = nn.RNN(3, 4, nonlinearity="relu", batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, 4))

    def model(self, mini_batch, reversed_, mask, lengths, annealing_factor=1.0):
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                loc, scale = self.trans(z_prev).chunk(2, -1)
                with poutine.scale(scale=annealing_factor):
                    d = dist.Normal(loc, F.softplus(scale)).mask(mask[:, t - 1 : t]).to_event(1)
                    z_t = pyro.sample(f"z_{t}", d)
                probs = torch.sigmoid(self.emitter(z_t))
                d = dist.Bernoulli(probs).mask(mask[:, t - 1 : t]).to_event(1)
                pyro.sample(f"obs_x_{t}", d, obs=mini_batch[:, t - 1, :])
                z_prev = z_t

    def guide(self, mini_batch, reversed_, mask, lengths, annealing_factor=1.0):
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        rnn_output, _ = self.rnn(reversed_, h_0)
        rnn_output = pad_and_reverse(rnn_output, lengths)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                loc, scale = self.combiner(torch.cat([z_prev, rnn_output[:, t - 1, :]], -1)).chunk(2, -1)
                with pyro.poutine.scale(scale=annealing_factor):
                    d = dist.Normal(loc, F.softplus(scale)).mask(mask[:, t - 1 : t]).to_event(1)
                    z_prev = pyro.sample(f"z_{t}", d)


@case()
def dmm(kind):
    one = Dmm()
    sequences, lengths = torch.rand(5, 4, 3).round(), torch.tensor([4, 2, 3, 4, 1])
    svi = make(kind, one.model, one.guide)
    losses = []
    for i in range(8):
        rows = torch.arange(5) if i % 4 else torch.tensor([3, 0, 2])
        losses.append(svi.step(*get_mini_batch(rows, sequences, lengths), 0.5 if i < 4 else 1.0))
    return losses


class Cvae(nn.Module):
    def __init__(self):
        super().__init__()
        self.baseline_net, self.prior_net = mlp(PIXELS, 8, PIXELS), mlp(PIXELS, 8, 4)
        self.generation_net, self.recognition_net = mlp(2, 8, PIXELS), mlp(PIXELS, 8, 4)

    @staticmethod
    def encode(net, x, y):
        xc = x.clone()
        xc[x == -1] = y[x == -1]
        loc, scale = net(xc.view(-1, PIXELS)).chunk(2, -1)
        return loc, scale.exp()

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            zs = pyro.sample("z", dist.Normal(*self.encode(self.prior_net, xs, y_hat)).to_event(1))
            loc = torch.sigmoid(self.generation_net(zs))
            mask_loc = loc[(xs == -1).view(-1, PIXELS)].view(xs.shape[0], -1)
            mask_ys = ys[xs == -1].view(xs.shape[0], -1)
            pyro.sample("y", dist.Bernoulli(mask_loc).to_event(1), obs=mask_ys)

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(*self.encode(self.recognition_net, xs, ys)).to_event(1))


@case()
def cvae(kind):
    one = Cvae()
    svi = make(kind, one.model, one.guide)
    losses = []
    for i in range(10):
        ys = images()
        xs = ys.clone()
        xs[:, : PIXELS // 2 if i % 4 else PIXELS // 4] = -1
        losses.append(svi.step(xs, ys))
    return losses


@case()
def hmm(kind):
    args = Namespace(hidden_dim=3, jit=False)
    sequences, lengths = torch.rand(5, 4, 2).round(), torch.tensor([3, 2, 3, 2, 1])

    def model(sequences, lengths, args, batch_size=None, include_prior=True):
        num_sequences, max_length, data_dim = map(int, sequences.shape)
        assert lengths.shape == (num_sequences,)
        assert lengths.max() <= max_length
        with poutine.mask(mask=include_prior):
            probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(args.hidden_dim) + 0.1).to_event(1))
            d = dist.Beta(0.1, 0.9).expand([args.hidden_dim, data_dim]).to_event(2)
            probs_y = pyro.sample("probs_y", d)
        tones_plate = pyro.plate("tones", data_dim, dim=-1)
        with pyro.plate("sequences", num_sequences, batch_size, dim=-2) as batch:
            lengths, x = lengths[batch], 0
            for t in pyro.markov(range(max_length if args.jit else lengths.max())):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    d = dist.Categorical(probs_x[x])
                    x = pyro.sample(f"x_{t}", d, infer={"enumerate": "parallel"})
                    with tones_plate:
                        pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[batch, t])

    block = poutine.block(model, expose_fn=lambda msg: msg["name"].startswith("probs_"))
    guide = pyro.infer.autoguide.AutoDelta(block)
    svi = make(kind, model, guide, TraceEnum_ELBO(max_plate_nesting=2))
    return [svi.step(sequences, lengths + (i % 3 == 2), args=args, batch_size=None) for i in range(8)]


class ProdLda(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fcmu, self.fclv = nn.Linear(12, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.bnmu, self.bnlv = nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3, affine=False)
        self.beta, self.bn = nn.Linear(3, 12, bias=False), nn.BatchNorm1d(12, affine=False)
        self.drop = nn.Dropout(0.2)

    def model(self, docs):
        pyro.module("decoder", self)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = docs.new_zeros((docs.shape[0], 3)), docs.new_ones((docs.shape[0], 3))
            theta = F.softmax(pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1)), -1)
            count_param = F.softmax(self.bn(self.beta(self.drop(theta))), dim=1)
            total_count = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, count_param), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self)
        with pyro.plate("documents", docs.shape[0]):
            h = self.drop(F.softplus(self.fc1(docs)))
            loc, scale = self.bnmu(self.fcmu(h)), (0.5 * self.bnlv(self.fclv(h))).exp()
            pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))


@case()
def prodlda(kind):
    one = ProdLda()
    svi = make(kind, one.model, one.guide)
    docs = torch.poisson(torch.full((3, 6, 12), 2.0))
    return [svi.step(docs[i % 3]) for i in range(9)]


@pytest.mark.parametrize("name", CASES.params({"vae"}))
def test_the_same_numbers_as_pyro(name):
    agree(CASES[name])
