"""q(y, z | x) = q(y | x) q(z | x, y), and a known y is known

y ~ Categorical(logits(x))      one-hot; all the mass on the label where there is one
z ~ q(z | h(x), y)              latent; h reads x once, for every y that is summed over

On a labelled datum the ELBO is then the bound on log p(x, y). Such data also teach the classifier:
``weight`` log q(y | x) is added to their ELBO (Kingma et al. 2014, eq. 9), as a factor outside the
bound.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

IMPOSSIBLE = -1e4  # a logit whose probability is 0 in every precision, and 0 times its logarithm too


class SemiSupervisedGuide(PyroModule):
    """``x -> y``, ``x, y -> z``.

    Args:
        embed: ``y`` as a class label -> one-hot.
        classifier: ``x -> logits``, ``(..., classes)``.
        reader: ``x -> h``, ``(..., width)``.
        encoder: ``h, y -> q(z | x, y)``, event shape ``(latent,)``.
        weight: of log q(y | x) in the auxiliary classification term.
        enumerate_y: sum over y exactly (objective TraceEnum_ELBO), else draw it.
    """

    def __init__(
        self,
        embed: nn.Module,
        classifier: nn.Module,
        reader: nn.Module,
        encoder: nn.Module,
        *,
        weight: float,
        enumerate_y: bool = True,
    ) -> None:
        super().__init__()
        self.embed, self.classifier, self.reader, self.encoder = embed, classifier, reader, encoder
        self.weight = weight
        self.infer = {"enumerate": "parallel"} if enumerate_y else {}

    def forward(self, x: Tensor, y: Tensor, labelled: Tensor) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, latent)``. ``y`` is read only where ``labelled``."""
        logits = torch.log_softmax(self.classifier(x), -1)
        h = self.reader(x)
        label = self.embed(torch.where(labelled, y, 0))
        known = torch.where(labelled.unsqueeze(-1), IMPOSSIBLE * (1 - label), logits)
        taught = torch.where(labelled, (label * logits).sum(-1), 0.0)
        with pyro.plate("data", len(x)):
            pyro.factor("classification", -self.weight * taught, has_rsample=True)  # q's sign: it is added to the ELBO
            y = pyro.sample("y", dist.OneHotCategorical(logits=known), infer=dict(self.infer))
            return pyro.sample("z", self.encoder(h, y))
