import { computed, type ComputedRef } from "vue";
import { useRoute, useRouter } from "vue-router";

export interface Address<Name extends string> {
  /** What the address says of each name; empty where it says nothing. */
  given: ComputedRef<Record<Name, string>>;
  /** The names that are given, as a query to the server. */
  query: ComputedRef<Partial<Record<Name, string>>>;
  write(changes: Partial<Record<Name, string>>): void;
}

/** The filters of a page live in its address, so what one person sees can be sent to another, and Back goes back. */
export function useAddress<Name extends string>(names: readonly Name[]): Address<Name> {
  const route = useRoute();
  const router = useRouter();
  const given = computed(() => {
    const read = (name: Name): string => {
      const value = route.query[name];
      return (Array.isArray(value) ? value[0] : value) ?? "";
    };
    return Object.fromEntries(names.map((name) => [name, read(name)])) as Record<Name, string>;
  });
  const query = computed(() => said(given.value));

  function said(values: Record<Name, string>): Partial<Record<Name, string>> {
    return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== "")) as Partial<Record<Name, string>>;
  }

  function write(changes: Partial<Record<Name, string>>): void {
    void router.push({ query: said({ ...given.value, ...changes }) });
  }

  return { given, query, write };
}
