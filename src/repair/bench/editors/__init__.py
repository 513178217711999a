"""ROME, MEMIT and AlphaEdit, the nearest closed-form relatives."""
