"""A machine's wall clock that is set to another time while its programs run.

Only what tells the time of day is shifted; clocks that measure durations go on, as they do on a
real machine.
"""

from pathlib import Path

# Python runs a module of this name before anything else.
WATCH = """
import threading, time
from datetime import UTC, datetime, timedelta
from pathlib import Path

FILE = Path({file!r})

def follow():
    shown, travel = 0.0, None
    while True:
        try:
            wanted = float(FILE.read_text())
        except (OSError, ValueError):
            wanted = 0.0
        if wanted != shown:
            import time_machine
            if travel:
                travel.stop()
            travel, shown = None, wanted
            if wanted:
                there = datetime.now(UTC) + timedelta(seconds=wanted)
                travel = time_machine.travel(there, tick=True)
                travel.start()
        time.sleep(0.2)

threading.Thread(target=follow, daemon=True).start()
"""


class SteppedClock:
    """The clock of all programs that are started with this folder as their PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._file = folder / "seconds"
        (folder / "sitecustomize.py").write_text(WATCH.format(file=str(self._file)))

    def step(self, seconds: float) -> None:
        """Set the clock so far ahead of the true time, or back; 0 is the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)
