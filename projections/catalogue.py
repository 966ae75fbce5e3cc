"""Every view there is."""

from projections import approvals, artifacts, audit_fold, history, runs, sessions, stats, step_cache, timeline, usage
from projections.engine.view import View

VIEWS: tuple[View, ...] = (
    runs.VIEW,
    history.VIEW,
    audit_fold.VIEW,
    usage.VIEW,
    timeline.VIEW,
    artifacts.VIEW,
    stats.VIEW,
    approvals.VIEW,
    step_cache.VIEW,
    sessions.VIEW,
)
