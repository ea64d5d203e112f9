"""Names that are refused, and what was meant by them."""

import difflib
from collections.abc import Iterable
from typing import Any

MEANT = {
    "batch": "batch_size",
    "binarise": "binarize",
    "accumulate_grad_batches": "accumulate",
    "cnn": "conv",
    "dim": "latent",
    "ema_decay": "ema",
    "epoch": "epochs",
    "gaussian": "normal",
    "gradient_accumulation": "accumulate",
    "hidden_dim": "hidden",
    "hidden_dims": "hidden",
    "hidden_sizes": "hidden",
    "kl_weight": "beta",
    "latent_dim": "latent",
    "latent_dims": "latent",
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "n_latent": "latent",
    "num_epochs": "epochs",
    "num_particles": "particles",
    "optim": "optimizer",
    "random_state": "seed",
    "scheduler": "schedule",
    "wd": "weight_decay",
    "z_dim": "latent",
}

"""Names used by other libraries, for suggestions."""


def suggestion(word: object, known: Iterable[str]) -> str | None:
    """Return the ``known`` name nearest to ``word``, if any is near."""
    names = {_folded(name): name for name in known}
    folded = _folded(str(word))
    meant = _folded(MEANT.get(folded.replace("-", "_"), folded))
    near = difflib.get_close_matches(meant, names, 1)
    return names[near[0]] if near else None


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence that refuses an unknown name: the near name, or all names."""
    known = list(known)
    near = suggestion(name, known)
    return (
        f"there is no {what} {str(name)[:50]!r}; {f'did you mean {near}?' if near else 'there are ' + ', '.join(known)}"
    )


def misspelled(owner: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses an unknown option: the near name, and all names."""
    known = list(known)
    near = suggestion(name, known)
    meant = f"did you mean {near}? Its options are" if near else "its options are"
    return f"{owner} has no option {name!r}; {meant} {', '.join(known)}"


def one_of(name: str, known: Iterable[str], value: Any) -> str:
    """Return the sentence that refuses ``value``: all names, and the near one."""
    known = list(known)
    said = f"{name} must be one of {', '.join(map(str, known))}"
    if value is None:
        return said
    near = suggestion(value, known) if isinstance(value, str) else None
    return f"{said}; got {quoted(value)}{f': did you mean {near!r}?' if near else ''}"


def quoted(value: Any) -> str:
    """Return a value as messages show it: on one line, of at most 60 characters."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
