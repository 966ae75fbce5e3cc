import { expect, test } from "vitest";
import { NODE_WIDTH, drawn } from "./graph";
import { restingOn, type Step } from "./steps";

const step = (id: string, ...needs: string[]) => ({ id, needs }) as unknown as Step;

test("a step is drawn to the right of what it needs, and no two in one place", () => {
  const { nodes, edges } = drawn([step("a"), step("b", "a"), step("c", "a"), step("__proto__", "b", "c")]);
  const left = Object.fromEntries(nodes.map((node) => [`${node.step.id}!`, node.left]));

  expect(left["b!"]).toBeGreaterThanOrEqual((left["a!"] ?? 0) + NODE_WIDTH);
  expect(left["__proto__!"]).toBeGreaterThan(left["c!"] ?? 0);
  expect(new Set(nodes.map((node) => `${node.left} ${node.top}`)).size).toBe(4);
  expect(edges).toHaveLength(4);
});

test("what rests on a step runs again with it, near and far", () => {
  const steps = [step("a"), step("b", "a"), step("c", "b"), step("other")];

  expect([...restingOn(steps, "b")].sort()).toEqual(["b", "c"]);
});

test("a need that is no step is not drawn", () => {
  expect(drawn([step("a", "gone")]).edges).toEqual([]);
});
