"""What a pair is: `Pair` and its contract, sites, handlers, log-weights, and the graphical model."""

from pyro_vae.program.alone import alone
from pyro_vae.program.batches import one_batch
from pyro_vae.program.checking import check_pair, find_problems, require_sound
from pyro_vae.program.contract import Problem
from pyro_vae.program.declaration import Declaration, Figure, declared
from pyro_vae.program.graphical_model import Node, descendants, structure
from pyro_vae.program.handlers import FreeBits, PerDatum, Tempered, Wrapped, uncondition, unwrapped, whole_plates
from pyro_vae.program.pair import Batch, BatchProgram, Pair, PairError, evaluating, program_name, size_of
from pyro_vae.program.particle_plate import PARTICLES, Runs, particles, stacking, warn_of_left
from pyro_vae.program.point_guides import point_sites, points
from pyro_vae.program.sites import (
    event_dim_of,
    innermost,
    is_data,
    is_deterministic,
    is_discrete,
    is_enumerated,
    is_factor,
    is_latent,
    is_masked,
    is_point,
    is_site,
    samples,
)
from pyro_vae.program.tracing import trace_of, trace_pair
from pyro_vae.program.unconstrained import Latents, latents_of, simulate
from pyro_vae.program.weights import (
    Terms,
    add_up,
    data_frame,
    evaluation,
    log_prob,
    log_weights,
    per_datum,
    pieces,
    plate_nesting,
    run,
    takes_particles,
    terms,
    weigh,
)

__all__ = [
    "PARTICLES",
    "Batch",
    "BatchProgram",
    "Declaration",
    "Figure",
    "FreeBits",
    "Latents",
    "Node",
    "Pair",
    "PairError",
    "PerDatum",
    "Problem",
    "Runs",
    "Tempered",
    "Terms",
    "Wrapped",
    "add_up",
    "alone",
    "check_pair",
    "data_frame",
    "declared",
    "descendants",
    "evaluating",
    "evaluation",
    "event_dim_of",
    "find_problems",
    "innermost",
    "is_data",
    "is_deterministic",
    "is_discrete",
    "is_enumerated",
    "is_factor",
    "is_latent",
    "is_masked",
    "is_point",
    "is_site",
    "latents_of",
    "log_prob",
    "log_weights",
    "one_batch",
    "particles",
    "per_datum",
    "pieces",
    "plate_nesting",
    "point_sites",
    "points",
    "program_name",
    "require_sound",
    "run",
    "samples",
    "simulate",
    "size_of",
    "stacking",
    "structure",
    "takes_particles",
    "terms",
    "trace_of",
    "trace_pair",
    "uncondition",
    "unwrapped",
    "warn_of_left",
    "weigh",
    "whole_plates",
]
