"""Every test of `SVI` begins with an empty parameter store."""

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()
