import createClient from "openapi-fetch";
import { liveStream } from "@/live/stream";
import { tenantHeaders } from "@/live/tenant";
import type { components, paths } from "./schema";

export type Snapshot = components["schemas"]["Snapshot"];
export type RunList = components["schemas"]["RunList"];
export type Problem = components["schemas"]["Problem"];

/** What the server says is wrong, in its own words and with its hint. */
export class ApiError extends Error {
  constructor(
    readonly problem: Partial<Problem>,
    readonly status: number,
  ) {
    super(problem.detail ?? `the server answered ${status}`);
  }
  get hint(): string {
    return this.problem.hint ?? "";
  }
}

const POSITION_HEADER = "Runfold-Position";
const STALE_HEADER = "Runfold-Stale";
const AGAIN_MS = 500;
const TRIES_MAX = 40;

/** What is asked as of an event is asked again while the server has not got to that event: nobody else would do so. */
async function fetchAsOf(request: Request): Promise<Response> {
  const isAsOf = new URL(request.url).searchParams.has("min_position");
  for (let tries = 1; ; tries++) {
    const response = await fetch(request.clone());
    if (!isAsOf || !response.headers.has(STALE_HEADER) || tries === TRIES_MAX) return response;
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

/** Of the forms in which a list can be had, the page asks for JSON. */
export const api = createClient<paths, "application/json">({ baseUrl: "/", fetch: fetchAsOf });

/** Whether the server has still to fold much of its log into what this answer is of. */
export function isFolding(response: Response): boolean {
  return response.headers.get(STALE_HEADER) === "folding";
}

/** Whether this answer is of a time before the end of the log, though it was not asked for so. */
export function isStale(response: Response): boolean {
  return response.headers.has(STALE_HEADER);
}

api.use({
  onRequest({ request }) {
    for (const [name, value] of Object.entries(tenantHeaders())) request.headers.set(name, value);
    return request;
  },
  onResponse({ response }) {
    // What is read here is the log up to this position: the stream begins there, and nothing falls between the two.
    const position = response.headers.get(POSITION_HEADER);
    // From an answer that is far behind it would begin with all that the server has still to fold.
    if (position !== null && response.ok && !isFolding(response)) liveStream().begin(position);
    return undefined;
  },
});

/** The data of an answer, or an `ApiError`. */
export async function answered<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  let result;
  try {
    result = await call;
  } catch {
    throw new ApiError({ detail: "the server does not answer", hint: "`runfold up` starts it" }, 0);
  }
  if (result.error !== undefined || !result.response.ok) {
    throw new ApiError((result.error ?? {}) as Partial<Problem>, result.response.status);
  }
  return result.data as T;
}
