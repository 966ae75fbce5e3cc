import { expect, test } from "vitest";
import { bars, toneOf, whole, type Span } from "./waterfall";

function span(position: number, from: number, to: number | null, parent: number | null = null, status = "completed"): Span {
  const at = (seconds: number) => new Date(seconds * 1_000).toISOString();
  return {
    position, kind: "turn", key: String(position), name: `turn ${position}`, attempt: null, parent, status,
    started_at: at(from), ended_at: to === null ? null : at(to), duration_ms: to === null ? null : (to - from) * 1_000,
  };
}

test("a bar lies where its span lay in the whole time, inside the one that holds it", () => {
  const spans = [span(1, 0, 100), span(2, 25, 75, 1)];
  const [outer, inner] = bars(spans, 0, whole(spans, 0));
  expect([outer!.left, outer!.width, outer!.depth]).toEqual([0, 100, 0]);
  expect([inner!.left, inner!.width, inner!.depth]).toEqual([25, 50, 1]);
});

test("what has not ended goes on until the moment that is shown", () => {
  const spans = [span(1, 0, null), span(2, 10, 20)];
  const found = bars(spans, 50_000, whole(spans, 50_000));
  expect(found.map((bar) => [bar.isOpen, bar.durationMs, bar.width])).toEqual([[true, 50_000, 100], [false, 10_000, 20]]);
  expect(toneOf(found[0]!)).toBe("running");
});

test("of a bar that reaches out of the while that is shown, the part within is drawn", () => {
  const [before, over] = bars([span(1, 0, 40), span(2, 20, 90)], 0, { fromMs: 30_000, toMs: 50_000 });
  expect([before!.left, before!.width]).toEqual([0, 50]);
  expect([over!.left, over!.width]).toEqual([0, 100]);
});

test("a bar that took no time is seen and stays inside", () => {
  const spans = [span(1, 0, 100), span(2, 100, 100)];
  const [, last] = bars(spans, 0, whole(spans, 0));
  expect(last!.width).toBeGreaterThan(0);
  expect(last!.left + last!.width).toBeLessThanOrEqual(100);
});
