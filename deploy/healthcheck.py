#!/usr/bin/env python3
"""Exits 0 when the API of this container is ready; shows it the token that it asks for, if LONGWATCH_TOKEN holds one."""

import os
import sys
from urllib.error import URLError
from urllib.request import Request, urlopen

READY = "http://127.0.0.1:8600/v1/health/ready"

try:
    with urlopen(Request(READY, headers={"Authorization": f"Bearer {os.environ.get('LONGWATCH_TOKEN', '')}"}), timeout=5) as response:
        sys.exit(response.status != 200)
except (URLError, OSError) as error:
    sys.exit(f"not ready: {error}")
