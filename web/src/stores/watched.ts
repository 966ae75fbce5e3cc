import { defineStore } from "pinia";
import { ref } from "vue";
import type { LiveEvent } from "@/live/stream";
import { announce } from "@/live/announcer";
import { toast } from "@/live/toasts";
import { nameOf } from "@/words/naming";
import { LOOKS, isResting, type Status } from "@/words/status";

const STORED = "runfold-watched";
const WATCHED_MAX = 200; // The newest; who watches more sees the list.
const ENDINGS: Readonly<Record<string, Status>> = {
  run_completed: "completed",
  run_failed: "failed",
  run_cancelled: "cancelled",
  run_stopped: "stopped",
};

function stored(): [string, string][] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    return Array.isArray(kept) ? (kept as [string, string][]).slice(-WATCHED_MAX) : [];
  } catch {
    return [];
  }
}

/** The runs whose end this browser tells of: those that were looked at while they went on. */
export const useWatched = defineStore("watched", () => {
  /** Titles by id, the newest last. */
  const runs = ref(new Map(stored()));
  const canNotify = ref(false);
  const mayAsk = ref(false);

  function readPermission(): void {
    canNotify.value = "Notification" in window && Notification.permission === "granted";
    mayAsk.value = "Notification" in window && Notification.permission === "default";
  }

  readPermission();
  // What is allowed or forbidden in the browser's own settings holds at once.
  void navigator.permissions?.query({ name: "notifications" }).then((permission) => (permission.onchange = readPermission));

  function keep(): void {
    try {
      localStorage.setItem(STORED, JSON.stringify([...runs.value].slice(-WATCHED_MAX)));
    } catch {
      // It holds until the page is left.
    }
  }

  function watch(id: string, title: string): void {
    if (runs.value.get(id) === title) return;
    runs.value.set(id, title);
    keep();
  }

  function leave(id: string): void {
    if (runs.value.delete(id)) keep();
  }

  /** Tell of the end of a run, once, however often it is heard of. */
  function ended(id: string, status: Status, why: string): void {
    const title = runs.value.get(id);
    if (title === undefined) return;
    leave(id);
    const look = LOOKS[status];
    const said = `${nameOf({ id, title })}: ${look.word.toLowerCase()}`;
    toast({ title: said, text: why, tone: status === "failed" ? "failed" : look.tone, run: id });
    announce(said);
    // Every tab hears of it; the tag makes one notification of theirs.
    if (canNotify.value && document.hidden) new Notification(said, { body: why, tag: id });
  }

  /** What the stream says of any run. */
  function heard(event: LiveEvent): void {
    const status = ENDINGS[event.type];
    if (status !== undefined) ended(event.run_id, status, reasonOf(event));
  }

  /** What was read of a run, which is how its end is learnt of without a stream. */
  function seen(run: { id: string; title: string; status: Status | null; message: string }): void {
    if (isResting(run.status)) ended(run.id, run.status as Status, run.message);
    else watch(run.id, run.title);
  }

  async function askToNotify(): Promise<void> {
    await Notification.requestPermission();
    readPermission();
  }

  return { runs, canNotify, mayAsk, watch, leave, heard, seen, askToNotify };
});

function reasonOf(event: LiveEvent): string {
  const error = event.data?.error as { message?: string } | undefined;
  return String(error?.message || event.data?.message || event.data?.reason || "");
}
