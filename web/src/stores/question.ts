import { reactive, watch } from "vue";
import { useAddress } from "./address";
import { useReading } from "./reading";

/**
 * A question to the server that is asked with a form, page by page: it lives in the address, and whenever that changes
 * the form shows it and it is asked anew.
 */
export function useQuestion<Name extends string, T>(names: readonly Name[], read: (query: Partial<Record<Name | "cursor", string>>) => Promise<T>) {
  const { given, query, write } = useAddress<Name | "cursor">([...names, "cursor"]);
  const form = reactive({ ...given.value }) as Record<Name | "cursor", string>;
  const { found, problem, isReading, again } = useReading(() => read(query.value));
  watch(
    given,
    (values) => {
      Object.assign(form, values);
      void again();
    },
    { immediate: true },
  );

  /** Another question begins at its first page. */
  function ask(changes: Partial<Record<Name, string>> = {}): void {
    write({ ...form, ...changes, cursor: "" } as Partial<Record<Name | "cursor", string>>);
  }

  function clear(): void {
    write(Object.fromEntries([...names, "cursor"].map((name) => [name, ""])) as Record<Name | "cursor", string>);
  }

  /** Go on at a cursor; without one, to the first page. */
  function turn(cursor: string | null | undefined): void {
    write({ cursor: cursor ?? "" } as Partial<Record<Name | "cursor", string>>);
  }

  return { given, form, found, problem, isReading, ask, clear, turn };
}
