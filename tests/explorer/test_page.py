"""The explorer's page as a browser sees it, and what has no page."""

import json
import re
from dataclasses import replace

import pytest
import torch
from browser import browser, in_browser

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.explorer import explore, page_of
from pyro_vae.program import PairError


@pytest.fixture(scope="module")
def digits():
    return pv.load_data("digits")


@pytest.fixture(scope="module")
def conditional(digits):
    torch.manual_seed(0)
    return pv.fit(pv.pairs.conditional(digits.spec, latent=14, hidden=[16]), digits, epochs=1, compile="off")


def after(page, script, folder):
    """Return what a script that runs after the page's own says, and the document."""
    told = f'<pre id="out"></pre><script>byId("out").textContent = JSON.stringify((() => {{{script}}})());</script>'
    document = in_browser(page.replace("</body>", told + "</body>"), folder)
    return json.loads(re.search(r'<pre id="out">(.*?)</pre>', document, re.DOTALL)[1]), document


@browser
def test_the_page_shows_what_the_pair_reconstructs(conditional, digits, tmp_path):
    path = explore(conditional, tmp_path / "new" / "explorer.html", count=20)
    assert path.is_file()
    page = path.read_text()
    assert not re.search("https?://|src=|href=", page.replace('xmlns="http', ""))
    found, document = after(
        page,
        """
        showX();  // at once: frames may not come before the document is read
        const caption = byId("datum-caption").textContent;
        toRow(codes, 7);
        const seen = Array.from(decode(0, state.values));
        state.values.set("y", [3]);
        const other = Array.from(decode(0, state.values));
        return { seen, other, caption, z: state.values.get("z"), sliders: shownControls.length, y: PAGE.y[7],
          failure: byId("failure").textContent, choices: controls.get("y").labels };""",
        tmp_path,
    )
    batch = digits.batch("test", 8)
    x, y = batch["x"][7:], batch["y"][7:]
    assert found["failure"] == ""
    assert found["y"] == int(y)
    assert found["choices"] == [str(k) for k in range(10)]
    assert found["sliders"] == 12  # of fourteen dimensions and a class
    assert torch.allclose(torch.tensor([found["z"]]), conditional.encode(x, y=y), atol=1e-5)
    assert torch.allclose(torch.tensor([found["seen"]]), conditional.reconstruct(x, y=y), atol=1e-4)
    as_three = conditional.decode(conditional.encode(x, y=y), y=3)
    assert torch.allclose(torch.tensor([found["other"]]), as_three, atol=1e-4)
    assert (as_three - conditional.reconstruct(x, y=y)).abs().max() > 1e-3
    assert "Show all 15" in document
    assert found["caption"] == f"test datum 0, {int(batch['y'][0])}"


@browser
def test_sliders_the_map_and_levels_move_x(digits, tmp_path):
    torch.manual_seed(0)
    pair = pv.pairs.hierarchical(digits.spec, latent=[3, 2], hidden=[8])
    pair.model(digits.batch("train", 4)["x"])
    found, _ = after(
        page_of(pair, digits, count=5),
        """
        const told = { levels: PAGE.levels.map(level => [level.moved, level.follows]) };
        const before = decode(0, state.values), range = byId("z2-1");
        range.value = 0.5; range.dispatchEvent(new Event("input"));
        told.slid = state.values.get("z2")[1];
        told.changed = Math.max(...decode(0, state.values).map((v, i) => Math.abs(v - before[i])));
        const box = byId("map").getBoundingClientRect(), [c, j] = state.axes[0];
        pointed({ clientX: box.left + box.width / 4, clientY: box.top + box.height / 2 }, true);
        told.dragged = (state.values.get(c.name)[j] - c.low[j]) / (c.high[j] - c.low[j]);
        byId("level").value = 1; byId("level").dispatchEvent(new Event("change"));
        told.sliders = shownControls.length;
        told.about = byId("about").textContent;
        byId("draw").click();
        told.drawn = state.values.get("z1");
        byId("next").click();
        told.next = state.datum;
        return told;""",
        tmp_path,
    )
    assert found["levels"] == [[["z2"], ["z1"]], [["z1"], []]]
    assert found["slid"] == pytest.approx(0.5)
    assert found["changed"] > 1e-4
    assert found["dragged"] == pytest.approx(0.25, abs=0.01)
    assert found["sliders"] == 3
    assert "follow" not in found["about"].split(".")[1]
    assert len(set(found["drawn"])) == 3
    assert found["next"] == 0


@browser
def test_tables_and_bad_text_do_no_harm(tmp_path):
    torch.manual_seed(0)
    data = pv.load_data({"x": torch.randn(60, 5).numpy(), "y": torch.rand(60, 2).numpy()})
    pair = pv.pairs.attribute(data.spec, latent=1, hidden=[4])
    data.spec = replace(data.spec, name="</script><script>alert(1)</script>")
    script = """
        showX();
        return [byId("failure").textContent, byId("map-section").hidden, PAGE.image, IN_ROWS,
          byId("x-caption").textContent];"""
    found, document = after(page_of(pair, data), script, tmp_path)
    said = "mean of p(x | z, y); mark: test datum 0; grey: 90 % of the data"
    assert found == ["", True, None, True, said]
    assert "<script>alert" not in document


def test_the_command_writes_the_page(conditional, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    conditional.save("run")
    assert main(["explore", "run", "--count", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"explorer": "run/explorer.html"}
    assert "conditional on digits" in (tmp_path / "run" / "explorer.html").read_text()
    assert main(["explore", "run", "--out", "page.png"]) == 2
    assert "--out must end in .html" in capsys.readouterr().err
    assert main(["explore", "run", "--count", "0"]) == 2
    assert "count is a number of data" in capsys.readouterr().err


def test_what_has_nothing_to_move_is_refused(digits, conditional, tmp_path):
    with pytest.raises(PairError, match="no latent value per datum"):
        page_of(pv.pairs.autoregressive(digits.spec, hidden=[8]), digits)
    with pytest.raises(PairError, match="has no data to show"):
        explore(conditional.pair, tmp_path / "page.html")
    with pytest.raises(PairError, match=r"end in \.html"):
        explore(conditional, tmp_path / "page.htm")
    structured = pv.pairs.structured(digits.spec, hidden=[8])
    with pytest.raises(PairError, match="the model is given x_in"):
        page_of(structured, digits)
