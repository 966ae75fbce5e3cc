import { ref } from "vue";
import { ApiError, answered, api, type Snapshot } from "@/api/client";
import type { components } from "@/api/schema";
import { toast } from "@/live/toasts";
import type { Status } from "@/words/status";
import { useRuns } from "./runs";
import { useSession } from "./session";
import { useWatched } from "./watched";

export type RetryPlan = components["schemas"]["RetryAnswer"];
type Control = "pause" | "resume" | "cancel";

export type BulkAction = "cancel" | "retry";
export type Bulk = components["schemas"]["BulkAnswer"];
const FORBIDDEN = "forbidden"; // The code of what this person may not do here.
const BULK_RUNS_MAX = 200; // Of one request; the server takes no more.

/** How a run looks between a wish and its answer; the events that follow say how it really stands. */
const MEANWHILE: Record<Control, Status> = { pause: "pausing", resume: "running", cancel: "cancelling" };

/** What a person wishes of runs: shown at once, corrected by the answer, taken back where it is refused. */
export function useWishes() {
  const store = useRuns();
  const session = useSession();
  const busy = ref(false);

  /** Send it once, whatever the network does in between; a refusal is told with its hint. */
  async function wish<T>(send: (headers: Record<string, string>) => Promise<T>): Promise<T | undefined> {
    busy.value = true;
    try {
      return await send({ "Idempotency-Key": crypto.randomUUID() });
    } catch (problem) {
      session.noticed(problem);
      const hint = problem instanceof ApiError ? problem.hint : "";
      toast({ title: (problem as Error).message, text: hint, tone: "failed" });
      return undefined;
    } finally {
      busy.value = false;
    }
  }

  /** The run as it is after the wish; undefined where that was refused. */
  async function control(run: Snapshot, action: Control, more: { reason?: string; limits?: Record<string, number> } = {}): Promise<Snapshot | undefined> {
    store.put({ ...run, status: MEANWHILE[action] });
    const params = { path: { run_id: run.id } };
    const after = await wish((headers) =>
      answered(api.POST("/api/runs/{run_id}/control", { params, headers, body: { action, ...more } as never })),
    );
    // The run may have gone on by itself meanwhile: refused, it is read again rather than put back.
    if (after) store.put(after);
    else await store.refresh(run.id);
    return after;
  }

  /** What to type where nobody here goes on with the run at this person's word; null where the server takes the wish. */
  async function resumeByHand(id: string): Promise<string | null> {
    const body = { action: "resume", ids: [id], dry_run: true };
    const said = await wish((headers) => answered(api.POST("/api/runs/bulk", { headers, body: body as never })));
    const item = said?.items[0];
    return item?.outcome === "refused" && item.code === FORBIDDEN ? (item.hint ?? null) : null;
  }

  async function plan(id: string, fromStep: string | null): Promise<RetryPlan> {
    const body = { plan: true, ...(fromStep === null ? {} : { from_step: fromStep }) };
    return answered(api.POST("/api/runs/{run_id}/retry", { params: { path: { run_id: id } }, body: body as never }));
  }

  /** The id of the new run. */
  async function retry(run: Snapshot, fromStep: string | null): Promise<string | undefined> {
    const body = fromStep === null ? {} : { from_step: fromStep };
    const params = { path: { run_id: run.id } };
    const made = await wish((headers) => answered(api.POST("/api/runs/{run_id}/retry", { params, headers, body: body as never })));
    if (made?.new_run_id) useWatched().watch(made.new_run_id, run.title);
    return made?.new_run_id ?? undefined;
  }

  async function step(id: string, name: string, action: "rerun" | "reset" | "skip", reason: string): Promise<boolean> {
    const params = { path: { run_id: id, step: name } };
    const done = await wish((headers) =>
      answered(api.POST("/api/runs/{run_id}/steps/{step}", { params, headers, body: { action, reason } as never })),
    );
    if (done) {
      const others = done.changed.length - 1;
      const what = action === "rerun" ? "needs a rerun" : action === "reset" ? "is reset" : "is skipped";
      toast({ title: `Step ${name} ${what}`, text: others > 0 ? `${others} more changed with it` : "", tone: "needs-rerun" });
      await store.refresh(id);
    }
    return done !== undefined;
  }

  async function answer(id: string, approval: string, decision: "grant" | "deny", more: { comment?: string; amount_usd?: number; digest?: string }): Promise<boolean> {
    const params = { path: { run_id: id, approval_id: approval } };
    const given = await wish((headers) =>
      answered(api.POST("/api/runs/{run_id}/approvals/{approval_id}", { params, headers, body: { decision, ...more } as never })),
    );
    await store.refresh(id);
    return given !== undefined;
  }

  /** The same wish to many runs; `onlySay`: what would become of each. */
  async function bulk(action: BulkAction, ids: readonly string[], onlySay: boolean): Promise<Bulk | undefined> {
    const whole: Bulk = { action, dry_run: onlySay, matched: 0, counts: {}, items: [] };
    for (let first = 0; first < ids.length; first += BULK_RUNS_MAX) {
      const body = { action, ids: ids.slice(first, first + BULK_RUNS_MAX), dry_run: onlySay };
      const part = await wish((headers) => answered(api.POST("/api/runs/bulk", { headers, body: body as never })));
      if (!part) return undefined;
      whole.matched += part.matched;
      whole.items.push(...part.items);
      for (const { outcome } of part.items) whole.counts[outcome] = (whole.counts[outcome] ?? 0) + 1;
    }
    return whole;
  }

  /** Write on a run: its title, its labels (null takes one away), or a note. */
  async function describe(run: Snapshot, changes: { title?: string; labels?: Record<string, string | null>; note?: string }): Promise<boolean> {
    const params = { path: { run_id: run.id } };
    const after = await wish((headers) => answered(api.PATCH("/api/runs/{run_id}", { params, headers, body: changes as never })));
    if (after) store.put(after);
    return after !== undefined;
  }

  return { busy, control, resumeByHand, plan, retry, step, answer, bulk, describe };
}
