"""Signals that end a program, and signals by which a scheduler announces the end."""
import contextlib
import os
import signal
import sys
import threading


def _existing(*names):
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# A closing terminal sends SIGHUP; schedulers send it too.
STOP = _existing('SIGINT', 'SIGTERM', 'SIGHUP')
SAVE = _existing('SIGUSR1', 'SIGUSR2')      # a scheduler announces a job's end by one
# If nohup or a batch script ignores these signals, they stay ignored.
KEPT_IGNORED = _existing('SIGHUP', 'SIGUSR1', 'SIGUSR2')


@contextlib.contextmanager
def handled(numbers, handler):
    """Calls handler(number) for these signals within the block, in the main thread.

    In another thread the signals stay as they are: Python sets and calls handlers in the main one
    only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number, frame):
        if number == getattr(signal, 'SIGHUP', None):
            leave_terminal()
        handler(number)

    previous = {number: signal.signal(number, handle) for number in numbers
              if number not in KEPT_IGNORED or signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)


@contextlib.contextmanager
def received():
    """Yields two lists of received signals: those that end the run, those that ask for a save.

    After the first signal to end, the run finishes the step and saves. A second one ends at once.
    """
    stop, save = [], []

    def record(number):
        if number in SAVE:
            save.append(number)
        elif stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        elif stop:
            sys.exit(128 + number)
        else:
            stop.append(number)

    with handled(STOP + SAVE, record):
        yield stop, save


def leave_terminal():
    """Redirects standard output and error to the null device if their terminal is gone.

    Writing to it would fail.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            os.write(stream.fileno(), b'')
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
