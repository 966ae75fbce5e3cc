import type { components } from "@/api/schema";

export type Span = components["schemas"]["Span"];

/** A while, in milliseconds since 1970. */
export interface Reach {
  fromMs: number;
  toMs: number;
}

export interface Bar {
  span: Span;
  depth: number;
  /** Where the bar begins and how long it is, in hundredths of the while that is shown. */
  left: number;
  width: number;
  isOpen: boolean;
  durationMs: number;
}

const WIDTH_MIN = 0.3; // A bar that took no time is still seen.

/** From the first start to the last that is known of; what is open goes on until a moment. */
export function whole(spans: readonly Span[], untilMs: number): Reach {
  let fromMs = Infinity;
  let toMs = -Infinity;
  for (const span of spans) {
    fromMs = Math.min(fromMs, Date.parse(span.started_at));
    toMs = Math.max(toMs, span.ended_at === null ? untilMs : Date.parse(span.ended_at));
  }
  return { fromMs, toMs: Math.max(toMs, fromMs + 1) };
}

/** Where a moment lies in a while, in hundredths; before and after it at its ends. */
export function placed(ms: number, { fromMs, toMs }: Reach): number {
  return Math.min(Math.max(((ms - fromMs) / Math.max(toMs - fromMs, 1)) * 100, 0), 100);
}

/** Spans as the bars of a waterfall of a while; what has not ended goes on until a moment. */
export function bars(spans: readonly Span[], untilMs: number, reach: Reach): Bar[] {
  const depths = new Map<number, number>();
  return spans.map((span) => {
    const depth = span.parent === null ? 0 : (depths.get(span.parent) ?? -1) + 1;
    depths.set(span.position, depth);
    const startMs = Date.parse(span.started_at);
    const endMs = Math.max(span.ended_at === null ? untilMs : Date.parse(span.ended_at), startMs);
    const left = placed(startMs, reach);
    const width = Math.min(Math.max(placed(endMs, reach) - left, WIDTH_MIN), 100);
    return { span, depth, left: Math.min(left, 100 - width), width, isOpen: span.ended_at === null, durationMs: endMs - startMs };
  });
}

const BAD = /^(failed|error|rejected|denied|expired|exceeded|exit )/;
const ENDED = /^(interrupted|cancelled|skipped)/;

/** The colour pair that a span's ending is shown in. */
export function toneOf({ span, isOpen }: Pick<Bar, "span" | "isOpen">): string {
  if (span.kind === "pause" || span.kind === "approval" || span.status === "warned") return "paused";
  if (isOpen) return "running";
  if (BAD.test(span.status)) return "failed";
  return ENDED.test(span.status) ? "cancelled" : "completed";
}
