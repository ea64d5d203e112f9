"""A warning points at the code of whoever called."""

import pytest

import pyro_vae
from pyro_vae.warning import warn


@pytest.mark.parametrize(
    ("place", "skipped"),
    [
        ("pyro_vae/svi/x.py", True),
        ("pyro_vae_of_mine/x.py", False),
        ("models/x.py", True),
        ("models_of_mine/x.py", False),
    ],
)
def test_only_the_library_is_skipped(place, skipped):
    """A neighbour whose name begins like the package's is not of the package."""
    root = pyro_vae.__path__[0].removesuffix("pyro_vae")
    code = compile("def call(warn): warn('told')", f"{root}{place}", "exec")
    space: dict = {}
    exec(code, space)
    with pytest.warns(UserWarning, match="told") as told:
        space["call"](warn)
    assert (told[0].filename == __file__) is skipped
