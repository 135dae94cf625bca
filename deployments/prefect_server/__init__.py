"""Prefect's own server, safe and with settings for many closes at once: `__main__` says which."""
