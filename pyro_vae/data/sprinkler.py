"""Cloud, sprinkler, rain, wet grass: a small Bayes net, and days drawn from it.

The tables are those of Murphy, A Brief Introduction to Graphical Models and Bayesian Networks
(1998).
"""

from typing import Any

import numpy as np

SPRINKLER: dict[str, dict[str, Any]] = {
    "cloud": {"probs": [0.5, 0.5]},
    "sprinkler": {"parents": ["cloud"], "probs": [[0.5, 0.5], [0.9, 0.1]]},
    "rain": {"parents": ["cloud"], "probs": [[0.8, 0.2], [0.2, 0.8]]},
    "wet": {"parents": ["sprinkler", "rain"], "probs": [[[1.0, 0.0], [0.1, 0.9]], [[0.1, 0.9], [0.01, 0.99]]]},
}
"""P(node | parents), the last number of each row being that of 1."""

DAYS = 5000
MISSING = 0.3


def sprinkler_days() -> dict[str, np.ndarray]:
    """Return ``x``, float32 ``(days, 4)``, with 0 where ``seen``, bool ``(days, 4)``, is False.

    Whether a node is missing is drawn independently of everything.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    values: dict[str, np.ndarray] = {}
    for name, node in SPRINKLER.items():
        probs = np.asarray(node["probs"])[..., 1]
        p = probs[tuple(values[parent] for parent in node.get("parents", ()))]
        values[name] = (generator.random(DAYS) < p).astype(int)
    seen = generator.random((DAYS, len(values))) >= MISSING
    return {"x": np.where(seen, np.stack(list(values.values()), 1), 0).astype(np.float32), "seen": seen}
