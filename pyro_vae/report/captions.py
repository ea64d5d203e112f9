"""A sentence below each picture, what good looks like; and a report's opening answer."""

from collections import Counter
from collections.abc import Mapping

from pyro_vae.diagnostics import Diagnosis
from pyro_vae.evidence import Figures

GOOD = {
    "samples": "New data from the model: good ones could be data, and differ from each other as data do.",
    "reconstructions": "Good reconstructions keep what makes a datum itself; what all lack is noise to the model.",
    "manifold": "Equally likely codes side by side: a good plane has no holes, and neighbours are alike.",
    "scatter": "Good codes cover the grey draws of the prior, where samples begin.",
    "interpolation": "Good paths pass through what could be data all the way.",
    "traversal": "One dimension moves per row, the weightiest first: good rows change one thing, idle ones nothing.",
    "classes": "Good rows keep the class, good columns the style.",
    "analogies": "Good rows keep the datum's style as its class changes.",
    "attributes": "Good rows change the attribute and nothing else.",
    "levels": "Each level drawn anew, those above held: good hierarchies decide the whole above, details below.",
    "completions": "Good completions agree with what is given, and differ where it leaves them free.",
    "growth": "Draws as they come about, feature after feature: good ones stay whole to the end.",
    "nats": "What the model did not expect is dear: good models pay at edges, not in plain areas.",
    "codebook": "Each code decoded by itself: good codes differ, and none stays unused.",
    "code-map": "Which code stands where: good maps repeat codes where the data repeat.",
    "rolls": "Good draws cannot be told from the sequences above them.",
    "states": "Good states follow the true ones up to a linear map.",
    "through-noise": "From one datum to another by way of their noise: good paths stay among data.",
    "beside": "Good draws could stand in the rows of data; those at the left give themselves away.",
    "critic": "Where the two lie on each other, the critic cannot tell draws from data.",
    "filters": "Good filters look like strokes or parts; those that look like noise answer to nothing.",
    "chains": "Good chains move from one kind of data to another; those that stay have not mixed.",
    "bracket": "The two curves enclose log Z: good ones meet.",
    "noising": "Good schedules spend as many steps on small noise as on large.",
    "denoising": "Good draws become data step by step, the whole first and details last.",
    "few-steps": "Good samples survive fewer steps.",
    "nats-per-level": "Where the nats go: a good schedule has no peak that one step has to pay for alone.",
    "components": "Good components differ, and their bars say that each is used.",
    "frames": "Means step by step: good runs separate them early.",
    "steps": "Each E step touches log p(x) where the guide is exact, and no M step goes down.",
    "kl": "Dimensions by what they carry: good ones carry something, those near 0 could be left out.",
    "tables": "Probabilities of each node given its parents; compare them with what you know.",
    "curves": "Good curves level off together; where validation falls as training goes on, the pair overfits.",
    "graph": "What depends on what in the model, and by what q infers it.",
}
"""What good looks like, by picture."""

EXAMINED = {
    "khat": ("Good bars lie left of 0.7: there, draws of q can be weighted into log p(x).", "k-hat"),
    "gaps": ("Good bars are short beside the KL; the longer part says what to change.", "amortization gap"),
    "ranks": ("Good curves stay inside the band.", "simulation-based calibration"),
    "coverage": (
        "Good curves stay in the band around the diagonal; below it q is too narrow, above it too wide.",
        "coverage (TARP)",
    ),
    "units": ("Bars above the line carry information.", ""),
    "pixels": ("Good curves follow the diagonal.", "pixel calibration"),
    "worst": ("What q serves worst: good is no pattern that the best served lack.", ""),
    "samples": ("Good draws could stand in the row below.", "classifier two-sample test"),
}
"""The same for pictures of a diagnosis, with the check whose words say what this one shows."""


def examined(name: str, diagnosis: Diagnosis) -> str:
    """Return the sentence below a diagnosis's picture: what good looks like, and what this is."""
    good, check = EXAMINED[name]
    said = next((v.advice.partition(";")[0] for v in diagnosis.verdicts if v.check == check), "")
    return f"{good} Here: {said}." if said else good


def answer(figures: Figures, pca: Mapping[str, float] | None, diagnosis: Diagnosis | None) -> str:
    """Return the first sentences of a report: how well it does, and whether to believe it."""
    said = f"{figures.reached} nats per datum on the {figures.split} split"
    if pca and "log_evidence" in pca and figures.log_evidence is not None:
        said += f", against {pca['log_evidence']:.2f} for PCA of the same size"
    if diagnosis is None:
        return f"{said}. Whether to believe {'it' if figures.meaning.implicit else 'q(z | x)'} is not examined yet."
    count = Counter(verdict.verdict for verdict in diagnosis.verdicts)
    judged = [f"{count[level]} {level}" for level in ("good", "fair", "bad") if count[level]]
    bad = [verdict.check for verdict in diagnosis.verdicts if verdict.verdict == "bad"]
    return f"{said}. Of the checks, {', '.join(judged)}{': ' + ', '.join(bad) if bad else ''}."
