/**
 * The chat page's own STOMP module, without a browser: its codec against that of `@stomp/stompjs`, and its
 * client against a WebSocket and a clock that the test turns by hand.
 *
 * Run by `tests/browser.rs`; by hand: `node --test page.mjs`.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import { FrameImpl, Parser } from "@stomp/stompjs";

// As text, since Node takes a module from a folder without package.json for something else.
const source = readFileSync(new URL("../../src/web/stomp.js", import.meta.url));
const { Client, Decoder, encode, retryDelayMs } = await import(`data:text/javascript;base64,${source.toString("base64")}`);

const bytes = (text) => new TextEncoder().encode(text);

/**
 * Headers and bodies with everything that needs care, but for what stompjs gets wrong: it trims values, does
 * not escape names, and takes an escaped backslash before an `n`, `r` or `c` for the start of an escape.
 */
const SAMPLES = [
  { command: "MESSAGE", headers: { destination: "/topic/a", "message-id": "1" }, body: "" },
  { command: "MESSAGE", headers: { destination: "/topic/a:b\\d\ne\rf", x: "y" }, body: "line\n\nline" },
  { command: "MESSAGE", headers: { destination: "/topic/grüße 😀" }, body: "NUL \0 and 😀" },
  { command: "RECEIPT", headers: { "receipt-id": "r" }, body: "" },
];

test("what the page encodes, stompjs decodes", () => {
  for (const { command, headers, body } of SAMPLES) {
    const decoded = [];
    new Parser((raw) => decoded.push(FrameImpl.fromRawFrame(raw, true)), () => {}).parseChunk(encode(command, headers, body));
    assert.equal(decoded.length, 1);
    assert.equal(decoded[0].command, command);
    assert.equal(decoded[0].body, body);
    for (const [name, value] of Object.entries(headers)) assert.equal(decoded[0].headers[name], value);
  }
});

test("what stompjs encodes, the page decodes, however it is split", () => {
  const stream = SAMPLES.map(({ command, headers, body }) =>
    FrameImpl.marshall({ command, headers, body, escapeHeaderValues: true }),
  );
  // Heart-beats and ends of line between frames are nothing.
  const whole = bytes(stream.join("\n\r\n"));
  for (const size of [1, 2, 3, 7, 64, whole.length]) {
    const decoder = new Decoder();
    const decoded = [];
    for (let at = 0; at < whole.length; at += size) decoded.push(...decoder.push(whole.slice(at, at + size)));
    assert.deepEqual(decoded.map(({ command, body }) => [command, body]), SAMPLES.map(({ command, body }) => [command, body]));
    decoded.forEach(({ headers }, index) => {
      for (const [name, value] of Object.entries(SAMPLES[index].headers)) assert.equal(headers.get(name), value);
    });
  }
});

test("names and values with escapes come back as they were", () => {
  const headers = { "a:b\nc\\": "\\n \\c \\\\r", "\r": "", spaces: " kept " };
  const [stompFrame] = new Decoder().push(bytes(encode("MESSAGE", headers, "")));
  assert.deepEqual(Object.fromEntries(stompFrame.headers), headers);
});

test("CRLF ends lines, and the first of repeated headers counts", () => {
  const [stompFrame] = new Decoder().push(bytes("MESSAGE\r\nname:first\r\nname:second\r\n\r\nbody\0"));
  assert.equal(stompFrame.headers.get("name"), "first");
  assert.equal(stompFrame.body, "body");
});

test("CONNECTED is not unescaped", () => {
  const [stompFrame] = new Decoder().push(bytes("CONNECTED\nserver:a\\b\n\n\0"));
  assert.equal(stompFrame.headers.get("server"), "a\\b");
});

test("what is not STOMP is refused", () => {
  for (const wrong of [
    "MESSAGE\nno colon\n\n\0",
    "MESSAGE\na:\\t\n\n\0",
    "MESSAGE\na:ends in a backslash\\\n\n\0",
    "MESSAGE\ncontent-length:2\n\nabc\0",
    "MESSAGE\ncontent-length:-1\n\n\0",
    "MESSAGE\ncontent-length:99999999999\n\n\0",
  ]) {
    assert.throws(() => new Decoder().push(bytes(wrong)), wrong);
  }
});

test("the delay before an attempt grows to 30 s, and half of it is random", () => {
  for (let attempt = 1; attempt < 20; attempt += 1) {
    const ceiling = Math.min(30_000, 1_000 * 2 ** (attempt - 1));
    assert.equal(retryDelayMs(attempt, 0), ceiling / 2);
    assert.ok(retryDelayMs(attempt, 0.999) <= ceiling);
  }
});

/** A WebSocket whose other end is the test. */
class FakeSocket extends EventTarget {
  static OPEN = 1;
  static all = [];

  constructor(url, protocols) {
    super();
    Object.assign(this, { url, protocols, readyState: 0, sent: [] });
    FakeSocket.all.push(this);
  }

  static get last() {
    return FakeSocket.all.at(-1);
  }

  /** Frames that the page sent, beats left out. */
  get frames() {
    return new Decoder().push(bytes(this.sent.join("")));
  }

  get commands() {
    return this.frames.map(({ command }) => command);
  }

  send(text) {
    this.sent.push(text);
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = FakeSocket.OPEN;
    this.dispatchEvent(new Event("open"));
  }

  receive(command, headers, body) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: encode(command, headers, body) }));
  }

  breakOff() {
    this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event("close"), { code: 1006, reason: "" }));
  }

  /** The server's side of a connection that works. */
  accept(heartBeat = "10000,10000", more = {}) {
    this.open();
    this.receive("CONNECTED", { version: "1.2", "heart-beat": heartBeat, ...more });
  }

  /** The server's side of one that it refuses. */
  refuse(name, headers = {}) {
    if (this.readyState === 0) this.open();
    this.receive("ERROR", { message: `sentence of ${name}`, ...headers }, `${name}\n`);
  }
}

/** A client in a room, with what it told and a clock that `tick` turns. */
function start(t, credentials) {
  FakeSocket.all = [];
  globalThis.WebSocket = FakeSocket;
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  mock.method(Math, "random", () => 0.999);
  t.after(() => {
    mock.timers.reset();
    mock.restoreAll();
  });
  const told = { states: [], messages: [], delivered: [], refused: [], proofs: [], slow: [] };
  const client = new Client("ws://host.test/ws", {
    onState: ({ kind, reason }) => told.states.push(reason ? `${kind}: ${reason}` : kind),
    onMessage: ({ body }) => told.messages.push(body),
    onDelivered: (id) => told.delivered.push(id),
    onRefused: (id, { reason }) => told.refused.push([id, reason]),
    onProofRefused: ({ name }) => told.proofs.push(name),
    onSlow: () => told.slow.push(client.isSlow),
  });
  if (credentials) client.prove(credentials);
  client.subscribe("/topic/room");
  client.start();
  const send = (id, room = "room") => client.send(id, `/topic/${room}`, "text/plain", `body of ${id}`);
  return { client, told, send };
}

/** The bodies that the page sent on its newest connection. */
const bodies = () => FakeSocket.last.frames.filter(({ command }) => command === "SEND").map(({ body }) => body);

/** In small steps, since a timer that is set within a step counts from the step's end. */
function tick(ms) {
  for (let step = 0; step < ms / 10; step += 1) mock.timers.tick(10);
}

test("a session opens with CONNECT, then SUBSCRIBE, and gives messages on", (t) => {
  const { told } = start(t);
  FakeSocket.last.open();
  const [connect] = FakeSocket.last.frames;
  assert.equal(connect.command, "CONNECT");
  assert.equal(connect.headers.get("accept-version"), "1.2");
  assert.equal(connect.headers.get("host"), "host.test");
  assert.match(connect.headers.get("heart-beat"), /^[1-9]\d*,[1-9]\d*$/);
  FakeSocket.last.receive("CONNECTED", { version: "1.2" });
  assert.deepEqual(FakeSocket.last.commands, ["CONNECT", "SUBSCRIBE"]);
  FakeSocket.last.receive("MESSAGE", { destination: "/topic/room", "message-id": "1", subscription: "s1" }, "hello");
  assert.deepEqual(told.messages, ["hello"]);
  assert.deepEqual(told.states, ["connecting", "online"]);
});

test("what was not acknowledged is sent again, in its order, and only that", (t) => {
  const { told, send } = start(t);
  FakeSocket.last.accept();
  ["a", "b", "c"].forEach(send);
  FakeSocket.last.receive("RECEIPT", { "receipt-id": "a" });
  FakeSocket.last.breakOff();
  send("d");
  tick(1_000);
  FakeSocket.last.accept();
  assert.deepEqual(bodies(), ["body of b", "body of c", "body of d"]);
  ["b", "c", "d"].forEach((id) => FakeSocket.last.receive("RECEIPT", { "receipt-id": id }));
  assert.deepEqual(told.delivered, ["a", "b", "c", "d"]);
});

test("a message that is refused is not sent again", (t) => {
  const { told, send } = start(t);
  FakeSocket.last.accept();
  ["a", "b"].forEach(send);
  FakeSocket.last.receive("ERROR", { message: "too large", "receipt-id": "a" });
  assert.deepEqual(told.refused, [["a", "too large"]]);
  assert.equal(told.states.at(-1), "lost: too large");
  tick(1_000);
  FakeSocket.last.accept();
  assert.deepEqual(bodies(), ["body of b"]);
});

test("a room that is refused is named, and a callback may stop the client", (t) => {
  const { client, told } = start(t);
  FakeSocket.last.accept();
  const id = FakeSocket.last.frames.at(-1).headers.get("receipt");
  FakeSocket.last.receive("ERROR", { message: "no", "receipt-id": id });
  assert.deepEqual(told.refused, [["/topic/room", "no"]]);
  client.stop();
  tick(60_000);
  assert.equal(FakeSocket.all.length, 1);
  assert.equal(told.states.at(-1), "stopped");
});

test("delays grow while the server accepts only to fail", (t) => {
  const { told } = start(t);
  for (const [index, delayMs] of [1_000, 2_000, 4_000, 8_000].entries()) {
    FakeSocket.last.accept();
    FakeSocket.last.breakOff();
    tick(delayMs - 10);
    assert.equal(FakeSocket.all.length, index + 1, "not before its time");
    tick(10);
    assert.equal(FakeSocket.all.length, index + 2);
  }
  FakeSocket.last.accept();
  tick(5_000);
  FakeSocket.last.breakOff();
  tick(1_000);
  assert.equal(told.states.at(-1), "connecting", "after a while online, the first delay again");
});

test("silence, a missing receipt and a missing answer each end a connection", (t) => {
  const { told, send } = start(t);
  tick(10_000);
  assert.equal(told.states.at(-1), "lost: no answer");
  tick(1_000);
  FakeSocket.last.accept("10000,0");
  for (let beat = 0; beat < 10; beat += 1) {
    tick(10_000);
    FakeSocket.last.dispatchEvent(Object.assign(new Event("message"), { data: "\n" }));
  }
  assert.equal(told.states.at(-1), "online", "beats keep it");
  tick(31_000);
  assert.ok(told.states.includes("lost: the server is silent"));
  FakeSocket.last.accept("0,0");
  send("a");
  tick(15_000);
  assert.ok(told.states.includes("lost: no receipt from the server"));
});

test("beats go out as promised", (t) => {
  start(t);
  FakeSocket.last.accept("0,10000");
  FakeSocket.last.sent.length = 0;
  tick(120_000);
  assert.deepEqual(FakeSocket.last.sent, ["\n", "\n"]);
});

test("the outbox is bounded", (t) => {
  const { client, send } = start(t);
  for (let number = 0; number < 200; number += 1) assert.ok(send(`m${number}`));
  assert.equal(send("one more"), false);
  assert.equal(client.unsent, 200);
});

test("what is not understood ends the connection", (t) => {
  const { told } = start(t);
  FakeSocket.last.accept();
  FakeSocket.last.dispatchEvent(Object.assign(new Event("message"), { data: "MESSAGE\nnonsense\n\n\0" }));
  assert.match(told.states.at(-1), /^lost: the server's answer is not understood/);
});

test("what proves who it is goes with every CONNECT, and only there", (t) => {
  const { client } = start(t, { login: "alice", passcode: "a:b\\c" });
  FakeSocket.last.accept("10000,10000", { "user-name": "alice" });
  assert.equal(client.login, "alice");
  FakeSocket.last.breakOff();
  tick(1_000);
  FakeSocket.last.accept();
  for (const { sent } of FakeSocket.all) {
    // As it is: CONNECT has no escapes.
    assert.ok(sent[0].startsWith("CONNECT\n") && sent[0].includes("\nlogin:alice\npasscode:a:b\\c\n"), sent[0]);
    assert.ok(!sent.slice(1).join("").includes("passcode"));
  }
  assert.throws(() => encode("CONNECT", { passcode: "a\nheader:b" }));
});

test("a proof that is refused is not tried again", (t) => {
  for (const name of ["not-authenticated", "expired", "too-many-sessions"]) {
    const { client, told, send } = start(t, { login: "alice", passcode: "guess" });
    send("kept");
    FakeSocket.last.refuse(name);
    assert.deepEqual(told.proofs, [name]);
    assert.equal(told.states.at(-1), "stopped");
    assert.ok(!client.isProved);
    client.retry();
    tick(120_000);
    assert.equal(FakeSocket.all.length, 1, name);
    assert.deepEqual([client.unsent, told.refused.length], [1, 0]);
    mock.timers.reset();
  }
});

test("a server that cannot check logins is asked again, later and later", (t) => {
  for (const name of ["auth-busy", "auth-unavailable"]) {
    const { told } = start(t, { passcode: "token" });
    for (const [index, delayMs] of [1_000, 2_000, 4_000].entries()) {
      FakeSocket.last.refuse(name);
      assert.equal(told.states.at(-1), `lost: sentence of ${name}`);
      tick(delayMs - 10);
      assert.equal(FakeSocket.all.length, index + 1);
      tick(10);
      assert.equal(FakeSocket.all.length, index + 2);
    }
    assert.deepEqual(told.proofs, []);
    mock.timers.reset();
  }
});

test("a token that expires is asked for, and with a new one it goes on", (t) => {
  const { client, told, send } = start(t, { passcode: "old" });
  FakeSocket.last.accept("10000,10000", { "user-name": "carol" });
  FakeSocket.last.refuse("expired");
  assert.deepEqual(told.proofs, ["expired"]);
  send("later");
  tick(60_000);
  assert.equal(FakeSocket.all.length, 1);
  client.prove({ passcode: "new" });
  client.start();
  FakeSocket.last.accept("10000,10000", { "user-name": "carol" });
  assert.equal(FakeSocket.last.frames[0].headers.get("passcode"), "new");
  assert.deepEqual(FakeSocket.last.commands, ["CONNECT", "SUBSCRIBE", "SEND"]);
  assert.deepEqual(bodies(), ["body of later"]);
});

test("a session of a password or a cookie that expires begins again", (t) => {
  for (const credentials of [{ login: "alice", passcode: "secret" }, {}]) {
    const { told } = start(t, credentials);
    FakeSocket.last.accept();
    FakeSocket.last.refuse("expired");
    assert.equal(told.states.at(-1), "lost: sentence of expired");
    tick(1_000);
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.last.refuse("expired");
    assert.deepEqual(told.proofs, ["expired"]);
    mock.timers.reset();
  }
});

test("the place of one's own lost session is waited for", (t) => {
  const { told } = start(t, { login: "alice", passcode: "secret" });
  FakeSocket.last.accept();
  FakeSocket.last.breakOff();
  tick(1_000);
  FakeSocket.last.refuse("too-many-sessions");
  assert.equal(told.states.at(-1), "lost: sentence of too-many-sessions");
  assert.deepEqual(told.proofs, []);
});

test("what one login wrote is not sent as another", (t) => {
  const { client, told, send } = start(t, { passcode: "alice's" });
  FakeSocket.last.accept("10000,10000", { "user-name": "alice" });
  FakeSocket.last.refuse("expired");
  send("secret");
  client.prove({ passcode: "bob's" });
  client.start();
  FakeSocket.last.accept("10000,10000", { "user-name": "bob" });
  assert.deepEqual(bodies(), []);
  assert.deepEqual(told.refused, [["secret", "it was written under another login"]]);
  send("own");
  assert.deepEqual(bodies(), ["body of own"]);
  // Who has signed out has left nothing.
  client.forget();
  assert.deepEqual([client.login, client.unsent, client.isProved], [undefined, 0, false]);
  client.start();
  FakeSocket.last.accept();
  assert.deepEqual(FakeSocket.last.commands, ["CONNECT"]);
  assert.equal(FakeSocket.last.frames[0].headers.get("passcode"), undefined);
});

test("of messages that may not be written one is enough to know", (t) => {
  const { told, send } = start(t);
  FakeSocket.last.accept();
  send("a");
  send("b");
  send("c", "other");
  FakeSocket.last.refuse("forbidden", { "receipt-id": "a" });
  assert.deepEqual(told.refused.map(([id]) => id), ["a", "b"]);
  tick(1_000);
  FakeSocket.last.accept();
  assert.deepEqual(bodies(), ["body of c"]);
});

test("a server that reads slowly is waited for while it is heard", (t) => {
  const { told, send } = start(t);
  FakeSocket.last.accept("10000,0");
  const beat = () => FakeSocket.last.dispatchEvent(Object.assign(new Event("message"), { data: "\n" }));
  send("a");
  send("b");
  tick(2_900);
  assert.deepEqual(told.slow, []);
  tick(200);
  assert.deepEqual(told.slow, [true]);
  for (let second = 0; second < 60; second += 10) {
    beat();
    tick(10_000);
  }
  assert.equal(told.states.at(-1), "online");
  FakeSocket.last.receive("RECEIPT", { "receipt-id": "a" });
  assert.deepEqual(told.slow, [true], "one more waits");
  FakeSocket.last.receive("RECEIPT", { "receipt-id": "b" });
  assert.deepEqual(told.slow, [true, false]);
  // What is answered in time is not slow, however much there is.
  for (let number = 0; number < 20; number += 1) {
    send(`m${number}`);
    tick(1_000);
    beat();
    FakeSocket.last.receive("RECEIPT", { "receipt-id": `m${number}` });
  }
  assert.deepEqual(told.slow, [true, false]);
});
