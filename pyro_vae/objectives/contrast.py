"""The objective of models that are known up to a constant while they train."""

from pyro.infer import Trace_ELBO

from pyro_vae.program import Figure


class FreeEnergyContrast(Trace_ELBO):
    """Maximum likelihood for models without latent variables whose normaliser is unknown, such as
    `pyro_vae.conditionals.PersistentBoltzmann`.

    The gradient is that of log p(x), as far as the model's chains give it. The figure is not log
    p(x): it is how much lower the free energy of data is than that of the chains' draws, in nats per
    datum, 0 for a model whose draws are like the data. It says nothing of how good a model is, and no
    epoch is the best by it.
    """

    needs = frozenset({"guide"})
    figure = Figure("free energy of the chains minus that of the data", "unnormalised")
    has_kl = False
