"""coatcheck beside other ways to do its job: CPU per message and messages per second, as ratios in the same run.

    python -m benchmarks.peers --runs 5 --json peers.json
    python -m benchmarks.peers --only boto3_rows aio_asyncpg --messages 20000

Every contestant empties a queue of the same null SQS server into a fresh database of the same durable PostgreSQL,
in turn in each round, and is checked: as many rows, masked, and deletes as messages. The peers are ours, each as
one would write it who knows its libraries. They keep no vault and no ledger, and try nothing again. The exit code
is 1 if a run was wrong; a peer that cannot be installed here is skipped with a word.
"""

from __future__ import annotations

import sys

from benchmarks.peers.command import main

if __name__ == "__main__":
    sys.exit(main())
