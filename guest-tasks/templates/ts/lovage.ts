// Tasks as functions: JSON in, JSON out. A thin layer over the contract in wit/; change it as you
// like.

import * as progress from "lovage:task/progress@1.1.0";

/** One attempt at one job, as the host tells it. */
export interface Invocation {
  /** The same at each attempt: the idempotency key. */
  id: string;
  task: string;
  tenant: string;
  /** 1 at first. */
  attempt: number;
  maxAttempts: number;
  /** Milliseconds since 1970 at which the host stops the task. */
  deadline: number;
  rootId: string;
  parentId: string | null;
  headers: [string, string][];
  contentType: string;
  payload: Uint8Array;
}

/** The attempt, and what it can tell the host. */
export interface Context extends Omit<Invocation, "payload"> {
  /** Says how far the attempt is. */
  progress(percent: number, message: string): void;
  /** Whether the attempt should end. */
  isRevoked(): boolean;
  /** Milliseconds until the host stops the task. */
  timeLeft(): number;
}

/** Bytes with their media type, as a result that is not JSON. */
export class Raw {
  constructor(
    readonly contentType: string,
    readonly data: Uint8Array,
  ) {}
}

/** A task. All but `run` is optional; the numbers advise the host. */
export interface Task {
  description?: string;
  /** JSON Schemas of the payload and of the result. */
  inputSchema?: object;
  outputSchema?: object;
  maxAttempts?: number;
  timeoutMs?: number;
  /** Whether `run` gets the payload as a `Raw`, whatever it is. */
  raw?: boolean;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  run(payload: any, ctx: Context): unknown;
}

/** The payload is not what the task takes. Never tried again. */
export class Reject extends Error {}

/** Something passing went wrong: try again, after so many milliseconds if given. */
export class Retry extends Error {
  constructor(
    reason: string,
    readonly afterMs: number | null = null,
  ) {
    super(reason);
  }
}

/** Not ready yet: come back after so many milliseconds. Spends no attempt. */
export class Snooze extends Error {
  constructor(readonly ms: number) {
    super(`snoozes for ${ms} ms`);
  }
}

/** It failed and would fail again. Any other error is as good: its name is the kind. */
export class Fail extends Error {
  constructor(
    readonly kind: string,
    message: string,
    readonly detail: string | null = null,
  ) {
    super(message);
  }
}

/** What the host calls, made of tasks by name. */
export function tasks(all: Record<string, Task>) {
  return {
    describe: () =>
      Object.entries(all).map(([name, task]) => ({
        name,
        description: task.description ?? "",
        inputSchema: task.inputSchema ? JSON.stringify(task.inputSchema) : null,
        outputSchema: task.outputSchema ? JSON.stringify(task.outputSchema) : null,
        maxAttempts: task.maxAttempts ?? null,
        timeout: task.timeoutMs ?? null,
      })),

    run(invocation: Invocation) {
      try {
        const task = Object.hasOwn(all, invocation.task) ? all[invocation.task] : undefined;
        if (!task) {
          throw new Reject(`there is no task \`${invocation.task}\` here`);
        }
        const result = task.run(read(task, invocation), context(invocation));
        return result instanceof Raw
          ? { contentType: result.contentType, data: result.data }
          : { contentType: "application/json", data: encode(JSON.stringify(result ?? null)) };
      } catch (error) {
        // What is thrown from here is the contract's `task-error`.
        throw taskError(error);
      }
    },
  };
}

function context({ payload, ...rest }: Invocation): Context {
  return {
    ...rest,
    progress: (percent, message) => progress.report(percent, message),
    isRevoked: () => progress.isRevoked(),
    timeLeft: () => Math.max(0, rest.deadline - Date.now()),
  };
}

function read(task: Task, { contentType, payload }: Invocation): unknown {
  if (task.raw) {
    return new Raw(contentType, payload);
  }
  const kind = (contentType.split(";")[0] ?? "").trim().toLowerCase();
  if (kind !== "application/json" && !kind.endsWith("+json")) {
    throw new Reject(`the payload is \`${contentType}\`, and this task takes \`application/json\``);
  }
  try {
    return JSON.parse(decode(payload));
  } catch (error) {
    throw new Reject(`the payload is no JSON: ${error instanceof Error ? error.message : error}`);
  }
}

function taskError(error: unknown) {
  if (error instanceof Reject) {
    return { tag: "reject", val: error.message };
  }
  if (error instanceof Retry) {
    return { tag: "retry", val: { reason: error.message, after: error.afterMs } };
  }
  if (error instanceof Snooze) {
    return { tag: "snooze", val: error.ms };
  }
  if (error instanceof Fail) {
    return { tag: "fail", val: { kind: error.kind, message: error.message, detail: error.detail } };
  }
  if (error instanceof Error) {
    const val = { kind: error.name, message: error.message, detail: error.stack ?? null };
    return { tag: "fail", val };
  }
  return { tag: "fail", val: { kind: "Error", message: String(error), detail: null } };
}

// QuickJS has neither TextEncoder nor TextDecoder.

/** Text as UTF-8; half of a surrogate pair becomes U+FFFD. */
export function encode(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 3);
  let end = 0;
  for (const char of text) {
    let code = char.codePointAt(0) ?? 0;
    if (code >= 0xd800 && code <= 0xdfff) {
      code = 0xfffd;
    }
    if (code < 0x80) {
      bytes[end++] = code;
    } else if (code < 0x800) {
      bytes[end++] = 0xc0 | (code >> 6);
      bytes[end++] = 0x80 | (code & 63);
    } else if (code < 0x10000) {
      bytes[end++] = 0xe0 | (code >> 12);
      bytes[end++] = 0x80 | ((code >> 6) & 63);
      bytes[end++] = 0x80 | (code & 63);
    } else {
      bytes[end++] = 0xf0 | (code >> 18);
      bytes[end++] = 0x80 | ((code >> 12) & 63);
      bytes[end++] = 0x80 | ((code >> 6) & 63);
      bytes[end++] = 0x80 | (code & 63);
    }
  }
  return bytes.slice(0, end);
}

/** UTF-8 as text. */
export function decode(bytes: Uint8Array): string {
  const wrong = () => new Error("it is not UTF-8");
  const parts: string[] = [];
  let codes: number[] = [];
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++] ?? 0;
    let code = first;
    if (first >= 0x80) {
      const more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
      if (first < 0xc2 || first > 0xf4) {
        throw wrong();
      }
      code = first & (0x3f >> more);
      for (let i = 0; i < more; i++) {
        const next = bytes[at++] ?? 0;
        if ((next & 0xc0) !== 0x80) {
          throw wrong();
        }
        code = (code << 6) | (next & 63);
      }
      const least = [0x80, 0x800, 0x10000][more - 1] ?? 0;
      if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
        throw wrong();
      }
    }
    codes.push(code);
    if (codes.length === 1024) {
      parts.push(String.fromCodePoint(...codes));
      codes = [];
    }
  }
  return parts.join("") + String.fromCodePoint(...codes);
}
