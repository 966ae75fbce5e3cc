/** The command of a hint, as in "type `runfold retry r_1` as ada@mill", and as whom or where it is typed. */
export function typedIn(hint: string): { command: string; where: string } {
  const [, command = hint, where = ""] = /`([^`]+)`(.*)/.exec(hint) ?? [];
  return { command, where: where.trim() };
}
