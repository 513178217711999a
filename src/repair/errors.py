"""The one family of errors a user can meet: what happened, the remedy, an exit code.

Knows nothing about models or terminals. Every front door maps these by type, so the
code below a front door raises and never prints.
"""

from __future__ import annotations

from typing import ClassVar


class RepairError(Exception):
    """An expected failure with a sentence for the user.

    Args:
        message: one sentence that says what is wrong.
        remedy: one sentence that says what to do about it; empty when nothing can be done.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 400
    code: ClassVar[str] = "repair_error"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class UsageError(RepairError):
    """The request itself is malformed: empty, too long, an id that does not exist."""

    exit_code = 2
    code = "invalid_request"


class UnknownEdit(UsageError):
    """The ledger has no edit with this id."""

    http_status = 404
    code = "unknown_edit"


class UnknownModel(UsageError):
    """No model of this name is served."""

    http_status = 404
    code = "model_not_found"


class OperationRefused(RepairError):
    """The edit was understood and not made: budget, policy, or nothing to forget."""

    exit_code = 1
    http_status = 409
    code = "operation_refused"


class NotAllowed(OperationRefused):
    """The person who asks may not do this."""

    http_status = 403
    code = "not_allowed"


class UnknownKey(RepairError):
    """A key is needed, or the one given is not in force."""

    http_status = 401
    code = "invalid_api_key"


class RateLimited(RepairError):
    """Too many requests in too little time."""

    http_status = 429
    code = "rate_limit_exceeded"


class PolicyRefused(OperationRefused):
    """The policy forbids the request; nothing was changed."""

    http_status = 403
    code = "policy_refused"


class NotFinite(OperationRefused):
    """A solve produced NaN or infinity; nothing was changed."""

    code = "not_finite"


class EnvironmentProblem(RepairError):
    """Model, disk, memory or database: not the user's sentence."""

    exit_code = 3
    http_status = 503
    code = "environment"


class ModelNotFound(EnvironmentProblem):
    """No model at this id or folder, or its files are broken."""

    code = "model_not_found"


class ModelNotEditable(EnvironmentProblem):
    """The architecture or the weights' format cannot take an edit."""

    code = "model_not_editable"


class NotEnoughMemory(EnvironmentProblem):
    """The estimate says that the model will not fit."""

    code = "not_enough_memory"


class LedgerCorrupted(EnvironmentProblem):
    """The ledger cannot be read or its hash chain is broken."""

    code = "ledger_corrupted"


class LedgerBusy(EnvironmentProblem):
    """Another process holds the ledger's write lock."""

    code = "ledger_busy"


class DiskFull(EnvironmentProblem):
    """The ledger or an export could not be written."""

    code = "disk_full"


class ExportUnsupported(EnvironmentProblem):
    """This model cannot be written in that format."""

    code = "export_unsupported"


class EndpointProblem(EnvironmentProblem):
    """A server cannot be reached or does not answer as an OpenAI-compatible one does."""

    code = "endpoint_problem"


class BadMessage(RepairError):
    """A message of another party that is malformed, too large or not believable."""

    code = "bad_message"
