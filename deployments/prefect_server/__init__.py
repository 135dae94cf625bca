"""Prefect's own server, made to bear many closes at once: `__main__` says by what."""
