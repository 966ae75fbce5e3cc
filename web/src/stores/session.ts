import { defineStore } from "pinia";
import { ref, shallowRef } from "vue";
import { ApiError, answered, api } from "@/api/client";
import type { components } from "@/api/schema";
import { closeLiveStream } from "@/live/stream";

export type Role = "viewer" | "operator" | "admin";
const RANKS: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };

/** Whether the server knows this browser, and what it lets whoever sits before it do. */
export const useSession = defineStore("session", () => {
  const isOpen = ref(true);
  const who = shallowRef<components["schemas"]["SessionAnswer"] | null>(null);

  async function open(token: string): Promise<void> {
    await answered(api.POST("/session", { body: { token } }));
    closeLiveStream();
    isOpen.value = true;
    await ask();
  }

  async function close(): Promise<void> {
    await answered(api.DELETE("/session"));
    closeLiveStream();
    who.value = null;
    isOpen.value = false;
  }

  /** Ask the server who we are to it. */
  async function ask(): Promise<void> {
    try {
      who.value = await answered(api.GET("/session"));
      isOpen.value = true;
    } catch (error) {
      noticed(error);
    }
  }

  /** What the role does not allow is not offered; the server refuses it in any case. */
  function may(needed: Role): boolean {
    return who.value !== null && RANKS[who.value.role] >= RANKS[needed];
  }

  /** Tell of an answer that was an error; a 401 brings the login up. */
  function noticed(error: unknown): void {
    if (error instanceof ApiError && error.status === 401) isOpen.value = false;
  }

  return { isOpen, who, open, close, ask, may, noticed };
});
