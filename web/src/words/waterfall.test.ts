import { expect, test } from "vitest";
import { bars, toneOf, type Span } from "./waterfall";

function span(position: number, from: number, to: number | null, parent: number | null = null, status = "completed"): Span {
  const at = (seconds: number) => new Date(seconds * 1_000).toISOString();
  return {
    position, kind: "turn", key: String(position), name: `turn ${position}`, attempt: null, parent, status,
    started_at: at(from), ended_at: to === null ? null : at(to), duration_ms: to === null ? null : (to - from) * 1_000,
  };
}

test("a bar lies where its span lay in the whole time, inside the one that holds it", () => {
  const [outer, inner] = bars([span(1, 0, 100), span(2, 25, 75, 1)], 1e9);
  expect([outer!.left, outer!.width, outer!.depth]).toEqual([0, 100, 0]);
  expect([inner!.left, inner!.width, inner!.depth]).toEqual([25, 50, 1]);
});

test("what began later is not there, and what ended later still goes on", () => {
  const found = bars([span(1, 0, 100, null, "failed"), span(2, 60, 70)], 50_000);
  expect(found.map((bar) => [bar.span.position, bar.isOpen, bar.durationMs])).toEqual([[1, true, 50_000]]);
  expect(toneOf(found[0]!)).toBe("running");
});

test("a bar that took no time is seen and stays inside", () => {
  const [, last] = bars([span(1, 0, 100), span(2, 100, 100)], 1e9);
  expect(last!.width).toBeGreaterThan(0);
  expect(last!.left + last!.width).toBeLessThanOrEqual(100);
});
