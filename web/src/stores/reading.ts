import { ref, shallowRef, type Ref, type ShallowRef } from "vue";
import { ApiError } from "@/api/client";
import { useSession } from "./session";

export interface Reading<T> {
  found: ShallowRef<T | null>;
  problem: ShallowRef<ApiError | null>;
  isReading: Ref<boolean>;
  again(): Promise<void>;
}

/** One question to the server, asked again at will: only the newest answer counts, and a problem leaves the last one standing. */
export function useReading<T>(read: () => Promise<T>): Reading<T> {
  const session = useSession();
  const found = shallowRef<T | null>(null);
  const problem = shallowRef<ApiError | null>(null);
  const isReading = ref(false);
  let asked = 0;

  async function again(): Promise<void> {
    const mine = ++asked;
    isReading.value = true;
    try {
      const answer = await read();
      if (mine !== asked) return;
      found.value = answer;
      problem.value = null;
    } catch (error) {
      if (mine !== asked) return;
      session.noticed(error);
      problem.value = error instanceof ApiError ? error : new ApiError({ detail: String(error) }, 0);
    }
    isReading.value = false;
  }

  return { found, problem, isReading, again };
}
