import { createParser } from "eventsource-parser";

/** One recorded event as the stream sends it. */
export interface LiveEvent {
  position: number;
  run_id: string;
  version: number;
  id: string;
  type: string;
  at: string;
  recorded_at: string;
  actor: { kind: string; name: string };
  data: Record<string, unknown> | null;
  [field: string]: unknown;
}

export type LinkState = "connecting" | "live" | "polling" | "logged-out";

export interface Listener {
  event?(event: LiveEvent): void;
  /** The history before this point is not held any more, or the server is another: load anew. */
  reset?(): void;
  state?(state: LinkState): void;
}

const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 15_000;
const SILENCE_MS_MAX = 45_000; // Three keepalives that did not come.
const CHANNEL = "runfold-stream";

type Told =
  | { kind: "event"; event: LiveEvent; id: string }
  | { kind: "state"; state: LinkState }
  | { kind: "reset" }
  | { kind: "hello" };

/**
 * The browser's one stream: the tab that holds the lock reads it and tells the others, since a browser opens six
 * connections to a server and no more. Whoever leads next resumes where the last one was.
 */
export class LiveStream {
  private readonly listeners = new Set<Listener>();
  private readonly channel = new BroadcastChannel(CHANNEL);
  private readonly ended = new AbortController();
  private lastId = "";
  private current: LinkState = "connecting";
  private leads = false;

  constructor(private readonly address = "/api/stream") {
    this.channel.onmessage = ({ data }: MessageEvent<Told>) => this.heard(data);
    this.channel.postMessage({ kind: "hello" } satisfies Told);
    void this.lead();
  }

  get state(): LinkState {
    return this.current;
  }

  listen(listener: Listener): () => void {
    this.listeners.add(listener);
    listener.state?.(this.current);
    return () => this.listeners.delete(listener);
  }

  close(): void {
    this.ended.abort();
    this.channel.close();
  }

  private async lead(): Promise<void> {
    const until = { signal: this.ended.signal };
    try {
      await navigator.locks.request(CHANNEL, until, async () => {
        this.leads = true;
        await this.read();
      });
    } catch {
      // Closed while it waited for the lock.
    }
  }

  private async read(): Promise<void> {
    let retryMs = RETRY_MS_MIN;
    while (!this.ended.signal.aborted) {
      try {
        if (await this.once(() => (retryMs = RETRY_MS_MIN))) continue;
      } catch {
        // The network is gone or the server is: the next try says which.
      }
      if (this.ended.signal.aborted) return;
      if (this.current !== "logged-out") this.tell({ kind: "state", state: "polling" });
      await new Promise((resolve) => setTimeout(resolve, retryMs * (0.75 + Math.random() / 2)));
      retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
    }
  }

  /** Read one connection to its end; whether to come back at once. */
  private async once(arrived: () => void): Promise<boolean> {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (this.lastId) headers["Last-Event-ID"] = this.lastId;
    try {
      const signal = AbortSignal.any([this.ended.signal, silence.signal]);
      const answer = await fetch(this.address, { headers, signal });
      if (answer.status === 410) {
        this.lastId = "";
        this.tell({ kind: "reset" });
        return true;
      }
      if (answer.status === 401) {
        this.tell({ kind: "state", state: "logged-out" });
        return false;
      }
      if (!answer.ok || !answer.body) return false;
      this.tell({ kind: "state", state: "live" });
      const parser = createParser({
        onEvent: ({ id, data, event }) => {
          if (event !== undefined || !id) return;
          this.tell({ kind: "event", event: JSON.parse(data) as LiveEvent, id });
        },
      });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return true;
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
        arrived();
        parser.feed(value);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  private tell(told: Told): void {
    if (!this.ended.signal.aborted) this.channel.postMessage(told);
    this.heard(told);
  }

  private heard(told: Told): void {
    if (told.kind === "hello") {
      // A new tab asks how things are; only the one that knows answers.
      if (this.leads) this.channel.postMessage({ kind: "state", state: this.current } satisfies Told);
      return;
    }
    if (told.kind === "event") this.lastId = told.id;
    if (told.kind === "state") this.current = told.state;
    for (const listener of this.listeners) {
      if (told.kind === "event") listener.event?.(told.event);
      else if (told.kind === "reset") listener.reset?.();
      else listener.state?.(told.state);
    }
  }
}

let shared: LiveStream | undefined;

export function liveStream(): LiveStream {
  return (shared ??= new LiveStream());
}

export function closeLiveStream(): void {
  shared?.close();
  shared = undefined;
}
