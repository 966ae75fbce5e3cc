import { Ban, Bolt, CircleCheck, CircleDashed, CircleX, LoaderCircle, Minus, RotateCw } from "@lucide/vue";
import type { Component } from "vue";
import type { components } from "@/api/schema";

export type Step = components["schemas"]["StepItem"];
export type StepStatus = Step["status"];

/** How a step's status reads and looks: a word, an icon, and a colour pair of `tokens.css`. */
export const STEP_LOOKS: Record<StepStatus, { word: string; icon: Component; tone: string }> = {
  pending: { word: "Pending", icon: CircleDashed, tone: "queued" },
  running: { word: "Running", icon: LoaderCircle, tone: "running" },
  completed: { word: "Completed", icon: CircleCheck, tone: "completed" },
  failed: { word: "Failed", icon: CircleX, tone: "failed" },
  cancelled: { word: "Cancelled", icon: Ban, tone: "cancelled" },
  skipped: { word: "Skipped", icon: Minus, tone: "skipped" },
  needs_rerun: { word: "Needs rerun", icon: RotateCw, tone: "needs-rerun" },
};

const CACHED = { word: "From the cache", icon: Bolt, tone: "cached" };

export function stepLook(step: Pick<Step, "status" | "cache_hit">): { word: string; icon: Component; tone: string } {
  return step.cache_hit && step.status === "completed" ? CACHED : STEP_LOOKS[step.status];
}

/** The steps that would run again with this one: all that rest on it, near and far. */
export function restingOn(steps: readonly Step[], first: string): Set<string> {
  const after = new Set([first]);
  let grew = true;
  while (grew) {
    grew = false;
    for (const { id, needs } of steps) {
      if (!after.has(id) && needs.some((need) => after.has(need))) {
        after.add(id);
        grew = true;
      }
    }
  }
  return after;
}
