"""Pictures: drawn from small pairs of every shape, and what they show compared with what was asked for."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from tables import only
from torch import nn

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.conditionals import NormalPrior
from pyro_vae.evidence import elbo
from pyro_vae.plots.latent_space import arc
from pyro_vae.posterior import centres, decode, generate, kl_by_dimension, reconstruct
from pyro_vae.program import descendants, structure

SMALL = {"hidden": [8]}


def table(features: int = 6, *, y: object = "class", image: tuple[int, int, int] | None = None) -> pv.Data:
    rng = np.random.default_rng(0)
    fields = {"x": rng.normal(size=(120, features)).astype(np.float32)}
    if image:
        fields["x"] = 1 / (1 + np.exp(-fields["x"]))
    if y == "class":
        fields["y"] = np.arange(120) % 3
    elif y is not None:
        fields["y"] = (rng.normal(size=(120, 2)) > 0).astype(np.float32)
    return pv.load_data(fields, image=image)


class TwoLevels(PyroModule):
    """z2 -> z1 -> x, and a class y that is observed: all that a picture may meet at once."""

    def __init__(self, features: int, *, told: bool) -> None:
        super().__init__()
        self.told = told
        self.down = nn.Linear(2, 3)
        self.out = nn.Linear(3 + 3 * told, features)

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.down(z2), 0.5).to_event(1))
            inputs = torch.cat([z1, torch.eye(3)[y]], -1) if self.told else z1
            return pyro.sample("x", dist.Normal(self.out(inputs), 0.3).to_event(1), obs=x)


class TwoLevelsGuide(PyroModule):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.up = nn.Linear(features, 2)
        self.across = nn.Linear(features + 2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.up(x), 0.1).to_event(1))
            pyro.sample("z1", dist.Normal(self.across(torch.cat([x, z2], -1)), 0.1).to_event(1))


def two_levels(data: pv.Data, *, told: bool = True) -> pv.Pair:
    return pv.Pair(TwoLevels(data.spec.features, told=told), TwoLevelsGuide(data.spec.features)).train(False)


def one_level(data: pv.Data, **options: object) -> pv.Pair:
    return pv.pairs.latent(data.spec, **{"latent": 2, **SMALL, **options}).train(False)


HISTORY = [
    {
        "epoch": e,
        "step": 9 * e,
        "loss": 9 / e,
        "elbo": -8 / e,
        "reconstruction": -6 / e,
        "kl": 2 / e,
        "beta": 1,
        "lr": 1,
    }
    for e in range(1, 9)
]
POINTS = [{"beta": b, "kl": 12 / b, "reconstruction": -80 - 9 * b} for b in (0.5, 1, 4)]
OTHERS = ("curves", "rate-distortion", "completions", "codebook", "code-map", "beside", "critic")
OF_TABLES = ("components", "frames", "steps", "tables", "rolls", "states")  # of tables, mixtures and sequences
OF_TABLES += (
    "noising",
    "denoising",
    "few-steps",
    "nats-per-level",
    "filters",
    "chains",
    "bracket",
    "through-noise",
)  # of chains, machines, flows
IMAGES, TABLE = table(16, image=(1, 4, 4)), table()


def drawn(figure: Figure) -> Figure:
    """Save a figure and look at what can be seen by machine: labels, clipped text, empty panels."""
    figure.draw_without_rendering()
    edge = figure.bbox.padded(1.5)
    for axes in figure.axes:
        assert axes.has_data() or axes.patches, "an empty panel"
        shown = [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        shown += axes.get_xticklabels() + axes.get_yticklabels() if axes.axison else []
        for text in shown:
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                within = edge.x0 <= box.x0 <= box.x1 <= edge.x1 and edge.y0 <= box.y0 <= box.y1 <= edge.y1
                hidden_tick = not axes.bbox.padded(30).contains(*box.get_points().mean(0))
                assert within or (text in axes.get_xticklabels() + axes.get_yticklabels() and hidden_tick), text
    assert figure.get_suptitle()
    return figure


ONE_LEVEL = ["samples", "reconstructions", "manifold", "interpolation", "traversal", "attributes"]
OF_CODES = ["scatter", "kl", "graph"]  # the same of images and tables


@pytest.mark.parametrize("what", [*ONE_LEVEL, *OF_CODES])
def test_pictures_of_one_level(what):
    drawn(plots.PICTURES[what](one_level(IMAGES), IMAGES))


@pytest.mark.parametrize("what", only([*ONE_LEVEL, *OF_CODES], [*ONE_LEVEL[:-1], "kl"]))
def test_pictures_of_one_level_of_a_table(what):
    drawn(plots.PICTURES[what](one_level(TABLE), TABLE))


@pytest.mark.parametrize("data", [IMAGES, pytest.param(TABLE, marks=pytest.mark.slow)], ids=["images", "table"])
@pytest.mark.parametrize("what", [w for w in plots.PICTURES if w not in (*OTHERS, *OF_TABLES, "growth", "graph")])
def test_pictures_of_two_levels_told_the_class(what, data):
    if what == "nats" and data is TABLE:
        pytest.skip("nats are a picture of images")
    drawn(plots.PICTURES[what](two_levels(data), data))


def test_pictures_of_a_codebook():
    for data in (IMAGES, TABLE):
        pair = pv.pairs.quantized(data.spec, codes=5, places=3, size=2, hidden=[8]).train(False)
        for what in ("codebook", "samples", "reconstructions")[: None if data is TABLE else 1]:
            drawn(plots.PICTURES[what](pair, data))
        for what in ("scatter", "traversal", "interpolation", "kl", "manifold"):
            with pytest.raises(plots.NotDrawable):
                plots.PICTURES[what](pair, data)
    with pytest.raises(plots.NotDrawable, match="these data are none"):
        plots.PICTURES["code-map"](pair, TABLE)
    drawn(plots.PICTURES["code-map"](pv.pairs.quantized(IMAGES.spec, codes=5, size=2, net="conv"), IMAGES))


def test_pictures_of_numbers():
    drawn(plots.curves(HISTORY))
    drawn(plots.curves(HISTORY[:1]))
    drawn(plots.curves([row | {"beta": 4.0} for row in HISTORY]))
    drawn(plots.rate_distortion(POINTS))


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_scatter_for_every_number_of_dimensions(latent):
    figure = drawn(plots.scatter(one_level(TABLE, latent=latent), TABLE))
    label = figure.axes[0].get_xlabel()
    assert label == {1: "z", 2: "z[0]"}.get(latent, label)
    assert latent < 3 or "% of the variance" in label
    if latent == 5:
        drawn(plots.scatter(one_level(TABLE, latent=latent), TABLE, method="tsne"))


@pytest.mark.parametrize("y", [None, pytest.param("attributes", marks=pytest.mark.slow)])
def test_pictures_without_classes(y):
    data = table(y=y)
    for what in ("scatter", "interpolation", "traversal"):
        drawn(plots.PICTURES[what](one_level(data), data))


def test_a_graph_names_every_site_and_plate():
    figure = drawn(plots.graph(two_levels(IMAGES), IMAGES))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [w for w in words if w in ("x", "y", "z1", "z2")] == ["y", "z2", "z1", "x", "x", "z2", "z1"]
    assert words.count("each datum") == 2


# --- what they show -----------------------------------------------------------------------------------------------------


def test_structure_finds_sites_fields_and_parents():
    pair = two_levels(TABLE)
    batch = TABLE.batch("test", 3)
    model = structure(pair, pair.bound_model, batch)
    assert [(n.name, n.kind, n.parents) for n in model] == [
        ("y", "given", ()),
        ("z2", "latent", ()),
        ("z1", "latent", ("z2",)),
        ("x", "observed", ("y", "z1")),
    ]
    assert model[3].size == (6,)
    assert model[3].distribution == "Normal"
    assert model[3].plates == ("data",)
    assert descendants(model, "z2") == {"z1", "x"}
    guide = structure(pair, pair.bound_guide, batch)
    assert [(n.name, n.kind, n.parents) for n in guide] == [
        ("x", "given", ()),
        ("z2", "latent", ("x",)),
        ("z1", "latent", ("x", "z2")),
    ]


def test_structure_of_an_observed_field_and_an_auxiliary_site():
    def model(x, y):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y)
            with pyro.plate("parts", 4, dim=-2):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x",
                dist.Normal((torch.eye(3)[y].sum(-1) + w.sum(0))[:, None], 1.0).expand([len(x), 6]).to_event(1),
                obs=x,
            )

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, 0], 1.0), infer={"is_auxiliary": True})
            with pyro.plate("parts", 4, dim=-2):
                pyro.sample("w", dist.Normal(a, 1.0))

    pair, batch = pv.Pair(model, guide), TABLE.batch("test", 3)
    assert [(n.name, n.kind, n.parents, n.plates) for n in structure(pair, pair.bound_model, batch)] == [
        ("y", "observed", (), ("data",)),
        ("w", "latent", (), ("parts", "data")),
        ("x", "observed", ("y", "w"), ("data",)),
    ]
    assert [(n.name, n.kind, n.parents) for n in structure(pair, pair.bound_guide, batch)] == [
        ("x", "given", ()),
        ("a", "auxiliary", ("x",)),
        ("w", "latent", ("a",)),
    ]
    drawn(plots.graph(pair, TABLE))


def test_kl_by_dimension_adds_up_to_the_kl_of_the_elbo():
    pair = one_level(TABLE)
    batch = TABLE.batch("test")
    by_dimension = kl_by_dimension(pair, [batch])["z"]
    table = elbo(pair, batch, num_samples=4000)
    q = pair.guide.encoder(batch["x"])
    spread = elbo(pair, batch, num_samples=4000, seed=1).kl - table.kl  # Monte Carlo error of one figure, seen twice
    assert by_dimension.shape == (2,)
    assert by_dimension.sum().item() == pytest.approx(table.kl, abs=4 * abs(spread) + 0.02)
    exact = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(by_dimension, exact.double(), rtol=1e-6)
    assert kl_by_dimension(one_level(TABLE, covariance="full"), [batch]) == {"z": None}


def test_the_code_decodes_to_the_reconstruction():
    for pair in (one_level(TABLE), two_levels(TABLE)):
        batch = TABLE.batch("test", 5)
        assert torch.allclose(decode(pair, batch, centres(pair, batch))["x"], reconstruct(pair, batch)["x"])


def test_sites_that_are_not_given_follow_the_model():
    pair, batch = two_levels(TABLE), TABLE.batch("test", 4)
    z2 = torch.randn(4, 2)
    mean = decode(pair, batch, {"z2": z2})["x"]
    assert torch.allclose(mean, decode(pair, batch, {"z1": pair.model.down(z2)})["x"])
    drawn_once = decode(pair, batch, {"z2": z2}, seed=3, draw_rest=True)["x"]
    assert not torch.allclose(mean, drawn_once)
    assert torch.equal(drawn_once, decode(pair, batch, {"z2": z2}, seed=3, draw_rest=True)["x"])


def test_a_likelihood_without_a_mean_is_never_shown_the_datum_as_its_reconstruction():
    class NoMean(dist.Normal):
        @property
        def mean(self):
            raise NotImplementedError

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", NoMean(z.sum(-1, keepdim=True).expand(len(x), 6), 0.1).to_event(1), obs=x)

    pair = pv.Pair(model, one_level(TABLE).guide)
    batch = TABLE.batch("test", 5)
    assert (reconstruct(pair, batch)["x"] != batch["x"]).all()


def tiles(figure: Figure, down: int, across: int) -> np.ndarray:
    """The images of a sheet of 4 x 4 tiles with a line of one pixel between them."""
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    return np.stack([[sheet[5 * i : 5 * i + 4, 5 * j : 5 * j + 4].ravel() for j in range(across)] for i in range(down)])


def test_an_interpolation_goes_from_one_reconstruction_to_the_other():
    pair = one_level(IMAGES)
    figure = plots.interpolation(pair, IMAGES, first=1, second=4, steps=5)
    shown = tiles(figure, 2, 7)
    x = IMAGES.batch("test", 5)
    ends = reconstruct(pair, x)["x"]
    for row in shown:
        for tile, wanted in ((0, x["x"][1]), (1, ends[1]), (5, ends[4]), (6, x["x"][4])):
            assert np.allclose(row[tile], wanted.clamp(0, 1), atol=1e-5)
    default = plots.interpolation(pair, IMAGES)  # ends in another class
    assert not np.allclose(tiles(default, 1, 13)[0, 0], tiles(default, 1, 13)[0, 12])


def test_the_arc_keeps_to_the_ends_lengths_and_the_line_does_not():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    t = torch.tensor([[0.0], [0.5], [1.0]])
    assert torch.allclose(arc(a, b, t).norm(dim=1), torch.full((3,), 3.0))
    assert torch.allclose(arc(a, a, t), a.expand(3, 2))


def test_the_manifold_is_the_decoder_at_normal_quantiles():
    pair = one_level(IMAGES)
    shown = tiles(plots.manifold(pair, IMAGES, side=3), 3, 3)
    normal = torch.distributions.Normal(0.0, 1.0)
    for row, up in enumerate((5 / 6, 3 / 6, 1 / 6)):
        z = normal.icdf(torch.tensor([[across, up] for across in (1 / 6, 3 / 6, 5 / 6)]))
        assert np.allclose(shown[row], pair.model.decoder(z).mean.detach().clamp(0, 1), atol=1e-5)


def test_a_traversal_moves_the_dimension_with_the_most_kl_first():
    pair = one_level(IMAGES)
    figure = plots.traversal(pair, IMAGES, steps=3, extent=2.0)
    order = kl_by_dimension(pair, [IMAGES.batch("test")])["z"].argsort(descending=True).tolist()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [label.split("\n")[0] for label in labels] == [f"z[{j}]" for j in order]
    z = centres(pair, IMAGES.batch("test", 1))["z"].repeat(3, 1)
    z[:, order[0]] = torch.tensor([-2.0, 0.0, 2.0])
    assert np.allclose(tiles(figure, 2, 3)[0], pair.model.decoder(z).mean.detach().clamp(0, 1), atol=1e-5)


def test_a_traversal_is_as_wide_as_the_prior():
    pair = one_level(IMAGES)
    pair.model.prior = NormalPrior(2)
    with torch.no_grad():
        for parameter, value in zip(pair.model.prior.parameters(), (0.7, 5.0), strict=True):
            parameter.fill_(value)
    fn = pair.model.prior()
    figure = plots.traversal(pair, IMAGES, steps=2, extent=1.0)
    label = figure.axes[0].get_yticklabels()[0].get_text()
    j = int(label[2])
    z = centres(pair, IMAGES.batch("test", 1))["z"].repeat(2, 1)
    z[:, j] = torch.stack([fn.mean[j] - fn.variance[j].sqrt(), fn.mean[j] + fn.variance[j].sqrt()])
    assert fn.variance[j] > 4
    assert np.allclose(tiles(figure, 2, 2)[0], pair.model.decoder(z).mean.detach().clamp(0, 1), atol=1e-5)


def test_a_traversal_lets_lower_levels_follow():
    pair = two_levels(IMAGES)
    figure = plots.traversal(pair, IMAGES, steps=2)
    labels = [text.get_text().split("\n")[0] for text in figure.axes[0].get_yticklabels()]
    shown = tiles(figure, 5, 2)
    assert sorted(labels) == ["z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]"]
    assert all(not np.allclose(row[0], row[1]) for row in shown), "moving a level changes nothing"


def test_classes_share_their_style_across_and_analogies_keep_their_own():
    pair = two_levels(IMAGES)
    shown = tiles(plots.classes(pair, IMAGES, count=4), 3, 4)
    assert not np.allclose(shown[0], shown[1])
    weight = pair.model.out.weight[:, 3:].detach().numpy()
    inside = ((shown > 0) & (shown < 1)).all(0)  # where nothing was cut off at black or white
    assert np.allclose(
        (shown[1] - shown[0])[inside], np.broadcast_to(weight[:, 1] - weight[:, 0], (4, 16))[inside], atol=1e-5
    )
    figure = plots.analogies(pair, IMAGES, count=3)
    batch = IMAGES.batch("test", 3)
    own = np.stack([row[1 + y] for row, y in zip(tiles(figure, 3, 4), batch["y"].tolist(), strict=True)])
    assert np.allclose(own, reconstruct(pair, batch)["x"].clamp(0, 1), atol=1e-5)


def test_samples_show_means_draws_of_the_same_z_and_data():
    pair = one_level(IMAGES)
    with torch.no_grad():
        for parameter in pair.model.decoder.parameters():
            parameter.mul_(5)  # z decides more than noise does
    figure = plots.samples(pair, IMAGES, count=3, seed=5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean", "draw", "data"]
    mean, draw, real = tiles(figure, 3, 3)
    assert np.allclose(mean, generate(pair, IMAGES.batch("test", 3), seed=5)["x"].clamp(0, 1), atol=1e-5)
    assert np.allclose(real, IMAGES.batch("test", 3)["x"].clamp(0, 1))
    assert 0 < np.abs(draw - mean).mean() < 0.5 * np.abs(draw - np.roll(mean, 1, 0)).mean()


def test_columns_of_different_units_are_drawn_in_their_own():
    x = table().batch("train")["x"].numpy()
    data = pv.load_data({"x": x * np.array([1, 1, 1, 1, 1, 1000.0], np.float32)})
    figure = drawn(plots.samples(one_level(data), data, count=4))
    assert figure.get_supylabel() == "standard deviations from the mean"
    real = np.stack([line.get_ydata() for line in figure.axes[2].get_lines()])
    assert np.allclose(real, (data.batch("test", 4)["x"] - data.spec.mean) / data.spec.std, atol=1e-5)
    assert drawn(plots.samples(one_level(TABLE), TABLE)).get_supylabel() == "value, in the data's unit"


def test_attributes_move_along_the_difference_of_mean_codes():
    pair = one_level(IMAGES)
    shown = tiles(plots.attributes(pair, IMAGES, attribute=2, count=2, steps=3, extent=1.0), 2, 4)
    known = IMAGES.batch("train")
    code = centres(pair, known)["z"]
    has = known["y"] == 2
    z = centres(pair, IMAGES.batch("test", 2))["z"] + code[has].mean(0) - code[~has].mean(0)
    assert np.allclose(shown[:, 3], pair.model.decoder(z).mean.detach().clamp(0, 1), atol=1e-5)
    given = table(y="attributes")
    drawn(plots.attributes(one_level(given), given, attribute=1))


def test_levels_hold_what_stands_above():
    pair = two_levels(IMAGES, told=False)
    with torch.no_grad():
        pair.model.down.weight.mul_(50)
    shown = tiles(plots.levels(pair, IMAGES, rows=2, columns=6), 4, 6)
    across = shown.std(1).mean((1,))
    assert (across[:2] > 2 * across[2:]).all(), "z2 matters most here, so drawing only z1 anew changes less"


def test_completions_keep_what_is_given():
    pair = pv.pairs.structured(IMAGES.spec, latent=2, hidden=[8], quadrants=1)
    shown = tiles(plots.completions(pair, IMAGES, count=3, draws=2), 3, 4)
    x = IMAGES.batch("test", 3)["x"].numpy()
    given = pair.model.inside.numpy()
    hidden = pair.model.outside.numpy()
    assert np.allclose(shown[:, 0], x)
    assert np.allclose(shown[:, 1][:, hidden], 0.5)
    for column in (1, 2, 3):
        assert np.allclose(shown[:, column][:, given], x[:, given])
    assert not np.allclose(shown[:, 2], shown[:, 3]), "every draw is the same"
    drawn(plots.completions(pair, IMAGES))
    with pytest.raises(plots.NotDrawable, match="draw `completions`"):
        plots.samples(pair, IMAGES)


# --- what does not apply ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (
            lambda: plots.manifold(one_level(TABLE, latent=3), TABLE),
            "2 dimensions, and here 'z' has 3; train with --latent 2",
        ),
        (lambda: plots.levels(one_level(TABLE), TABLE), "depends on another, and here there is 'z'"),
        (lambda: plots.completions(one_level(TABLE), TABLE), "given no part of x, so there is nothing to complete"),
        (lambda: plots.classes(one_level(TABLE), TABLE), "reads no field y"),
        (
            lambda: plots.analogies(two_levels(table(y="attributes")), table(y="attributes")),
            "is not a class in these data",
        ),
        (lambda: plots.attributes(one_level(table(y=None)), table(y=None)), "classes or attributes y"),
        (lambda: plots.attributes(one_level(TABLE), TABLE, attribute=3), "attribute must be 0 to 2, got 3"),
        (lambda: plots.scatter(one_level(TABLE), TABLE, site="w"), "no latent vector 'w'; the model has 'z'"),
        (lambda: plots.scatter(one_level(TABLE), TABLE, method="umap"), "auto, pca or tsne"),
        (lambda: plots.samples(one_level(TABLE), TABLE, count=0), "count must be at least 1, got 0"),
        (lambda: plots.curves([]), "no epoch was finished"),
        (lambda: plots.rate_distortion(POINTS[:1]), "1 run is given; name more with --others"),
    ],
)
def test_a_picture_that_does_not_apply_says_why(draw, said):
    with pytest.raises(plots.NotDrawable) as refused:
        draw()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_manifold_refuses_a_prior_that_is_no_normal():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Laplace(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(len(x), 6), 0.1).to_event(1), obs=x)

    with pytest.raises(plots.NotDrawable, match="is no Normal"):
        plots.manifold(pv.Pair(model, one_level(TABLE).guide), TABLE)
