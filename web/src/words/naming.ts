/** What people see of nothing: spaces, line ends, signs without width or that only steer. */
const UNSEEN = /[\s\p{C}\p{Z}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu;

/** A run by its title, else by its id: a title that cannot be seen cannot be pointed at. */
export function nameOf(run: { id: string; title?: string }): string {
  return run.title?.replace(UNSEEN, "") ? run.title : run.id;
}
