import { createParser } from "eventsource-parser";
import { chosenTenant, tenantHeaders } from "./tenant";

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

export const LIVE_EVENTS_MAX = 1_000; // Of those that came live a page keeps so many, and so does its memory.
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 15_000;
const SILENCE_MS_MAX = 45_000; // Three keepalives that did not come.
const BEGIN_MS_MAX = 1_000; // So long the page may take to read something, before the stream asks for itself.
const STALE_MS = 20_000; // More than a keepalive: a computer that slept, or a network that changed.
/** One stream for each tenant that is looked at. */
const CHANNEL = () => `runfold-stream ${chosenTenant()}`;

type Told =
  | { kind: "event"; event: LiveEvent; id: string }
  | { kind: "state"; state: LinkState }
  | { kind: "reset" }
  | { kind: "hello" }
  | { kind: "here"; state: LinkState; id: string };

/**
 * The browser's one stream: the tab that holds the lock reads it and tells the others, since a browser opens six
 * connections to a server and no more. Whoever leads next resumes where the last one was; it begins where the page
 * was read, so that nothing falls between the two.
 */
export class LiveStream {
  private readonly listeners = new Set<Listener>();
  private readonly name = CHANNEL();
  private readonly channel = new BroadcastChannel(this.name);
  private readonly ended = new AbortController();
  private lastId = "";
  private current: LinkState = "connecting";
  private leads = false;
  private heardAt = 0;
  private wake = () => {};
  private cut = () => {};

  constructor(private readonly address = "/api/stream") {
    this.channel.onmessage = ({ data }: MessageEvent<Told>) => this.heard(data);
    this.channel.postMessage({ kind: "hello" } satisfies Told);
    const signal = this.ended.signal;
    addEventListener("online", () => this.hurry(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.hurry(), { signal });
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

  /** The position up to which the page was read; only the first counts, for later ones are read while it is live. */
  begin(position: string): void {
    if (this.lastId) return;
    this.lastId = position;
    this.wake();
  }

  close(): void {
    this.ended.abort();
    this.channel.close();
  }

  private async lead(): Promise<void> {
    const until = { signal: this.ended.signal };
    try {
      await navigator.locks.request(this.name, until, async () => {
        this.leads = true;
        await this.read();
      });
    } catch {
      // Closed while it waited for the lock.
    }
  }

  /** Whoever comes back to the page, or to the network, does not wait for the next try. */
  private hurry(): void {
    this.wake();
    if (Date.now() - this.heardAt > STALE_MS) this.cut();
  }

  /** Wait, unless there is reason to go on sooner. */
  private async rest(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, ms);
    });
  }

  /** Where to begin, if nothing that the page reads says it. */
  private async ask(): Promise<void> {
    if (!this.lastId) await this.rest(BEGIN_MS_MAX);
    if (this.lastId) return;
    const answer = await fetch("/api/runs?limit=1", { headers: tenantHeaders(), signal: this.ended.signal });
    if (answer.ok) this.lastId ||= answer.headers.get("Runfold-Position") ?? "";
    else if (answer.status === 401) this.tell({ kind: "state", state: "logged-out" });
    if (!this.lastId) throw new Error(`no place to begin: ${answer.status}`);
  }

  private async read(): Promise<void> {
    let retryMs = RETRY_MS_MIN;
    while (!this.ended.signal.aborted) {
      try {
        await this.ask();
        if (await this.once(() => (retryMs = RETRY_MS_MIN))) continue;
      } catch {
        // The network is gone or the server is: the next try says which.
      }
      if (this.ended.signal.aborted) return;
      if (this.current !== "logged-out") this.tell({ kind: "state", state: "polling" });
      await this.rest(retryMs * (0.75 + Math.random() / 2));
      retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
    }
  }

  /** Read one connection to its end; whether to come back at once. */
  private async once(arrived: () => void): Promise<boolean> {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
    this.cut = () => silence.abort();
    const headers: Record<string, string> = { Accept: "text/event-stream", "Last-Event-ID": this.lastId, ...tenantHeaders() };
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
      this.heardAt = Date.now();
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
        this.heardAt = Date.now();
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
      if (this.leads) this.channel.postMessage({ kind: "here", state: this.current, id: this.lastId } satisfies Told);
      return;
    }
    if (told.kind === "here") {
      // A tab that was opened now takes over from there, should it have to.
      this.lastId ||= told.id;
      this.heard({ kind: "state", state: told.state });
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
