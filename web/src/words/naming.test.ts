import { expect, test } from "vitest";
import { nameOf } from "./naming";

test("a run is called by its title, and by its id where that cannot be seen", () => {
  expect(nameOf({ id: "r_1", title: "nightly" })).toBe("nightly");
  for (const title of ["", " \n\t", "\u200b\u200d\ufeff", "\u2028\u2029", "\u202e"]) expect(nameOf({ id: "r_1", title })).toBe("r_1");
});
