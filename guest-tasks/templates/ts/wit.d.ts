// Interfaces of wit/ that tasks import, as QuickJS gives them.

declare module "lovage:task/progress@1.1.0" {
  export function report(percent: number, message: string): void;
  export function isRevoked(): boolean;
  export function whyRevoked(): "revoked" | "out-of-time" | "stopping" | null;
}
