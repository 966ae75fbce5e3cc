"""Questions to people: the part of the fold that belongs to approvals."""

from typing import Literal, assert_never

from msgspec.structs import replace

from runfold.events import ApprovalDenied, ApprovalEvent, ApprovalExpired, ApprovalGranted, ApprovalRequested
from runfold.state import Approval

APPROVALS_KEPT_MAX = 50


def evolve_approvals(
    approvals: dict[str, Approval], event: ApprovalEvent, *, at_us: int, opens: bool
) -> dict[str, Approval]:
    """The questions after the event; `opens` is False in a run that rests."""
    status: Literal["granted", "denied", "expired"]
    match event:
        case ApprovalRequested():
            asked = Approval(
                kind=event.kind,
                summary=event.summary,
                amount_micros=event.amount_micros,
                digest=event.digest,
                expires_at=event.expires_at,
                requested_at_us=at_us,
                status="pending" if opens else "expired",
            )
            return _kept({**approvals, event.approval_id: asked})
        case ApprovalGranted():
            status, comment = "granted", event.comment
        case ApprovalDenied():
            status, comment = "denied", event.comment
        case ApprovalExpired():
            status, comment = "expired", ""
        case _:
            assert_never(event)
    asked = approvals.get(event.approval_id, Approval())
    told = replace(asked, status=status, comment=comment, answered_at_us=at_us)
    return _kept({**approvals, event.approval_id: told})


def _kept(approvals: dict[str, Approval]) -> dict[str, Approval]:
    """The open ones and the last answered."""
    while len(approvals) > APPROVALS_KEPT_MAX:
        oldest = next((name for name, it in approvals.items() if it.status != "pending"), next(iter(approvals)))
        approvals = {name: it for name, it in approvals.items() if name != oldest}
    return approvals
