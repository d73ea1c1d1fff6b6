"""``python -m slm_bench.serve.attacks NAME PORT MODEL PLACES SECONDS``: attack a server, then print what happened."""

import asyncio
import json
import sys
import time

from slm_bench.serve.attacks.blocking_bodies import blocking_bodies
from slm_bench.serve.attacks.connection_flood import connection_flood
from slm_bench.serve.attacks.huge_headers import huge_headers
from slm_bench.serve.attacks.slow_requests import slow_requests
from slm_bench.serve.attacks.stalled_readers import stalled_readers
from slm_bench.serve.attacks.target import Target

ATTACKS = {
    attack.__name__: attack
    for attack in (stalled_readers, huge_headers, slow_requests, blocking_bodies, connection_flood)
}


def main() -> None:
    """Run one attack, and print its counts as JSON."""
    name, port, model, places, seconds = sys.argv[1:]
    _raise_file_limit()
    target = Target(int(port), model, int(places), time.monotonic() + float(seconds))
    print(json.dumps(asyncio.run(ATTACKS[name](target))))


def _raise_file_limit() -> None:
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
