"""Every view there is."""

from projections import approvals, artifacts, history, runs, sessions, stats, step_cache, timeline, usage
from projections.audit import fold as audit
from projections.engine.view import View

VIEWS: tuple[View, ...] = (
    runs.VIEW,
    history.VIEW,
    audit.VIEW,
    usage.VIEW,
    timeline.VIEW,
    artifacts.VIEW,
    stats.VIEW,
    approvals.VIEW,
    step_cache.VIEW,
    sessions.VIEW,
)
