"""Record a callable that runs Pyro programs once, and replay its tensor operations without Python (docs/compiled.md)."""

from pyro_vae.capture import Observe
from pyro_vae.recording import Recording, record, signature
from pyro_vae.state import RecordingError
from pyro_vae.verify import in_short

__all__ = ["Observe", "Recording", "RecordingError", "in_short", "record", "signature"]
