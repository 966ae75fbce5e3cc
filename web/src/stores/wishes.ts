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

const AT_ONCE = 4; // A browser has six connections, and the page needs one.

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

  async function control(run: Snapshot, action: Control, more: { reason?: string; limits?: Record<string, number> } = {}): Promise<boolean> {
    store.put({ ...run, status: MEANWHILE[action] });
    const params = { path: { run_id: run.id } };
    const after = await wish((headers) =>
      answered(api.POST("/api/runs/{run_id}/control", { params, headers, body: { action, ...more } as never })),
    );
    // The run may have gone on by itself meanwhile: refused, it is read again rather than put back.
    if (after) store.put(after);
    else await store.refresh(run.id);
    return after !== undefined;
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

  /** The same wish to many runs, a few at a time; how many refused. */
  async function each(runs: readonly Snapshot[], action: "cancel" | "retry", done: () => void): Promise<number> {
    const left = [...runs];
    let refused = 0;
    async function work(): Promise<void> {
      for (let run = left.shift(); run; run = left.shift()) {
        const headers = { "Idempotency-Key": crypto.randomUUID() };
        const params = { path: { run_id: run.id } };
        try {
          if (action === "cancel") await answered(api.POST("/api/runs/{run_id}/control", { params, headers, body: { action: "cancel" } as never }));
          else await answered(api.POST("/api/runs/{run_id}/retry", { params, headers, body: {} as never }));
        } catch (problem) {
          session.noticed(problem);
          refused += 1;
        }
        done();
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    return refused;
  }

  return { busy, control, plan, retry, step, answer, each };
}
