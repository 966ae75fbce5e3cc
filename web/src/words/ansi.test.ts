import { describe, expect, it } from "vitest";
import { Ansi } from "./ansi";

describe("Ansi", () => {
  it("turns colours into classes and keeps them over lines", () => {
    const ansi = new Ansi();
    expect(ansi.spans("a\u001b[1;31mb")).toEqual([
      { text: "a", classes: [] },
      { text: "b", classes: ["bold", "ink-red"] },
    ]);
    expect(ansi.spans("c\u001b[0md")).toEqual([
      { text: "c", classes: ["bold", "ink-red"] },
      { text: "d", classes: [] },
    ]);
  });
  it("leaves out everything else that drives a terminal", () => {
    const hostile = "\u001b[2J\u001b]8;;http://x\u0007link\u001b]8;;\u0007\u0007\u001b[38;2;1;2;3mz\u0000";
    expect(new Ansi().spans(hostile).map((span) => span.text).join("")).toBe("linkz");
  });
  it("shows what was written last on a line", () => {
    expect(new Ansi().spans("10 %\r50 %\r").map((span) => span.text)).toEqual(["50 %"]);
  });
  it("leaves markup as text", () => {
    expect(new Ansi().spans("<img src=x onerror=alert(1)>")).toEqual([{ text: "<img src=x onerror=alert(1)>", classes: [] }]);
  });
});
