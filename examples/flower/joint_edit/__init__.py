"""The two ends of a joint edit on Flower; all they do is in ``repair.flower``."""
