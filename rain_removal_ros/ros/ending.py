"""What ends the node: signals, or a word from another thread. Imports nothing slow, so it can come first."""

from __future__ import annotations

import os
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Waits for what ends the node: SIGINT, SIGTERM, SIGHUP (unless it began with that ignored), or a word
    from another thread.

    All of them write a byte into a pipe. Python tells the main thread alone of a signal, and a main thread
    that waits at a lock does not wake up for one that another thread received; the pipe gets every signal,
    also those that came while the node was still being imported.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # whoever started the node wants it to outlive the terminal, as nohup does
            signal.signal(number, lambda *_: None)  # the byte of its number is in the pipe already

    def ask(self, status: int) -> None:
        """End the node with this exit status."""
        os.write(self._write, bytes([signal.NSIG + status]))

    def wait(self) -> int | None:
        """Wait until something ends the node; gives the exit status that was asked for, None for a signal."""
        [byte] = os.read(self._read, 1)
        return byte - signal.NSIG if byte >= signal.NSIG else None

    def over(self) -> None:
        """Ignore further signals: while the interpreter shuts down, it would let one kill the process."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
