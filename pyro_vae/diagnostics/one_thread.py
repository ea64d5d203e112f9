"""Small fits of scikit-learn on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Products of matrices inside take one thread.

    Those of a perceptron's batches are so small that threads only wait for one another, and on
    cores that other programs use they wait long: the classifier of the digits, 1 s of processor
    time, took 24 s (and 159 on the clock) with two threads beside three other processes.
    """
    import sklearn  # noqa: F401 (only libraries that are loaded can be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield
