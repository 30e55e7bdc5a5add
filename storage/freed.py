"""What a process frees it keeps for what comes next: new memory from the system costs more than what is read into it."""

import ctypes

# As in malloc.h of glibc.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

KEEP = 128 << 20  # bytes that are free at the end, at most: twice 2,048 carriers of a 7B model
LARGE = 32 << 20  # what is larger is the system's own again at once, and glibc takes no higher limit


def keep_freed() -> bool:
    """For the rest of the process, where the C library is glibc. False: it is another, which does as it does.

    Left alone, glibc comes to such limits by itself, but only as large blocks happen to be freed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGE)) and bool(mallopt(M_TRIM_THRESHOLD, KEEP))
