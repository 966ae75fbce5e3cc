import type { components } from "@/api/schema";

export type Span = components["schemas"]["Span"];

export interface Bar {
  span: Span;
  depth: number;
  /** Where the bar begins and how long it is, in hundredths of the whole time. */
  left: number;
  width: number;
  isOpen: boolean;
  durationMs: number;
}

const WIDTH_MIN = 0.3; // A bar that took no time is still seen.

/**
 * Spans as the bars of a waterfall, up to a moment: what began later is not there, what ended later still goes on.
 */
export function bars(spans: readonly Span[], untilMs: number): Bar[] {
  const begun = spans.filter((span) => Date.parse(span.started_at) <= untilMs);
  if (!begun.length) return [];
  const end = (span: Span) => Math.min(span.ended_at === null ? untilMs : Date.parse(span.ended_at), untilMs);
  let first = Infinity;
  let last = -Infinity;
  for (const span of begun) {
    first = Math.min(first, Date.parse(span.started_at));
    last = Math.max(last, end(span));
  }
  const whole = Math.max(last - first, 1);
  const depths = new Map<number, number>();
  return begun.map((span) => {
    const depth = span.parent === null ? 0 : (depths.get(span.parent) ?? -1) + 1;
    depths.set(span.position, depth);
    const started = Date.parse(span.started_at);
    const durationMs = Math.max(end(span) - started, 0);
    const width = Math.min(Math.max((durationMs / whole) * 100, WIDTH_MIN), 100);
    return {
      span,
      depth,
      left: Math.min(((started - first) / whole) * 100, 100 - width),
      width,
      isOpen: span.ended_at === null || Date.parse(span.ended_at) > untilMs,
      durationMs,
    };
  });
}

const BAD = /^(failed|error|rejected|denied|expired|exit )/;
const ENDED = /^(interrupted|cancelled|skipped)/;

/** The colour pair that a span's ending is shown in. */
export function toneOf(bar: Bar): string {
  if (bar.span.kind === "pause" || bar.span.kind === "approval") return "paused";
  if (bar.isOpen) return "running";
  if (BAD.test(bar.span.status)) return "failed";
  return ENDED.test(bar.span.status) ? "cancelled" : "completed";
}
