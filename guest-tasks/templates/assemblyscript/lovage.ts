// Tasks as functions: text in, text out. A thin layer over the contract in wit/, in the memory layout
// of the component model; change it as you like.
//
// Nothing is freed: each attempt has a fresh instance, which is thrown away.

@external("lovage:task/progress@1.1.0", "report")
declare function report(percent: u32, message: usize, length: usize): void;

@external("lovage:task/progress@1.1.0", "is-revoked")
declare function is_revoked(): bool;

/** Says how far the attempt is. */
export function progress(percent: u8, message: string): void {
  const bytes = String.UTF8.encode(message);
  report(percent, changetype<usize>(bytes), bytes.byteLength);
}

/** Whether the attempt should end. */
export function isRevoked(): bool {
  return is_revoked();
}

/** One attempt at one job. */
export class Job {
  constructor(private at: usize) {}

  /** The same at each attempt: the idempotency key. */
  get id(): string {
    return text(this.at);
  }
  get task(): string {
    return text(this.at + 8);
  }
  get tenant(): string {
    return text(this.at + 16);
  }
  /** 1 at first. */
  get attempt(): u32 {
    return load<u32>(this.at, 24);
  }
  get maxAttempts(): u32 {
    return load<u32>(this.at, 28);
  }
  /** Milliseconds since 1970 at which the host stops the task. */
  get deadline(): u64 {
    return load<u64>(this.at, 32);
  }
  get rootId(): string {
    return text(this.at + 40);
  }
  get parentId(): string | null {
    return load<u8>(this.at, 48) ? text(this.at + 52) : null;
  }
  /** The first header of that name, which is lower case. */
  header(name: string): string | null {
    const start = load<usize>(this.at, 60);
    for (let i: usize = 0; i < load<usize>(this.at, 64); i++) {
      if (text(start + 16 * i) == name) return text(start + 16 * i + 8);
    }
    return null;
  }
  get contentType(): string {
    return text(this.at + 68);
  }
  /** The payload as text. */
  get payload(): string {
    return text(this.at + 76);
  }
  /** The payload's bytes. */
  get bytes(): Uint8Array {
    const length = load<i32>(this.at, 80);
    const bytes = new Uint8Array(length);
    memory.copy(bytes.dataStart, load<usize>(this.at, 76), length);
    return bytes;
  }
  /** The payload where it is one JSON number; NaN where it is anything else. */
  get number(): f64 {
    return this.contentType.startsWith("application/json") ? readNumber(this.payload) : NaN;
  }
}

/** How a task ends. */
export class Outcome {
  tag: i32 = 0; // as in `task-error`; -1 is an output
  first: string = "";
  second: string = "";
  detail: string | null = null;
  ms: i64 = -1;
  data: ArrayBuffer | null = null;

  /** With JSON text. */
  static json(text: string): Outcome {
    return Outcome.bytes("application/json", String.UTF8.encode(text));
  }
  /** With bytes of a media type. */
  static bytes(contentType: string, data: ArrayBuffer): Outcome {
    const outcome = Outcome.make(-1, contentType);
    outcome.data = data;
    return outcome;
  }
  /** Something passing went wrong: try again, after so many milliseconds unless they are negative.
   * Spends an attempt. */
  static retry(reason: string, afterMs: i64 = -1): Outcome {
    const outcome = Outcome.make(0, reason);
    outcome.ms = afterMs;
    return outcome;
  }
  /** Not ready yet: come back after so many milliseconds. Spends no attempt. */
  static snooze(ms: i64): Outcome {
    const outcome = Outcome.make(1, "");
    outcome.ms = ms;
    return outcome;
  }
  /** It failed and would fail again. `kind` is for programs, the rest for people. */
  static fail(kind: string, message: string, detail: string | null = null): Outcome {
    const outcome = Outcome.make(2, kind);
    outcome.second = message;
    outcome.detail = detail;
    return outcome;
  }
  /** The payload is not what the task takes. Never tried again. */
  static reject(reason: string): Outcome {
    return Outcome.make(3, reason);
  }

  private static make(tag: i32, first: string): Outcome {
    const outcome = new Outcome();
    outcome.tag = tag;
    outcome.first = first;
    return outcome;
  }
}

/** A task; numbers that are not 0 advise the host. */
export class Task {
  constructor(
    public name: string,
    public description: string,
    public run: (job: Job) => Outcome,
    public maxAttempts: u32 = 0,
    public timeoutMs: u64 = 0,
  ) {}
}

let all: Task[] = [];

/** Says what the component's tasks are. */
export function serve(tasks: Task[]): void {
  all = tasks;
}

/** Reads one JSON number; NaN where the text is anything else. */
export function readNumber(json: string): f64 {
  const number = json.trim();
  let at = 0;
  if (number.charCodeAt(at) == 45) at++; // minus
  const whole = digits(number, at);
  if (whole == at || (number.charCodeAt(at) == 48 && whole > at + 1)) return NaN;
  at = whole;
  if (at < number.length && number.charCodeAt(at) == 46) {
    const fraction = digits(number, ++at);
    if (fraction == at) return NaN;
    at = fraction;
  }
  if (at < number.length && (number.charCodeAt(at) | 32) == 101) {
    at++;
    const sign = at < number.length ? number.charCodeAt(at) : 0;
    if (sign == 43 || sign == 45) at++;
    const exponent = digits(number, at);
    if (exponent == at) return NaN;
    at = exponent;
  }
  return at == number.length ? parseFloat(number) : NaN;
}

/** Where the digits from here on end. */
function digits(text: string, from: i32): i32 {
  let at = from;
  while (at < text.length && text.charCodeAt(at) >= 48 && text.charCodeAt(at) <= 57) at++;
  return at;
}

/** Text as JSON. */
export function quote(text: string): string {
  let json = '"';
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code == 34 || code == 92) json += "\\" + text.charAt(i);
    else if (code < 32) json += "\\u00" + (code < 16 ? "0" : "1") + (code & 15).toString(16);
    else json += text.charAt(i);
  }
  return json + '"';
}

// What the host calls, by the names that names.mjs gives.

const LIST = memory.data(8, 8);
const RESULT = memory.data(48, 8);

export function describe(): usize {
  const specs = heap.alloc(64 * all.length);
  memory.fill(specs, 0, 64 * all.length);
  for (let i = 0; i < all.length; i++) {
    const at = specs + 64 * i;
    put(at, all[i].name);
    put(at + 8, all[i].description);
    store<u8>(at, all[i].maxAttempts > 0 ? 1 : 0, 40);
    store<u32>(at, all[i].maxAttempts, 44);
    store<u8>(at, all[i].timeoutMs > 0 ? 1 : 0, 48);
    store<u64>(at, all[i].timeoutMs, 56);
  }
  store<usize>(LIST, specs);
  store<i32>(LIST, all.length, 4);
  return LIST;
}

export function run(invocation: usize): usize {
  const job = new Job(invocation);
  for (let i = 0; i < all.length; i++) {
    if (all[i].name == job.task) return result(all[i].run(job));
  }
  return result(Outcome.reject("there is no such task here"));
}

/** What the host gets memory by. */
export function cabi_realloc(old: usize, oldLength: usize, align: usize, length: usize): usize {
  const made = heap.alloc(length);
  if (oldLength) memory.copy(made, old, min(oldLength, length));
  return made;
}

/** What AssemblyScript calls where it gives up. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  unreachable();
}

function result(outcome: Outcome): usize {
  memory.fill(RESULT, 0, 48);
  if (outcome.tag < 0) {
    const data = outcome.data!;
    put(RESULT + 8, outcome.first);
    store<usize>(RESULT, changetype<usize>(data), 16);
    store<i32>(RESULT, data.byteLength, 20);
    return RESULT;
  }
  store<u8>(RESULT, 1);
  store<u8>(RESULT, <u8>outcome.tag, 8);
  if (outcome.tag == 1) {
    store<i64>(RESULT, outcome.ms, 16);
    return RESULT;
  }
  put(RESULT + 16, outcome.first);
  if (outcome.tag == 0) {
    store<u8>(RESULT, outcome.ms >= 0 ? 1 : 0, 24);
    store<i64>(RESULT, outcome.ms, 32);
  } else if (outcome.tag == 2) {
    put(RESULT + 24, outcome.second);
    const detail = outcome.detail;
    if (detail !== null) {
      store<u8>(RESULT, 1, 32);
      put(RESULT + 36, detail);
    }
  }
  return RESULT;
}

/** Writes a text for the host: where it is, and how long. */
function put(at: usize, text: string): void {
  const bytes = String.UTF8.encode(text);
  store<usize>(at, changetype<usize>(bytes));
  store<i32>(at, bytes.byteLength, 4);
}

/** Reads a text of the host's. */
function text(at: usize): string {
  return String.UTF8.decodeUnsafe(load<usize>(at), load<usize>(at, 4));
}
