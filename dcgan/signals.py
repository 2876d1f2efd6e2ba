"""Signals that end a program, and those by which a scheduler announces the end."""
import contextlib
import os
import signal
import sys


def _existing(*names):
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# SIGHUP comes when the terminal is closed, and from schedulers.
STOP = _existing('SIGINT', 'SIGTERM', 'SIGHUP')
SAVE = _existing('SIGUSR1', 'SIGUSR2')
KEPT_IGNORED = _existing('SIGHUP', 'SIGUSR1', 'SIGUSR2')    # nohup and batch scripts set this


@contextlib.contextmanager
def handled(numbers, handler):
    """Within it handler(number) is called for these signals, also from within the main thread."""
    def handle(number, frame):
        if number == getattr(signal, 'SIGHUP', None):
            leave_terminal()
        handler(number)

    before = {number: signal.signal(number, handle) for number in numbers
              if number not in KEPT_IGNORED or signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def received():
    """Yields two lists of signals that came: those that end the run, those that ask for a save.

    After the first one to end, the step is finished and saved. A second one ends at once.
    """
    stop, save = [], []

    def note(number):
        if number in SAVE:
            save.append(number)
        elif stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        elif stop:
            sys.exit(128 + number)
        else:
            stop.append(number)

    with handled(STOP + SAVE, note):
        yield stop, save


def leave_terminal():
    """Has standard output and error go nowhere where their terminal is gone: writing would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            os.write(stream.fileno(), b'')
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
