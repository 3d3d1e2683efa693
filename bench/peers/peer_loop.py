"""What the peers in Python share: one request as JSON on a line, one answer as JSON.

To be imported before any library: whatever libraries print goes to stderr.
"""

import json
import os
import sys

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

VOCABULARY = 20_000


def token_at(row, i):
    return (300 + row * 131 + i * 17) % VOCABULARY


def serve(peer):
    """Calls the peer's method `op` with the request's other fields until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        try:
            answer = getattr(peer, op)(**request)
        except Exception as error:  # the other side decides what to do
            answer = {"error": f"{type(error).__name__}: {error}"}
        ANSWERS.write(json.dumps(answer) + "\n")
        ANSWERS.flush()
