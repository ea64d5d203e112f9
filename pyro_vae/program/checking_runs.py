"""Checks that the programs run on a batch, with nets that can be found; errors in the pair's terms."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import Independent
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.program.contract import Look, Problem, first_line
from pyro_vae.program.pair import Batch, BatchProgram, Pair, PairError
from pyro_vae.program.sites import innermost, samples
from pyro_vae.program.tracing import trace_pair, trace_without_gradients
from pyro_vae.runs import seeded

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def arguments(pair: Pair, batch: Any) -> Iterator[Problem]:
    """The batch must hold the fields that the programs name, as finite tensors with one row per
    datum.
    """
    if not isinstance(batch, Mapping):
        field = next(iter(pair.fields), "x")
        problem = f"the batch is a {type(batch).__name__} and must be a dictionary of fields"
        yield Problem("", problem, f"Pass {{{field!r}: ...}}")
        return
    if not batch:
        yield Problem(
            "", "the batch has no fields", "Pass a dictionary of tensors by the names of the programs' parameters"
        )
    for bound in (pair.bound_model, pair.bound_guide):
        for name in bound.required:
            if name not in batch:
                has = ", ".join(map(repr, batch))
                problem = f"{bound.name} needs the field {name!r} and the data have {has}"
                yield Problem(name, problem, f"Use data with {name!r}, or rename the parameter")
    rows = None
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
            problem = f"the field {name!r} is a {kind.removeprefix('builtins.')} and programs take tensors"
            yield Problem(name, problem, f"Pass torch.as_tensor({name})")
            continue
        if value.dim() == 0 or not len(value):
            yield Problem(
                name, f"the field {name!r} has shape {tuple(value.shape)}, which is no datum", "Give it a row per datum"
            )
        elif rows is not None and len(value) != rows[1]:
            problem = f"the field {name!r} has {len(value)} rows and the field {rows[0]!r} has {rows[1]}"
            yield Problem(name, problem, "Give every field a row per datum")
        else:
            rows = rows or (name, len(value))
        if value.is_floating_point() and not value.isfinite().all():
            problem = f"{int((~value.isfinite()).sum())} of {value.numel()} values of the field {name!r} are not finite"
            yield Problem(name, problem, "Remove the NaN and infinite values from the data")


def runs(look: Look) -> Iterator[Problem]:
    """Both programs must run on the batch, and every net that they call must be found from them."""
    called: dict[int, tuple[nn.Module, str]] = {}
    for who, bound in ((look.guide_name, look.pair.bound_guide), (look.model_name, look.pair.bound_model)):
        names = _Names()
        note = register_module_forward_pre_hook(partial(_note, called, who))
        try:
            with names:
                _density(bound, look.batch)
        except Exception as error:
            yield _failure(look, bound, error, names)
            if isinstance(error, PairError):  # the other program would say the same
                return
        finally:
            note.remove()
    look.ran = set(called)
    known = {id(part) for module in look.pair.modules().values() for part in module.modules()}
    lost = [(module, who) for key, (module, who) in called.items() if key not in known and _has_state(module)]
    within = {id(part) for module, _ in lost for part in module.modules() if part is not module}
    for module, who in lost:
        if id(module) not in within:
            yield Problem(
                "",
                f"{who} runs a {type(module).__name__} that cannot be found from it, so that its mode could not be "
                "switched nor its state be saved",
                "Keep it in an attribute, a variable of the function, or a list or dictionary there",
            )


def sizes(look: Look) -> Iterator[Problem]:
    """No program may keep parameters for each datum of one batch: the next batch has other data."""
    half = look.size // 2
    error = _failed(look.pair, {name: value[:half] for name, value in look.batch.items()})
    if error is None or look.size == 1 or _failed(look.pair, look.batch) is not None:  # of whatever size
        return
    for name, parameter in look.pair.named_parameters().items():
        if look.size in parameter.shape:
            problem = (
                f"{name!r} of shape {tuple(parameter.shape)} is a parameter for each of the {look.size} data of a "
                f"batch, and the programs fail on {half}: {first_line(error)}"
            )
            yield Problem(name, problem, "Compute it from the data with a net, which no autoguide does")
            return


def _failed(pair: Pair, batch: Batch) -> Exception | None:
    """Return what running both programs on a batch raises."""
    try:
        with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
            _, model = trace_pair(pair.bound_guide, pair.bound_model, batch)
            model.compute_log_prob()
    except Exception as error:
        return error
    return None


def _note(called: dict[int, tuple[nn.Module, str]], who: str, module: nn.Module, _: Any) -> None:
    called.setdefault(id(module), (module, who))


class _Names(Messenger):
    """Notes which names are plates'."""

    def __init__(self) -> None:
        super().__init__()
        self.plates: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            self.plates.add(msg["name"])


def _has_state(module: nn.Module) -> bool:
    held = [*module.parameters(), *module.buffers()]
    return bool(held) or any(isinstance(part, DROPOUTS) for part in module.modules())


def _density(bound: BatchProgram, batch: Batch) -> None:
    with seeded(0), pyro.validation_enabled(False):
        trace = trace_without_gradients(bound, batch)
    for name, site in samples(trace).items():
        try:
            with torch.no_grad(), pyro.validation_enabled(False):
                site["fn"].log_prob(site["value"])
        except (NotImplementedError, KeyError):  # a guide whose density is known at its own draws only
            continue
        except Exception as error:
            if site["is_observed"]:
                raise RuntimeError(f"log p of site {name!r}: {first_line(error)}") from error


def _failure(look: Look, bound: BatchProgram, error: Exception, names: _Names) -> Problem:
    """Return what an error of Pyro or torch means for the pair."""
    text = first_line(error)
    if isinstance(error, PairError):  # says what to change
        what, _, change = text.partition("; ")
        return Problem("", what, f"{change[:1].upper()}{change[1:]}" or "Change the program or the batch")
    twice = re.search(r"Multiple \w+ sites named '(.+)'", text)
    if twice and twice[1] in names.plates:
        change = f"Make it once, data = pyro.plate({twice[1]!r}, len(x)), and write `with data:` wherever it is needed"
        return Problem(twice[1], f"{bound.name} opens the plate {twice[1]!r} twice", change)
    if twice:
        problem = f"{bound.name} has two sites named {twice[1]!r}"
        return Problem(twice[1], problem, "Give each sample statement a name of its own")
    mixed = re.search(r"(\S+) is already in the trace as a (\w+)", text)
    if mixed:
        problem = f"{bound.name} has both a {mixed[2]} and another statement named {mixed[1]!r}"
        return Problem(mixed[1], problem, "Give each statement a name of its own")
    shape = re.search(r"Shape mismatch inside plate\('(.+)'\) at site (\S+) dim (-\d+), (\d+) vs (\d+)", text)
    if shape:
        return _no_event(look, bound, error, *shape.groups())
    if "does not require grad" in text:
        problem = f"{bound.name} takes gradients, which the library switches off where it trains nothing"
        return Problem("", problem, "Take them within `with torch.enable_grad():`")
    other = _other_dtype(look, bound)
    if other is not None:
        return other
    shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in bound.arguments(look.batch).items())
    problem = f"{bound.name} fails on the batch ({shapes}): {text}"
    return Problem("", problem, "Make it accept fields of these shapes and dtypes")


def _no_event(
    look: Look, bound: BatchProgram, error: Exception, plate: str, site: str, dim: str, wanted: str, has: str
) -> Problem:
    if plate == look.pair.data_plate and int(wanted) != look.size:
        problem = f"plate {plate!r} of {bound.name} has size {wanted} and the batch {look.size} data"
        return Problem("", problem, "Open it with the batch's size, len(x)")
    fn, plates = _refused(error, site)
    dims = 1
    if fn is not None:
        declared = fn.event_dim - innermost(fn, (Independent,)).event_dim
        dims = declared + max(1, len(fn.batch_shape) - plates)
    problem = (
        f"the distribution of site {site!r} of {bound.name} has size {has} at dim {dim}, where the plate {plate!r} has "
        f"{wanted}: a batch dimension that belongs to one datum"
    )
    return Problem(site, problem, f"Declare the event dimensions of a datum, .to_event({dims})")


def _refused(error: BaseException | None, site: str) -> tuple[Any, int]:
    """Return the distribution that a plate refused, and the number of plates around it, from the
    error's frames.
    """
    while error is not None:
        frame = error.__traceback__
        while frame is not None:
            msg = frame.tb_frame.f_locals.get("msg")
            if isinstance(msg, dict) and msg.get("name") == site:
                return msg["fn"], len(msg["cond_indep_stack"])
            frame = frame.tb_next
        error = error.__cause__
    return None, 1


def _other_dtype(look: Look, bound: BatchProgram) -> Problem | None:
    """Return the problem if the program runs with a field of another dtype that holds its values."""
    own = [p.dtype for p in look.pair.named_parameters().values()] or [torch.get_default_dtype()]
    floats = {name: value for name, value in bound.arguments(look.batch).items() if value.is_floating_point()}
    trials = [{name: value.to(own[0]) for name, value in floats.items()}]
    for name, value in bound.arguments(look.batch).items():
        casts = [value.to(dtype) for dtype in (own[0], torch.long, torch.bool) if dtype is not value.dtype]
        trials += [{name: cast} for cast in casts if torch.equal(cast.double(), value.double())]
    for changed in trials:
        changed = {name: value for name, value in changed.items() if value.dtype is not look.batch[name].dtype}
        if not changed:
            continue
        try:
            _density(bound, {**look.batch, **changed})
        except Exception:
            continue
        name, value = next(iter(changed.items()))
        fields = (
            " and ".join(map(repr, changed))
            + (" is " if len(changed) == 1 else " are ")
            + _name(look.batch[name].dtype)
        )
        problem = f"the data's {fields}, and {bound.name} needs {_name(value.dtype)}"
        change = f"Convert the data, {name}.to({value.dtype})"
        both = value.is_floating_point() and look.batch[name].is_floating_point()
        return Problem(name, problem, change + (f", or the nets, .to({look.batch[name].dtype})" if both else ""))
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
