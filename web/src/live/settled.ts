const SETTLE_MS = 250;

export interface Settled {
  (): void;
  cancel(): void;
}

/** The work, done once for all events of one burst, a moment after the first. */
export function settled(work: () => void): Settled {
  let due: ReturnType<typeof setTimeout> | undefined;
  const soon = () => {
    due ??= setTimeout(() => {
      due = undefined;
      work();
    }, SETTLE_MS);
  };
  const cancel = () => {
    clearTimeout(due);
    due = undefined;
  };
  return Object.assign(soon, { cancel });
}
