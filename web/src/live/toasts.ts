import { reactive } from "vue";

/** What is said at the edge of the page, and heard by who cannot see it. */
export interface Toast {
  id: number;
  title: string;
  text: string;
  /** The colour pair of `tokens.css`. */
  tone: string;
  /** The run that it is about. */
  run?: string;
}

const TOASTS_MAX = 5;
const SHOWN_MS = 12_000; // A problem stays until it is taken away.
export const toasts = reactive<Toast[]>([]);
let last = 0;

export function toast(said: Omit<Toast, "id">): void {
  const id = ++last;
  toasts.push({ ...said, id });
  while (toasts.length > TOASTS_MAX) toasts.shift();
  if (said.tone !== "failed") setTimeout(() => dismiss(id), SHOWN_MS);
}

export function dismiss(id: number): void {
  const at = toasts.findIndex((shown) => shown.id === id);
  if (at >= 0) toasts.splice(at, 1);
}
