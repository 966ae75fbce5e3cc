import { ref } from "vue";

/** What a screen reader says next. */
export const announced = ref("");
const QUIET_MS = 5_000; // Who listens is not talked over: of what comes meanwhile only the newest is said.
let until = 0;
let waiting: ReturnType<typeof setTimeout> | undefined;

/** Say it politely: at once where nothing was said lately, else when that is over. */
export function announce(text: string): void {
  clearTimeout(waiting);
  const now = Date.now();
  const say = () => {
    announced.value = text;
    until = Date.now() + QUIET_MS;
  };
  if (now >= until) say();
  else waiting = setTimeout(say, until - now);
}
