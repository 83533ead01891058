/**
 * What the Node tests share: waiting with an end, and names that no other test uses.
 *
 * The server's WebSocket endpoint is in the environment variable `TCBCHAT_WS`.
 */

import { randomBytes } from "node:crypto";

/** Milliseconds that anything awaited may take before its test fails. */
const WAIT_MS_MAX = 10_000;

/** The WebSocket endpoint of the server under test. */
export function endpoint() {
  const url = process.env.TCBCHAT_WS;
  if (!url) throw new Error("TCBCHAT_WS names no WebSocket endpoint");
  return url;
}

/** A name that is used once. */
export function unique(kind) {
  return `${kind}-${randomBytes(6).toString("hex")}`;
}

/** Waits for a promise, but not for ever. */
export async function within(promise, what, ms = WAIT_MS_MAX) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Values that come by callback, taken by awaiting. */
export class Inbox {
  #arrived = [];
  #waiting = [];

  /** A function, so that it can be given as a callback as it is. */
  put = (value) => {
    const taker = this.#waiting.shift();
    if (taker) taker(value);
    else this.#arrived.push(value);
  };

  take(what = "a message") {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    return within(new Promise((resolve) => this.#waiting.push(resolve)), what);
  }

  /** `count` values in their order. */
  async takeAll(count) {
    const values = [];
    while (values.length < count) values.push(await this.take(`message ${values.length + 1} of ${count}`));
    return values;
  }

  /** What has arrived and was not taken. */
  get rest() {
    return this.#arrived;
  }
}
