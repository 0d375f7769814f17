"""What workers have begun and ended, line by line, in the file that CHAOS_LOG names."""

import os
from pathlib import Path


def note(what, number):
    """Append in one write: several processes do."""
    line = f"{what} {number} {os.getpid()}\n".encode()
    file = os.open(os.environ["CHAOS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


def read(path):
    """(what, number, process) by line, in the order of time."""
    text = Path(path).read_text() if Path(path).exists() else ""
    lines = [line.split() for line in text.splitlines()]
    return [(what, int(number), int(pid)) for what, number, pid in lines]
