"""Several institutions, one model: each keeps its texts, all get one joint edit.

Knows nothing itself; see ``node`` (an institution), ``coordinator`` (who adds up and solves),
``local`` (a trial on this machine) and ``repair.flower`` (an app for a Flower federation).
"""
