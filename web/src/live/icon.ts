import completed from "@/icons/completed.svg";
import failed from "@/icons/failed.svg";
import paused from "@/icons/paused.svg";
import queued from "@/icons/queued.svg";
import running from "@/icons/running.svg";
import type { Status } from "@/words/status";

const ICONS: Readonly<Record<Status, string>> = {
  queued, running, completed, failed, pausing: paused, paused, cancelling: paused, cancelled: queued, stopping: paused, stopped: paused,
};

/** The icon of the browser's tab tells how its run stands; null: no run is shown. */
export function showStatus(status: Status | null): void {
  const link = document.querySelector<HTMLLinkElement>('link[rel="icon"]');
  if (!link) return;
  link.dataset.usual ??= link.href;
  link.href = status ? ICONS[status] : link.dataset.usual;
}
