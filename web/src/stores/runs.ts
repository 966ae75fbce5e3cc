import { defineStore } from "pinia";
import { computed, reactive, ref, shallowRef } from "vue";
import { ApiError, answered, api, type Snapshot } from "@/api/client";
import type { LiveEvent } from "@/live/stream";
import { isResting, type Status } from "@/words/status";
import { useSession } from "./session";

export type Sort = "created_at" | "status" | "duration" | "cost";

export interface Filters {
  status: Status[];
  workflow: string;
  label: string;
  q: string;
  created_after: string;
  created_before: string;
  sort: Sort;
  order: "asc" | "desc";
}

export const NO_FILTERS: Readonly<Filters> = {
  status: [],
  workflow: "",
  label: "",
  q: "",
  created_after: "",
  created_before: "",
  sort: "created_at",
  order: "desc",
};

export const PAGE_ROWS = 50;
const SETTLE_MS = 250; // Events of one burst are answered with one reading.

/** The runs as the server lists them; events only say that something is worth reading again. */
export const useRuns = defineStore("runs", () => {
  const session = useSession();
  const runs = shallowRef<Snapshot[]>([]);
  const currentRun = shallowRef<Snapshot | null>(null);
  const currentRunSteps = shallowRef<unknown[]>([]);
  const filters = reactive<Filters>({ ...NO_FILTERS, status: [] });
  const pagination = reactive({ offset: 0, limit: PAGE_ROWS, total: 0 });
  const isLoading = ref(false);
  const error = shallowRef<ApiError | null>(null);
  /** Runs that came after the list was read: they wait, so that no row jumps away under a reader's hand. */
  const waiting = ref(0);
  const isFiltered = computed(() =>
    (["q", "workflow", "label", "created_after", "created_before"] as const).some((name) => filters[name] !== "") ||
    filters.status.length > 0,
  );

  let latest = 0;
  let latestOne = 0;
  let due: ReturnType<typeof setTimeout> | undefined;

  function query() {
    const { status, ...rest } = filters;
    const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== ""));
    return { ...given, ...(status.length ? { status } : {}), limit: pagination.limit, offset: pagination.offset };
  }

  async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      const result = await work();
      error.value = null;
      return result;
    } catch (problem) {
      session.noticed(problem);
      error.value = problem instanceof ApiError ? problem : new ApiError({ detail: String(problem) }, 0);
      return undefined;
    }
  }

  /** Read the page that filters and pagination name. */
  async function load(): Promise<void> {
    const mine = ++latest;
    isLoading.value = true;
    const list = await attempt(() => answered(api.GET("/api/runs", { params: { query: query() } })));
    if (mine !== latest) return; // A later question has been asked meanwhile.
    isLoading.value = false;
    if (list) {
      runs.value = list.items;
      pagination.total = list.total;
      waiting.value = 0;
    }
  }

  /** The run as it is, or as it was at one of its events. */
  async function loadOne(id: string, version: number | null = null): Promise<void> {
    const mine = ++latestOne;
    const params = { path: { run_id: id }, query: version === null ? {} : { at: `v${version}` } };
    const run = await attempt(() => answered(api.GET("/api/runs/{run_id}", { params })));
    if (run && mine === latestOne) currentRun.value = run;
  }

  type Action = "pause" | "resume" | "cancel";

  /** Put a wish to a run; the answer is the run after it. */
  async function control(id: string, action: Action, reason = ""): Promise<boolean> {
    const headers = { "Idempotency-Key": crypto.randomUUID() };
    const params = { path: { run_id: id } };
    const run = await attempt(() =>
      answered(api.POST("/api/runs/{run_id}/control", { params, headers, body: { action, reason } as never })),
    );
    if (run && currentRun.value?.id === id) currentRun.value = run;
    return run !== undefined;
  }

  /** Bring rows on screen up to date without adding, removing or moving any. */
  async function refreshRows(): Promise<void> {
    const shown = new Set(runs.value.map((run) => run.id));
    const list = await attempt(() => answered(api.GET("/api/runs", { params: { query: query() } })));
    if (!list) return;
    const fresh = new Map(list.items.map((run) => [run.id, run]));
    runs.value = runs.value.map((run) => fresh.get(run.id) ?? run);
    waiting.value = list.items.filter((run) => !shown.has(run.id)).length;
    pagination.total = list.total;
  }

  function soon(work: () => void): void {
    if (due !== undefined) return;
    due = setTimeout(() => {
      due = undefined;
      work();
    }, SETTLE_MS);
  }

  /** Something happened to a run of the list. */
  function heard(_event: LiveEvent): void {
    soon(() => void refreshRows());
  }

  const hasUnfinished = computed(() => runs.value.some((run) => !isResting(run.status)));

  return {
    runs, currentRun, currentRunSteps, filters, pagination, isLoading, error, waiting, isFiltered, hasUnfinished,
    load, loadOne, control, refreshRows, heard, soon,
  };
});
