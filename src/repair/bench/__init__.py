"""The evaluation: what a method forgets and what it costs, measured the same way for all."""
