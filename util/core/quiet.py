"""What TensorFlow's libraries say at their start, before they listen to settings."""

import contextlib
import faulthandler
import os
import re
import sys
import tempfile
from typing import Iterator

# Remarks, that they will come to stderr, and that libraries register something twice.
NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|I[0-9]{4} "
    rb"|[WE][0-9]{4} .*(Unable to register cu[A-Z]+ factory|already registered)"
)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Keep NOISE from stderr, as C++ libraries write it; other lines come at the end.

    TF_CPP_MIN_LOG_LEVEL=0 shows everything.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            kept = stack.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
        except OSError:  # no stderr, or no room
            yield
            return
        stack.callback(os.close, stderr)
        if not faulthandler.is_enabled():  # a crash says where, though not why
            faulthandler.enable(stderr, all_threads=False)
            stack.callback(faulthandler.disable)
        _flush()
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(stderr, 2)
            kept.seek(0)
            for line in kept:
                if not NOISE.match(line):
                    os.write(stderr, line)


def _flush():
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()
