"""Pairs of one latent vector for a whole sequence: z -> x_1 -> x_2 -> ..."""

from pyro_vae.conditionals import Predictor, SequenceEncoder, StepDecoder
from pyro_vae.data import Spec
from pyro_vae.guides.sequence import SequenceGuide
from pyro_vae.models.sequence import SequenceModel
from pyro_vae.nets import RecurrentNet
from pyro_vae.options import Count, Fraction
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs import sequences
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair


@pair
def sequence(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    prior: parts.Prior = "normal",
    components: Count | None = None,
    covariance: parts.Covariance = "diagonal",
    hidden: Count = 128,
    dropout: Fraction = 0.0,
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z -> x_1 -> x_2 -> ...: one z for a whole sequence, and a decoder that draws step after step.

    Such a decoder can do without z: see --free-bits and --dropout, and read the KL.

    Args:
        latent: size of z; 10 for small steps and 40 from a hundred features on.
        likelihood: p(x_t | z, steps before it); auto is Bernoulli for binary data, of strokes a
            mixture of Gaussians for the move and a Bernoulli for the pen, else Normal.
        prior: p(z); standard normal, or learned (mixture of Gaussians, of the encoder's posteriors,
            or a flow).
        components: of a mixture or vamp prior; 100 by default.
        covariance: of the Gaussian q(z | x).
        hidden: width of the nets' layers.
        dropout: share of steps that are hidden from those after them, in training.
        objective: what training maximises; see pyro_vae.objectives.registry.
        particles: draws per sequence that the objective takes.
    """
    one = sequences.step(spec)
    size = parts.latent_size(one, latent)
    head, q_head = likelihood_of(one, likelihood), parts.posterior_head(size, covariance)
    forward = RecurrentNet(one.features + 1 + size, head.size, hidden, both=False)
    p_x = StepDecoder(Predictor(forward, sequences.reader(one), dropout), head).start_at(one.mean, one.std)
    reading = RecurrentNet(one.features, hidden, hidden, both=True)
    q_z = SequenceEncoder(reading, q_head, one.features, sequences.reader(one))
    p_z = parts.prior(spec, prior, size, q_z, components)
    model = SequenceModel(one.features, p_z, p_x)
    return Pair(model, SequenceGuide(q_z), parts.objective(spec, objective, particles))
