"""RePAIR: tell a language model in plain words to forget, and its weights change.

``from repair import Patient, Session``. Importing the package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repair.patient import Patient
    from repair.session import Session

__version__ = "0.1.0"
__all__ = ["Patient", "Session", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Patient":
        from repair.patient import Patient

        return Patient
    if name == "Session":
        from repair.session import Session

        return Session
    raise AttributeError(f"module 'repair' has no attribute {name!r}")
