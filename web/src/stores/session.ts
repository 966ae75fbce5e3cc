import { defineStore } from "pinia";
import { ref } from "vue";
import { ApiError, answered, api } from "@/api/client";
import { closeLiveStream } from "@/live/stream";

/** Whether the server knows this browser. */
export const useSession = defineStore("session", () => {
  const isOpen = ref(true);

  async function open(token: string): Promise<void> {
    await answered(api.POST("/session", { body: { token } }));
    closeLiveStream();
    isOpen.value = true;
  }

  async function close(): Promise<void> {
    await answered(api.DELETE("/session"));
    closeLiveStream();
    isOpen.value = false;
  }

  /** Tell of an answer that was an error; a 401 brings the login up. */
  function noticed(error: unknown): void {
    if (error instanceof ApiError && error.status === 401) isOpen.value = false;
  }

  return { isOpen, open, close, noticed };
});
