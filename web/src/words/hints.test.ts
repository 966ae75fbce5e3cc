import { expect, test } from "vitest";
import { typedIn } from "./hints";

test("the command of a hint is what can be copied, and the rest says where it is typed", () => {
  expect(typedIn("type `runfold retry r_1` as ada@mill")).toEqual({ command: "runfold retry r_1", where: "as ada@mill" });
  expect(typedIn("type `runfold resume r_1`")).toEqual({ command: "runfold resume r_1", where: "" });
  expect(typedIn("ask somebody")).toEqual({ command: "ask somebody", where: "" });
});
