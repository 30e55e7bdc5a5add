import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from storage.freed import keep_freed

def fill() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(100_000, np.uint8) for _ in range(400)] + [np.ones(8_000_000, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed()
print(*(fill() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_what_was_freed_serves_again() -> None:
    """Of 72 MB, 17,600 pages."""
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    first, *again = map(int, told.stdout.split())
    assert first > 10_000 and max(again) < 1000
