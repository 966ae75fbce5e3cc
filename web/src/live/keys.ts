import { tinykeys } from "tinykeys";

/** What the keys do, as the overlay lists them. */
export const KEYS: readonly (readonly [keys: string, meaning: string])[] = [
  ["?", "Show these keys"],
  ["/", "Search"],
  ["g r", "Go to the runs"],
  ["g a", "Go to the audit"],
  ["g q", "Go to the approvals"],
  ["g c", "Go to the costs"],
  ["g d", "Compare runs"],
  ["g s", "Go to the server's figures"],
  ["j  k", "Next row, previous row"],
  ["Enter", "Open the row"],
  ["[  ]", "One event back, one event on"],
  ["Space", "Play, or stop playing"],
  ["1–9", "Part of the run"],
  ["p", "Pause, or resume"],
  ["r", "Retry, after its plan"],
  ["c", "Cancel, after a question"],
];

const TYPED_IN = "input:not([type=checkbox], [type=range]), select, textarea, [contenteditable]";
const IN_DIALOG = "[role=dialog], [role=alertdialog]";
// These take the space bar themselves.
const PRESSED = "button, a, summary, input";

function isTyping(event: KeyboardEvent): boolean {
  const target = event.target as Element | null;
  return event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey ||
    !!target?.closest?.(TYPED_IN) || document.querySelector(IN_DIALOG) !== null;
}

function press(selector: string): void {
  document.querySelector<HTMLElement>(selector)?.click();
}

/** The link of the next row of the page's table gets the focus, so Enter opens it and a screen reader says it. */
function moveRow(by: 1 | -1): void {
  const links = [...document.querySelectorAll<HTMLElement>("main tbody a")];
  const at = links.indexOf(document.activeElement as HTMLElement);
  links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
}

/** Take keys until the returned function is called; none while something is typed or a question is open. */
export function listenToKeys(does: { help(): void; go(path: string): void }): () => void {
  const bindings: Record<string, () => void> = {
    "Shift+?": does.help,
    "/": () => document.querySelector<HTMLElement>("main input[type=search]")?.focus(),
    "g r": () => does.go("/runs"),
    "g a": () => does.go("/audit"),
    "g q": () => does.go("/approvals"),
    "g c": () => does.go("/costs"),
    "g d": () => does.go("/compare"),
    "g s": () => does.go("/admin"),
    p: () => press("[data-key-pause]"),
    r: () => press("[data-key-retry]"),
    c: () => press("[data-key-cancel]"),
    j: () => moveRow(1),
    k: () => moveRow(-1),
    "[": () => press("[data-key-back]"),
    "]": () => press("[data-key-on]"),
    Space: () => press("[data-key-play]"),
  };
  for (let digit = 1; digit <= 9; digit += 1) bindings[String(digit)] = () => pressTab(digit);
  return tinykeys(window, Object.fromEntries(Object.entries(bindings).map(([keys, act]) => [keys, guarded(keys, act)])));
}

function guarded(keys: string, act: () => void): (event: KeyboardEvent) => void {
  return (event) => {
    if (isTyping(event)) return;
    if (keys === "Space" && (event.target as Element | null)?.closest?.(PRESSED)) return;
    event.preventDefault();
    act();
  };
}

function pressTab(digit: number): void {
  const tab = document.querySelectorAll<HTMLElement>("main [role=tab]")[digit - 1];
  // Focus selects a tab, as the arrow keys do.
  tab?.focus();
}
