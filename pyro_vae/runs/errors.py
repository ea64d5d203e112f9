"""What is raised, and what is said, about run folders."""


class RunError(ValueError):
    """A run folder that cannot be used; the message says why and what to do."""


class RunNote(UserWarning):
    """What a run is used as, in one sentence, where that is not as it was stored."""
