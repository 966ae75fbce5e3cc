"""All pages of an answer of the audit, one after the other."""

import msgspec

from projections.audit.answers import AuditItem, find_audit
from projections.audit.question import AuditFilter
from projections.engine.views import Views


def every_page(views: Views, wanted: AuditFilter) -> list[AuditItem]:
    items, cursor = list[AuditItem](), None
    while True:
        page = find_audit(views.connection, msgspec.structs.replace(wanted, cursor=cursor))
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items
