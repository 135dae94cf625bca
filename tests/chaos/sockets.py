"""Which process a connection comes from, as Linux tells it in /proc."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def has_port(pid: int, port: int) -> bool:
    """Whether the process holds a TCP socket of this local port (proc(5): net/tcp, pid/fd)."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if str(descriptor.readlink()) in wanted:
                    return True
    return False


def _inodes(port: int) -> Iterator[str]:
    with suppress(OSError):
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
