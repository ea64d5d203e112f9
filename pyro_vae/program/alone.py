"""One thread at a time runs programs: Pyro keeps its handlers, and torch its random state, once for all threads."""

import threading

alone = threading.RLock()
"""Held by whoever runs programs; another thread waits, and the same one may enter again."""
