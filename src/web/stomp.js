/**
 * STOMP 1.2 over WebSocket, as much of it as the chat page needs: a codec, and a client that stays
 * connected.
 *
 * Its job: turn bytes into STOMP frames and back; keep one session alive over heart-beats, lost
 * connections and restarts of the server; prove who its user is; deliver what it was given to send. It knows
 * nothing of rooms, names or the document, stores nothing, and has no ACK, NACK or transactions.
 *
 * Invariants: a message that `send` accepted stays in the outbox until the server's RECEIPT for it came
 * back, or it is refused. So a message may be sent twice (when only its RECEIPT was lost), but never
 * disappears; whoever shows messages must drop repeated ids. And what one login wrote is never sent as another.
 */

const TEXT = new TextEncoder();
const UTF8 = new TextDecoder("utf-8");

const LF = 10;
const CR = 13;

/** Bytes of one incoming STOMP frame; a server that sends more is not one to wait for. */
const FRAME_BYTES_MAX = 8 * 1024 * 1024;
/** Milliseconds for the opening handshake and for CONNECTED, together. */
const CONNECT_TIMEOUT_MS = 10_000;
/**
 * Milliseconds for a RECEIPT; past it, the connection is taken for dead and made anew. Not where the server
 * promised heart-beats: while those come, it is alive and takes messages later, because of a rate.
 */
const RECEIPT_TIMEOUT_MS = 15_000;
/** Milliseconds that a message waits for its RECEIPT before the user is told that it goes slowly. */
const SLOW_MS = 3_000;
/** Messages that may wait to be sent, so that a long outage cannot fill the page's memory. */
const OUTBOX_MESSAGES_MAX = 200;
/**
 * Milliseconds between beats that this side promises. Browsers fire the timers of a hidden page once a
 * minute, so a promise must leave room for two such minutes.
 */
const BEAT_SEND_MS = 120_000;
/** Milliseconds between beats that this side asks for; twice as long without a byte is a dead connection. */
const BEAT_EXPECT_MS = 15_000;
/** Milliseconds to the first new attempt after a lost connection, and the most between two attempts. */
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 30_000;
/** Milliseconds online after which the attempts are counted from the start again. */
const SETTLED_MS = 5_000;

/** Names of ERRORs after which the same credentials would be refused again. */
const NEEDS_NEW_PROOF = new Set(["not-authenticated", "expired"]);

const ESCAPES = { "\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c" };
const UNESCAPES = { "\\\\": "\\", "\\r": "\r", "\\n": "\n", "\\c": ":" };

/** STOMP 1.2, "Value Encoding": CONNECT and CONNECTED are exempt, for old peers. */
const isEscaped = (command) => command !== "CONNECT" && command !== "CONNECTED";

const escape = (text) => text.replace(/[\\\r\n:]/g, (character) => ESCAPES[character]);

/** A value that is written as it is must not end its line. */
function plain(text) {
  if (/[\r\n\0]/.test(text)) throw new Error("a control character in a value that has no escapes");
  return text;
}

const unescape = (text) =>
  text.replace(/\\.?/g, (pair) => {
    if (!(pair in UNESCAPES)) throw new Error(`undefined escape ${pair}`);
    return UNESCAPES[pair];
  });

/**
 * One STOMP frame as text, ready for one WebSocket message.
 *
 * @param {string} command
 * @param {Record<string, string | number>} headers in the order in which they are to be sent
 * @param {string} body
 */
export function encode(command, headers = {}, body = "") {
  const value = isEscaped(command) ? escape : plain;
  let head = `${command}\n`;
  for (const [name, content] of Object.entries(headers)) head += `${value(name)}:${value(String(content))}\n`;
  if (body) head += `content-length:${TEXT.encode(body).length}\n`;
  return `${head}\n${body}\0`;
}

/**
 * STOMP frames out of a stream of bytes. WebSocket messages need not end where STOMP frames do: several
 * may share a message and one may span several.
 */
export class Decoder {
  #bytes = new Uint8Array(0);

  /**
   * Takes more bytes and returns the frames that they complete.
   *
   * @param {Uint8Array} bytes
   * @returns {{command: string, headers: Map<string, string>, body: string}[]}
   * @throws {Error} when the bytes are not STOMP; the stream is of no use afterwards
   */
  push(bytes) {
    const whole = new Uint8Array(this.#bytes.length + bytes.length);
    whole.set(this.#bytes);
    whole.set(bytes, this.#bytes.length);
    const stompFrames = [];
    let at = 0;
    for (;;) {
      // Between frames, an end of line is a heart-beat.
      while (whole[at] === LF || whole[at] === CR) at += 1;
      const step = decodeOne(whole, at);
      if (!step) break;
      stompFrames.push(step.stompFrame);
      at = step.end;
    }
    this.#bytes = whole.slice(at);
    if (this.#bytes.length > FRAME_BYTES_MAX) throw new Error("a frame is larger than this page takes");
    return stompFrames;
  }
}

/** The frame that starts at `start`, and where it ends; nothing while it is incomplete. */
function decodeOne(bytes, start) {
  const head = headEnd(bytes, start);
  if (head < 0) return undefined;
  const [command, ...lines] = UTF8.decode(bytes.subarray(start, head))
    .replace(/\r?\n\r?\n$/, "")
    .split(/\r?\n/);
  const value = isEscaped(command) ? unescape : (text) => text;
  const headers = new Map();
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon < 0) throw new Error("a header without a colon");
    const name = value(line.slice(0, colon));
    // STOMP 1.2, "Repeated Header Entries": the first one counts.
    if (!headers.has(name)) headers.set(name, value(line.slice(colon + 1)));
  }
  let end;
  if (headers.has("content-length")) {
    const length = Number(headers.get("content-length"));
    if (!Number.isSafeInteger(length) || length < 0) throw new Error("content-length is not a number");
    if (length > FRAME_BYTES_MAX) throw new Error("a frame is larger than this page takes");
    end = head + length;
    if (end >= bytes.length) return undefined;
    if (bytes[end] !== 0) throw new Error("no NUL where content-length ends");
  } else {
    end = bytes.indexOf(0, head);
    if (end < 0) return undefined;
  }
  return { stompFrame: { command, headers, body: UTF8.decode(bytes.subarray(head, end)) }, end: end + 1 };
}

/** Where the body begins: past the first empty line. */
function headEnd(bytes, start) {
  for (let at = bytes.indexOf(LF, start); at >= 0; at = bytes.indexOf(LF, at + 1)) {
    if (bytes[at + 1] === LF) return at + 2;
    if (bytes[at + 1] === CR && bytes[at + 2] === LF) return at + 3;
  }
  return -1;
}

/** Milliseconds to wait before attempt number `attempt` (from 1), `random` being in [0, 1). */
export function retryDelayMs(attempt, random) {
  const ceiling = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** (attempt - 1));
  // Half of it is random: after a restart of the server its clients must not all return in one instant.
  return Math.round(ceiling * (0.5 + random / 2));
}

/**
 * A STOMP session that outlives its connections.
 *
 * States, told to `onState` in this order and then around again:
 * - `{ kind: "connecting" }`
 * - `{ kind: "online" }`: connected, subscribed, and the outbox on its way
 * - `{ kind: "lost", reason, isRefusal, retryAt }`: `reason` may be empty, `isRefusal` says that the server
 *   ended the connection because of a frame of ours, `retryAt` is in milliseconds as `Date.now()` counts
 * - `{ kind: "stopped" }`: after `stop()`, or when the user must prove anew who he is
 */
export class Client {
  #url;
  #on;
  #state = { kind: "stopped" };
  #socket;
  #attempt = 0;
  #heardAt = 0;
  #timers = new Map();
  /** Subscription id to destination. */
  #subscriptions = new Map();
  /** Receipt id to what is being delivered, oldest first. */
  #outbox = new Map();
  #nextId = 1;
  /** Headers of CONNECT that prove who the user is. In memory only. */
  #credentials = {};
  /** Whether the server has accepted these credentials. */
  #isProved = false;
  /** The login that CONNECTED named last, and whether there was a CONNECTED. */
  #login;
  #wasConnected = false;
  /** Whether the server is to be heard from time to time, whatever happens. */
  #hasBeats = false;
  #isSlow = false;

  /**
   * @param {string} url of the WebSocket endpoint
   * @param {object} on
   * @param {(state: object) => void} on.onState
   * @param {(message: {destination: string, headers: Map<string, string>, body: string}) => void} on.onMessage
   * @param {(id: string) => void} on.onDelivered the server's receipt for a sent message
   * @param {(id: string, fault: {name: string, reason: string}) => void} on.onRefused the server's ERROR for
   *   a sent message, or for a subscription (then `id` is its destination); it is not tried again
   * @param {(fault: {name: string, reason: string}) => void} on.onProofRefused the server does not, or no
   *   more, accept the credentials; the client has stopped, and the outbox is kept
   * @param {() => void} on.onSlow `isSlow` has changed: the server takes messages later than they are sent
   */
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
  }

  get state() {
    return this.#state;
  }

  /** Messages without a receipt. */
  get unsent() {
    return this.#outbox.size;
  }

  /** Whether messages wait for longer than they should, though the connection is there. */
  get isSlow() {
    return this.#isSlow;
  }

  /** Whether the server has accepted the credentials, and has not refused them since. */
  get isProved() {
    return this.#isProved;
  }

  /** The login that the server has verified; undefined where it verifies none. */
  get login() {
    return this.#login;
  }

  /**
   * Says who the user is, from the next connection on.
   *
   * @param {{login?: string, passcode?: string}} credentials a token goes alone, as the passcode
   */
  prove(credentials) {
    this.#credentials = credentials;
    this.#isProved = false;
  }

  /** Stops, and forgets credentials, subscriptions and what was not sent. */
  forget() {
    this.stop();
    this.prove({});
    this.#outbox.clear();
    this.#subscriptions.clear();
    this.#wasConnected = false;
    this.#login = undefined;
  }

  start() {
    if (this.#state.kind === "stopped") this.#connect();
  }

  /** Attempts again at once, if the client is waiting for its next attempt. */
  retry() {
    if (this.#state.kind !== "lost") return;
    this.#clear("retry");
    this.#connect();
  }

  /** Says goodbye and stays away until `start()`; the outbox is kept. */
  stop() {
    if (this.#state.kind === "online") this.#write(encode("DISCONNECT"));
    this.#drop();
    this.#clear("retry");
    this.#become({ kind: "stopped" });
  }

  /** Subscribes now and after each reconnection. */
  subscribe(destination) {
    const id = `s${this.#nextId++}`;
    this.#subscriptions.set(id, destination);
    if (this.#state.kind === "online") this.#writeSubscribe(id);
  }

  unsubscribe(destination) {
    for (const [id, known] of this.#subscriptions) {
      if (known !== destination) continue;
      this.#subscriptions.delete(id);
      if (this.#state.kind === "online") this.#write(encode("UNSUBSCRIBE", { id }));
    }
  }

  /**
   * Takes a message for delivery: now, or when the connection is found again.
   *
   * @param {string} id unique for this page; comes back in `onDelivered` or `onRefused`
   * @returns {boolean} false when too many wait already
   */
  send(id, destination, contentType, body) {
    if (this.#outbox.size >= OUTBOX_MESSAGES_MAX) return false;
    this.#outbox.set(id, { destination, contentType, body, writtenAt: Infinity });
    if (this.#state.kind === "online") this.#writeSend(id);
    return true;
  }

  #connect() {
    this.#attempt += 1;
    this.#become({ kind: "connecting" });
    const socket = new WebSocket(this.#url, ["v12.stomp"]);
    const decoder = new Decoder();
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#after("connect", CONNECT_TIMEOUT_MS, () => this.#lose("no answer"));
    // An abandoned socket may still report: only the current one counts.
    const current = (handler) => (event) => {
      if (this.#socket === socket) handler(event);
    };
    socket.addEventListener("open", current(() => {
      const { host } = new URL(this.#url);
      const beats = `${BEAT_SEND_MS},${BEAT_EXPECT_MS}`;
      const headers = { "accept-version": "1.2", host, "heart-beat": beats, ...this.#credentials };
      this.#write(encode("CONNECT", headers));
    }));
    socket.addEventListener("message", current(({ data }) => {
      this.#heardAt = Date.now();
      try {
        const bytes = typeof data === "string" ? TEXT.encode(data) : new Uint8Array(data);
        for (const stompFrame of decoder.push(bytes)) {
          if (this.#socket !== socket) return;
          this.#receive(stompFrame);
        }
      } catch (error) {
        this.#lose(`the server's answer is not understood: ${error.message}`);
      }
    }));
    socket.addEventListener("close", current(({ code, reason }) => this.#lose(closeReason(code, reason))));
  }

  #receive({ command, headers, body }) {
    switch (command) {
      case "CONNECTED":
        return this.#connected(headers.get("heart-beat") ?? "0,0", headers.get("user-name"));
      case "MESSAGE":
        return this.#on.onMessage({ destination: headers.get("destination"), headers, body });
      case "RECEIPT":
        return this.#delivered(headers.get("receipt-id"));
      case "ERROR":
        return this.#fail({ name: body.trim(), reason: headers.get("message") ?? "an error" }, headers.get("receipt-id"));
      default:
        return this.#lose(`the server sent ${command}`);
    }
  }

  #connected(heartBeat, login) {
    this.#clear("connect");
    const isSomebodyElse = this.#wasConnected && login !== this.#login;
    this.#wasConnected = true;
    this.#isProved = true;
    this.#login = login;
    // Not at once: a server that accepts and then fails, every time, must see the delays grow.
    this.#after("settled", SETTLED_MS, () => (this.#attempt = 0));
    // The server's half reads: what it can send, what it wants; zero is none.
    const [canSend, wants] = heartBeat.split(",").map(Number);
    if (wants > 0) this.#every("beat", Math.max(BEAT_SEND_MS, wants) / 2, () => this.#write("\n"));
    this.#hasBeats = canSend > 0;
    if (this.#hasBeats) this.#awaitSound(2 * Math.max(BEAT_EXPECT_MS, canSend));
    for (const id of this.#subscriptions.keys()) this.#writeSubscribe(id);
    if (isSomebodyElse) this.#refuseAll({ name: "another-login", reason: "it was written under another login" });
    for (const id of this.#outbox.keys()) this.#writeSend(id);
    this.#become({ kind: "online" });
  }

  /** The timer looks when it fires whether anything came meanwhile: nothing is to do per message. */
  #awaitSound(silenceMs) {
    const restMs = this.#heardAt + silenceMs - Date.now();
    if (restMs <= 0) this.#lose("the server is silent");
    else this.#after("silence", restMs, () => this.#awaitSound(silenceMs));
  }

  #delivered(id) {
    if (!this.#outbox.delete(id)) return;
    this.#clear("receipt");
    this.#awaitReceipt();
    this.#on.onDelivered(id);
  }

  /** What follows an ERROR, behind which the server always closes. */
  #fail(fault, receipt) {
    const wasOnline = this.#state.kind === "online";
    if (this.#needsNewProof(fault.name, wasOnline)) {
      this.stop();
      this.#isProved = false;
      return this.#on.onProofRefused(fault);
    }
    const refused = receipt !== undefined && (this.#outbox.has(receipt) || this.#subscriptions.has(receipt));
    // First the state, then the callbacks: one of them may call stop().
    this.#lose(fault.reason, refused);
    if (refused) this.#refuse(receipt, fault);
  }

  /** Whether the user must be asked, because the credentials that are here are of no use. */
  #needsNewProof(name, wasOnline) {
    // A password or a cookie may begin a session again. A token that has expired may not.
    if (wasOnline) return name === "expired" && this.#credentials.login === undefined && "passcode" in this.#credentials;
    // Later than the first time it is one's own lost session that takes the place, and the server will notice.
    if (name === "too-many-sessions") return !this.#isProved;
    return NEEDS_NEW_PROOF.has(name);
  }

  /** Forgets what an ERROR names: the same frame again would only be refused again, for ever. */
  #refuse(id, fault) {
    const message = this.#outbox.get(id);
    if (message) {
      this.#outbox.delete(id);
      this.#on.onRefused(id, fault);
      // Each of the others would cost a connection, to hear the same.
      if (fault.name === "forbidden") this.#refuseAll(fault, message.destination);
    }
    const destination = this.#subscriptions.get(id);
    if (this.#subscriptions.delete(id)) this.#on.onRefused(destination, fault);
  }

  /** Gives up what waits, all of it or that for one destination. */
  #refuseAll(fault, destination) {
    for (const [id, message] of [...this.#outbox]) {
      if (destination !== undefined && message.destination !== destination) continue;
      this.#outbox.delete(id);
      this.#on.onRefused(id, fault);
    }
  }

  #lose(reason, isRefusal = false) {
    this.#drop();
    const delayMs = retryDelayMs(Math.max(1, this.#attempt), Math.random());
    this.#become({ kind: "lost", reason, isRefusal, retryAt: Date.now() + delayMs });
    this.#after("retry", delayMs, () => this.#connect());
  }

  /** Lets go of the connection, whatever state it is in. */
  #drop() {
    const socket = this.#socket;
    this.#socket = undefined;
    for (const name of ["connect", "beat", "silence", "receipt", "slow", "settled"]) this.#clear(name);
    this.#setSlow(false);
    socket?.close();
  }

  #writeSubscribe(id) {
    // The receipt is asked for so that an ERROR can name the subscription.
    this.#write(encode("SUBSCRIBE", { id, destination: this.#subscriptions.get(id), ack: "auto", receipt: id }));
  }

  #writeSend(id) {
    const message = this.#outbox.get(id);
    const { destination, contentType, body } = message;
    message.writtenAt = Date.now();
    this.#write(encode("SEND", { destination, "content-type": contentType, receipt: id }, body));
    this.#awaitReceipt();
  }

  /** Receipts come in order, so one clock, for the oldest message, is enough. */
  #awaitReceipt() {
    if (this.#outbox.size === 0) {
      this.#clear("slow");
      return this.#setSlow(false);
    }
    if (!this.#hasBeats && !this.#timers.has("receipt")) {
      this.#after("receipt", RECEIPT_TIMEOUT_MS, () => this.#lose("no receipt from the server"));
    }
    if (this.#isSlow || this.#timers.has("slow")) return;
    const [oldest] = this.#outbox.values();
    const restMs = oldest.writtenAt + SLOW_MS - Date.now();
    if (restMs <= 0) this.#setSlow(true);
    else this.#after("slow", restMs, () => this.#awaitReceipt());
  }

  #setSlow(isSlow) {
    if (this.#isSlow === isSlow) return;
    this.#isSlow = isSlow;
    this.#on.onSlow();
  }

  #write(text) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  #become(state) {
    this.#state = state;
    this.#on.onState(state);
  }

  #after(name, ms, action) {
    this.#clear(name);
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      action();
    }, ms);
    this.#timers.set(name, () => clearTimeout(timer));
  }

  #every(name, ms, action) {
    this.#clear(name);
    const timer = setInterval(action, ms);
    this.#timers.set(name, () => clearInterval(timer));
  }

  #clear(name) {
    this.#timers.get(name)?.();
    this.#timers.delete(name);
  }
}

/** What there is to say about a close; nothing where the connection just broke off (1006). */
function closeReason(code, reason) {
  if (reason || code === 1006) return reason;
  return { 1001: "the server is going away", 1013: "the server is busy" }[code] ?? `close code ${code}`;
}
