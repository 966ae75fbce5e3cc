import { expect, test } from "vitest";
import { shownAs } from "./files";

test("a file is shown by its kind, and by its name where it has none", () => {
  const shown = (media_type: string, name = "x") => shownAs({ media_type, name });
  expect(shown("image/png")).toBe("picture");
  expect(shown("application/json")).toBe("json");
  expect(shown("application/vnd.api+json")).toBe("json");
  expect(shown("text/html")).toBe("text");
  expect(shown("application/octet-stream", "notes.MD")).toBe("text");
  expect(shown("application/octet-stream", "a.json")).toBe("json");
  expect(shown("application/zip", "a.txt")).toBeNull();
  expect(shown("application/octet-stream", "core")).toBeNull();
});
