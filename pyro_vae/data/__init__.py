"""Named data sets, readers, splits and batches."""

from pyro_vae.data.binarization import key
from pyro_vae.data.columns import Column
from pyro_vae.data.dataset import Data, Spec, listed_classes
from pyro_vae.data.load import load_data
from pyro_vae.data.midi import write_midi
from pyro_vae.data.objects import is_table
from pyro_vae.data.readers import DataError, DataNote, read_idx
from pyro_vae.data.sequences import LOWEST, PITCHES
from pyro_vae.data.sources import DATASETS
from pyro_vae.data.splits import SPLITS
from pyro_vae.data.sprinkler import SPRINKLER

__all__ = [
    "DATASETS",
    "LOWEST",
    "PITCHES",
    "SPLITS",
    "SPRINKLER",
    "Column",
    "Data",
    "DataError",
    "DataNote",
    "Spec",
    "is_table",
    "key",
    "listed_classes",
    "load_data",
    "read_idx",
    "write_midi",
]
