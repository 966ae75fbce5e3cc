import { Ban, CircleCheck, CircleDashed, CirclePause, CircleX, Clock, Hand, LoaderCircle, OctagonX } from "@lucide/vue";
import type { Component } from "vue";
import type { Snapshot } from "@/api/client";

export type Status = NonNullable<Snapshot["status"]>;

interface Look {
  word: string;
  icon: Component;
  /** The colour pair of `tokens.css`. */
  tone: string;
  turns?: boolean;
}

/** How a status reads and looks: always a word and an icon, never a colour alone. */
export const LOOKS: Record<Status | "waiting", Look> = {
  queued: { word: "Queued", icon: Clock, tone: "queued" },
  running: { word: "Running", icon: LoaderCircle, tone: "running", turns: true },
  pausing: { word: "Pausing", icon: CirclePause, tone: "paused" },
  paused: { word: "Paused", icon: CirclePause, tone: "paused" },
  waiting: { word: "Waiting", icon: Hand, tone: "waiting" },
  cancelling: { word: "Cancelling", icon: Ban, tone: "cancelling" },
  cancelled: { word: "Cancelled", icon: Ban, tone: "cancelled" },
  stopping: { word: "Stopping", icon: OctagonX, tone: "stopped" },
  stopped: { word: "Stopped", icon: OctagonX, tone: "stopped" },
  completed: { word: "Completed", icon: CircleCheck, tone: "completed" },
  failed: { word: "Failed", icon: CircleX, tone: "failed" },
};

export const UNKNOWN_LOOK: Look = { word: "Unknown", icon: CircleDashed, tone: "queued" };

export const STATUSES = Object.keys(LOOKS).filter((name) => name !== "waiting") as Status[];

const FINAL: ReadonlySet<string> = new Set(["completed", "failed", "cancelled"]);
const RESTING: ReadonlySet<string> = new Set([...FINAL, "stopped"]);

export function isFinal(status: string | null | undefined): boolean {
  return FINAL.has(status ?? "");
}

export function isResting(status: string | null | undefined): boolean {
  return RESTING.has(status ?? "");
}

/** `COST_LIMIT_EXCEEDED` reads as "cost limit exceeded". */
export function reasonInWords(code: string): string {
  return code.toLowerCase().replaceAll("_", " ");
}
