"""The graphical model that is drawn, beside what Pyro itself finds (``pyro.render_model`` draws it, with graphviz)."""

import pytest
from pyro.infer.inspect import get_model_relations
from tables import only
from zoo import ROWS, batch

from pyro_vae.program.graphical_model import structure

WITH_DENSITY = {name: row for name, row in ROWS.items() if not row.implicit}  # Pyro's own asks for log-probabilities


@pytest.mark.parametrize(
    "name", only(WITH_DENSITY, [n for n, row in WITH_DENSITY.items() if "objective" not in row.options])
)
def test_pyro_finds_the_same_arrows(name):
    row = WITH_DENSITY[name]
    pair, data = row.build(), batch(row.spec, 3)
    relations = get_model_relations(pair.bound_model, (data,))
    nodes = [node for node in structure(pair, pair.bound_model, data) if node.kind != "given"]
    names = {node.name for node in nodes}
    ours = {node.name: set(node.parents) & names for node in nodes}
    assert ours == {name: set(parents) - {name} for name, parents in relations["sample_sample"].items()}
    assert {node.name for node in nodes if node.kind == "observed"} == set(relations["observed"])
    for plate, inside in relations["plate_sample"].items():
        assert {node.name for node in nodes if plate in node.plates} == set(inside)
