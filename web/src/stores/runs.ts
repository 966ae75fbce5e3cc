import { defineStore } from "pinia";
import { computed, reactive, ref, shallowRef } from "vue";
import { ApiError, answered, api, isFolding, isStale, type Snapshot } from "@/api/client";
import type { components } from "@/api/schema";
import { settled } from "@/live/settled";
import type { LiveEvent } from "@/live/stream";
import { isResting, type Status } from "@/words/status";
import type { Step } from "@/words/steps";
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
const PAGE_STEPS = 200;
const STEPS_MAX = 1_000;
const FAR_ROWS_MAX = 20;

/** The runs as the server lists them; events only say that something is worth reading again. */
export const useRuns = defineStore("runs", () => {
  const session = useSession();
  const runs = shallowRef<Snapshot[]>([]);
  const currentRun = shallowRef<Snapshot | null>(null);
  const currentRunSteps = shallowRef<Step[]>([]);
  const filters = reactive<Filters>({ ...NO_FILTERS, status: [] });
  const pagination = reactive({ offset: 0, limit: PAGE_ROWS, total: 0 });
  const isLoading = ref(false);
  /** The server has not folded its whole log yet: the list grows. */
  const isGrowing = ref(false);
  /** What was read last is of a time before the end of the log: it is read again, for no event may come that says so. */
  const isBehind = ref(false);
  const error = shallowRef<ApiError | null>(null);
  /** How many runs of each status the other filters leave. */
  const byStatus = shallowRef<Readonly<Record<string, number>>>({});
  /** Where the list goes on; null at its end. */
  const next = ref<string | null>(null);
  /** Runs that came after the list was read: they wait, so that no row jumps away under a reader's hand. */
  const waiting = ref(0);
  const isFiltered = computed(() =>
    (["q", "workflow", "label", "created_after", "created_before"] as const).some((name) => filters[name] !== "") ||
    filters.status.length > 0,
  );

  /** The runs of which something was heard since the rows were read. */
  const touched = new Set<string>();
  let latest = 0;
  let latestOne = 0;
  let latestRows = 0;
  let shownRows = 0;
  let latestSteps = 0;
  const refreshSoon = settled(() => void refreshRows());

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

  /** The same answer; what is on screen is then as old as it is. */
  async function noticed<T extends { response: Response }>(asked: Promise<T>): Promise<T> {
    const answer = await asked;
    isBehind.value = isStale(answer.response);
    return answer;
  }

  /** Read the list from its beginning, as filters and pagination name it. */
  async function load(): Promise<void> {
    const mine = ++latest;
    isLoading.value = true;
    let growing = false;
    const list = await attempt(() => {
      const asked = api.GET("/api/runs", { params: { query: query() } });
      return answered(noticed(asked).then((answer) => ((growing = isFolding(answer.response)), answer)));
    });
    if (mine !== latest) return; // A later question has been asked meanwhile.
    isLoading.value = false;
    if (!list) return;
    runs.value = list.items;
    next.value = list.next_cursor;
    isGrowing.value = growing;
    pagination.total = list.total;
    byStatus.value = list.by_status;
    waiting.value = 0;
    touched.clear();
  }

  /** Read on where the list ends, when a reader comes near. */
  async function more(): Promise<void> {
    if (next.value === null || isLoading.value) return;
    const mine = latest;
    isLoading.value = true;
    const asked = { ...query(), offset: 0, cursor: next.value };
    const list = await attempt(() => answered(api.GET("/api/runs", { params: { query: asked } })));
    isLoading.value = false;
    if (mine !== latest || !list) return;
    const known = new Set(runs.value.map(({ id }) => id));
    runs.value = [...runs.value, ...list.items.filter(({ id }) => !known.has(id))];
    next.value = list.next_cursor;
  }

  /** The run as it is, or as it was at one of its events. */
  async function loadOne(id: string, version: number | null = null): Promise<void> {
    const mine = ++latestOne;
    const params = { path: { run_id: id }, query: version === null ? {} : { at: `v${version}` } };
    const run = await attempt(() => answered(noticed(api.GET("/api/runs/{run_id}", { params }))));
    if (run && mine === latestOne) currentRun.value = run;
  }

  /** Every step of the run, as it is or was. */
  async function loadSteps(id: string, version: number | null = null): Promise<void> {
    const mine = ++latestSteps;
    const found: Step[] = [];
    const run = currentRun.value;
    const moment = version !== null ? { at: `v${version}` } : run?.id === id ? { min_position: run.position } : {};
    let cursor: string | null = "0";
    while (cursor !== null && found.length < STEPS_MAX) {
      const asked: { limit: number; cursor: string; at?: string; min_position?: number } = { limit: PAGE_STEPS, cursor, ...moment };
      const page: components["schemas"]["StepList"] | undefined = await attempt(() =>
        answered(api.GET("/api/runs/{run_id}/steps", { params: { path: { run_id: id }, query: asked } })),
      );
      if (!page || mine !== latestSteps) return;
      found.push(...page.items);
      cursor = page.next_cursor;
    }
    currentRunSteps.value = found;
  }

  /** A newer state of a run, wherever it is on screen. */
  function put(run: Snapshot): void {
    if (currentRun.value?.id === run.id) currentRun.value = run;
    if (runs.value.some(({ id }) => id === run.id)) runs.value = runs.value.map((old) => (old.id === run.id ? run : old));
  }

  async function refresh(id: string): Promise<void> {
    const run = await attempt(() => answered(noticed(api.GET("/api/runs/{run_id}", { params: { path: { run_id: id } } }))));
    if (run) put(run);
  }

  /** Bring rows on screen up to date without adding, removing or moving any. */
  async function refreshRows(): Promise<void> {
    const mine = latest;
    const asked = ++latestRows;
    const shown = new Set(runs.value.map((run) => run.id));
    const list = await attempt(() => answered(noticed(api.GET("/api/runs", { params: { query: query() } }))));
    if (!list || mine !== latest) return;
    if (asked < shownRows) return; // What was asked for later is on screen already.
    shownRows = asked;
    const fresh = new Map(list.items.map((run) => [run.id, run]));
    // Rows far down are read one by one, and only those of which something was heard.
    const far = [...touched].filter((id) => shown.has(id) && !fresh.has(id)).slice(0, FAR_ROWS_MAX);
    touched.clear();
    for (const run of await Promise.all(far.map((id) => api.GET("/api/runs/{run_id}", { params: { path: { run_id: id } } }).catch(() => null)))) {
      if (!run?.data) continue;
      fresh.set(run.data.id, run.data);
      if (!isStale(run.response)) continue;
      touched.add(run.data.id);
      isBehind.value = true;
    }
    if (mine !== latest) return;
    const oldest = runs.value.at(-1);
    runs.value = runs.value.map((run) => fresh.get(run.id) ?? run);
    // What sorts behind the last row that is read comes with the next page, and is no news.
    const last = list.items.findIndex(({ id }) => id === oldest?.id);
    waiting.value = list.items.slice(0, last < 0 ? undefined : last).filter((run) => !shown.has(run.id)).length;
    pagination.total = list.total;
    byStatus.value = list.by_status;
  }

  /** Read again what was known to be old, unless that is under way. */
  function catchUp(read: () => Promise<void>): void {
    if (!isBehind.value) return;
    isBehind.value = false;
    void read();
  }

  /** Something happened to a run of the list. */
  function heard(event: LiveEvent): void {
    touched.add(event.run_id);
    refreshSoon();
  }

  const hasUnfinished = computed(() => runs.value.some((run) => !isResting(run.status)));

  return {
    runs, currentRun, currentRunSteps, filters, pagination, isLoading, isGrowing, error, byStatus, next, waiting, isFiltered, hasUnfinished,
    load, more, loadOne, loadSteps, put, refresh, refreshRows, catchUp, heard,
  };
});
