import { computed, ref, shallowRef, watch, type ComputedRef } from "vue";
import { answered, api } from "@/api/client";
import type { components } from "@/api/schema";
import type { Reach, Span } from "@/words/waterfall";

export type Overview = components["schemas"]["Overview"];

export interface Asked {
  runId: string;
  /** The last event that is shown: of now, or of the past. */
  position: number;
  past: boolean;
  /** The while that is looked at; null is the whole run. */
  reach: Reach | null;
  /** Null: all of them. */
  kinds: string[] | null;
}

const PAGE_SPANS = 400;
const CHANGED_PAGES_MAX = 5; // More has changed than is worth putting together: it is read anew.
const MARKS_MAX = 200;

/** What is asked, but for how far the run has come. */
function question({ runId, past, reach, kinds }: Asked): string {
  return JSON.stringify([runId, past, reach, kinds]);
}

/**
 * The spans of a run, as many as are looked at: a page of them first, more as somebody goes down, and of a run that
 * goes on only what changed. A run of more than one page has an overview.
 */
export function useSpans(asked: ComputedRef<Asked>) {
  const spans = shallowRef<Span[]>([]);
  const overview = shallowRef<Overview | null>(null);
  /** Limits that were neared or broken, wherever they are in the run. */
  const marks = shallowRef<Span[]>([]);
  const cursor = ref<string | null>(null);
  const isRead = ref(false);
  const problem = ref("");
  const present = computed(() => overview.value?.lanes.map(({ kind }) => kind) ?? [...new Set(spans.value.map(({ kind }) => kind))]);
  let latest = 0;
  /** The question that is answered, and up to which event. */
  let answeredTo = "";
  let seen = 0;

  function moment({ past, position }: Asked) {
    return past ? { at: String(position) } : { min_position: position };
  }

  function page(of: Asked, more: { after?: number; changed_after?: number } = {}) {
    const kinds = overview.value === null || of.kinds === null ? {} : { kind: of.kinds as never };
    const { reach } = of;
    const within = reach === null ? {} : { since: new Date(reach.fromMs).toISOString(), until: new Date(reach.toMs).toISOString() };
    const query = { ...moment(of), ...kinds, ...within, ...more, limit: PAGE_SPANS };
    return answered(api.GET("/api/runs/{run_id}/timeline", { params: { path: { run_id: of.runId }, query } }));
  }

  async function readOverview(of: Asked, isMine: () => boolean): Promise<void> {
    const params = { path: { run_id: of.runId }, query: moment(of) };
    const found = await answered(api.GET("/api/runs/{run_id}/timeline/overview", { params }));
    const isMarked = found.lanes.some(({ kind }) => kind === "limit");
    const limits = { ...params, query: { ...params.query, kind: ["limit"] as never, limit: MARKS_MAX } };
    const marked = isMarked ? (await answered(api.GET("/api/runs/{run_id}/timeline", { params: limits }))).items : [];
    if (!isMine()) return;
    overview.value = found;
    marks.value = marked;
  }

  async function attempt(work: (of: Asked, isMine: () => boolean) => Promise<void>): Promise<void> {
    const mine = ++latest;
    try {
      await work(asked.value, () => mine === latest);
      if (mine === latest) problem.value = "";
    } catch (error) {
      if (mine === latest) problem.value = (error as Error).message;
    }
  }

  async function read(of: Asked, isMine: () => boolean): Promise<void> {
    const found = await page(of);
    if (!isMine()) return;
    spans.value = found.items;
    cursor.value = found.next_cursor;
    isRead.value = true;
    [answeredTo, seen] = [question(of), of.position];
    if (found.next_cursor !== null || of.reach !== null || overview.value !== null) await readOverview(of, isMine);
    else marks.value = found.items.filter(({ kind }) => kind === "limit");
  }

  /** What began or ended since it was read last. */
  async function grow(of: Asked, isMine: () => boolean): Promise<void> {
    const changed = new Map<number, Span>();
    let after: number | null = 0;
    for (let pages = 0; after !== null && pages < CHANGED_PAGES_MAX; pages += 1) {
      const found: components["schemas"]["SpanList"] = await page(of, { changed_after: seen, after });
      for (const span of found.items) changed.set(span.position, span);
      after = found.next_cursor === null ? null : Number(found.next_cursor);
    }
    if (!isMine()) return;
    if (after !== null) return read(of, isMine);
    seen = of.position;
    const held = spans.value.map((span) => changed.get(span.position) ?? span);
    const end = held.at(-1)?.position ?? 0;
    // What comes after a page that is not the last is read when somebody gets there.
    const fresh = cursor.value === null ? [...changed.values()].filter(({ position }) => position > end) : [];
    spans.value = [...held, ...fresh];
    if (overview.value !== null) await readOverview(of, isMine);
    else marks.value = spans.value.filter(({ kind }) => kind === "limit");
  }

  /** The next page, when somebody comes near the end of this one. */
  async function more(): Promise<void> {
    const from = cursor.value;
    if (from === null) return;
    const mine = latest;
    try {
      const found = await page(asked.value, { after: Number(from) });
      if (mine !== latest || cursor.value !== from) return;
      spans.value = [...spans.value, ...found.items];
      cursor.value = found.next_cursor;
    } catch (error) {
      problem.value = (error as Error).message;
    }
  }

  watch(
    [() => asked.value.runId, () => question(asked.value), () => asked.value.position] as const,
    ([runId, now], [before]) => {
      if (runId !== before) {
        [spans.value, overview.value, marks.value, cursor.value, isRead.value] = [[], null, [], null, false];
      }
      void attempt(now === answeredTo && !asked.value.past ? grow : read);
    },
    { immediate: true },
  );

  return { spans, overview, marks, cursor, present, isRead, problem, more };
}
