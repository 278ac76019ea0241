# Run by Python at its start, in the second build of "make reproduce" only.
import os
import subprocess

clock = {k: v for k, v in os.environ.items() if k in ("LD_PRELOAD", "NO_FAKE_STAT", "FAKE_UTIME") or k.startswith("FAKETIME")}
start = subprocess.Popen.__init__


def start_with_clock(self, *args, env=None, **kwargs):
    start(self, *args, env=None if env is None else {**env, **clock}, **kwargs)


subprocess.Popen.__init__ = start_with_clock
