"""The graphical model that is drawn, beside what Pyro itself finds (``pyro.render_model`` draws it, with graphviz)."""

import pytest
from pyro.infer.inspect import get_model_relations
from zoo import ROWS, batch

from pyro_vae.program.graphical_model import structure

WITH_DENSITY = {name: row for name, row in ROWS.items() if not row.implicit}  # Pyro's own asks for log-probabilities


@pytest.mark.parametrize("row", WITH_DENSITY.values(), ids=WITH_DENSITY)
def test_pyro_finds_the_same_arrows(row):
    pair, data = row.build(), batch(row.spec, 3)
    relations = get_model_relations(pair.bound_model, (data,))
    nodes = [node for node in structure(pair, pair.bound_model, data) if node.kind != "given"]
    names = {node.name for node in nodes}
    ours = {node.name: set(node.parents) & names for node in nodes}
    assert ours == {name: set(parents) - {name} for name, parents in relations["sample_sample"].items()}
    assert {node.name for node in nodes if node.kind == "observed"} == set(relations["observed"])
    for plate, inside in relations["plate_sample"].items():
        assert {node.name for node in nodes if plate in node.plates} == set(inside)
