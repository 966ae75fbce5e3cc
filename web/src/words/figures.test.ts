import { describe, expect, it } from "vitest";
import { ago, duration, money, size } from "./figures";

describe("figures", () => {
  it("writes durations as people say them", () => {
    expect([2, 1_500, 61_000, 3_700_000, 90_000_000].map(duration)).toEqual(["2 ms", "1.5 s", "1m 01s", "1h 01m", "1d 1h"]);
  });
  it("never shows an unknown price as nothing", () => {
    expect([money(null), money(0), money(0.0042), money(1.1)]).toEqual(["no price", "$0.00", "$0.0042", "$1.10"]);
  });
  it("writes sizes in decimal units", () => {
    expect([size(999), size(2_048), size(5_000_000)]).toEqual(["999 B", "2.0 kB", "5.0 MB"]);
  });
  it("takes a clock that is a little behind for now", () => {
    expect(ago("2026-01-01T00:00:05Z", Date.parse("2026-01-01T00:00:00Z"))).toBe("0 s ago");
  });
});
