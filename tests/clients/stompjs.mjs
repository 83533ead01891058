/**
 * The round of a STOMP client with the real `@stomp/stompjs` 7, over `ws`.
 *
 * Run by `tests/stompjs.rs`; by hand: `TCBCHAT_WS=ws://127.0.0.1:8080/ws node --test stompjs.mjs`.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Versions } from "@stomp/stompjs";
import WebSocket from "ws";

import { Inbox, endpoint, pause, unique, within } from "./support.mjs";

const MEBIBYTE = 1024 * 1024;

/** A connected client, which is closed when its test ends. */
async function connected(t, settings = {}) {
  const sockets = [];
  const client = new Client({
    webSocketFactory: () => {
      const socket = new WebSocket(endpoint(), new Versions(["1.2", "1.1", "1.0"]).protocolVersions());
      sockets.push(socket);
      return socket;
    },
    reconnectDelay: 0,
    heartbeatIncoming: 0,
    heartbeatOutgoing: 0,
    ...settings,
  });
  const session = { client, socket: () => sockets.at(-1), closed: new Inbox(), errors: new Inbox() };
  client.onWebSocketClose = session.closed.put;
  client.onStompError = session.errors.put;
  t.after(() => client.deactivate({ force: true }));
  session.greeting = await within(
    new Promise((resolve) => {
      client.onConnect = resolve;
      client.activate();
    }),
    "CONNECTED",
  );
  return session;
}

/** Waits until the server has done what was sent with this receipt. */
function receipt(client, id) {
  return within(new Promise((resolve) => client.watchForReceipt(id, resolve)), `the receipt ${id}`);
}

/** Subscribes and waits for the server's word that it did. */
async function subscribed(client, destination, headers = {}) {
  const inbox = new Inbox();
  const id = unique("receipt");
  const done = receipt(client, id);
  inbox.subscription = client.subscribe(destination, inbox.put, { receipt: id, ...headers });
  await done;
  return inbox;
}

async function published(client, message) {
  const id = unique("receipt");
  const done = receipt(client, id);
  client.publish({ ...message, headers: { ...message.headers, receipt: id } });
  await done;
}

const body = (message) => message.body;

test("CONNECTED names version, session, server and heart-beat", async (t) => {
  const { client, greeting, socket } = await connected(t);
  assert.equal(client.connectedVersion, "1.2");
  assert.equal(greeting.headers.version, "1.2");
  assert.ok(greeting.headers.session);
  assert.match(greeting.headers.server, /^tcbchat/);
  assert.match(greeting.headers["heart-beat"], /^\d+,\d+$/);
  assert.equal(socket().protocol, "v12.stomp");
});

for (const version of ["1.1", "1.0"]) {
  test(`a client of STOMP ${version} gets STOMP ${version}`, async (t) => {
    const versions = new Versions([version]);
    const { client } = await connected(t, {
      stompVersions: versions,
      webSocketFactory: () => new WebSocket(endpoint(), versions.protocolVersions()),
    });
    assert.equal(client.connectedVersion, version);
    const room = `/topic/${unique("old")}`;
    const inbox = await subscribed(client, room);
    client.publish({ destination: room, body: "from the past" });
    assert.equal(body(await inbox.take()), "from the past");
  });
}

test("a topic reaches every subscriber, the sender included, in one order", async (t) => {
  const room = `/topic/${unique("room")}`;
  const sessions = [await connected(t), await connected(t), await connected(t)];
  const inboxes = await Promise.all(sessions.map(({ client }) => subscribed(client, room)));
  for (let number = 0; number < 100; number += 1) {
    const sender = sessions[number % 2];
    sender.client.publish({ destination: room, body: `${number % 2}:${number}` });
  }
  const orders = await Promise.all(inboxes.map((inbox) => inbox.takeAll(100)));
  const [first, second, third] = orders.map((messages) => messages.map(body));
  assert.deepEqual(second, first);
  assert.deepEqual(third, first);
  // What one sender sent keeps its order; how the two mix is the room's choice.
  for (const sender of ["0", "1"]) {
    const numbers = first.filter((text) => text.startsWith(sender)).map((text) => Number(text.slice(2)));
    assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b));
  }
  const ids = orders[0].map((message) => message.headers["message-id"]);
  assert.equal(new Set(ids).size, 100);
});

test("SUBSCRIBE and SEND without waiting work in their order", async (t) => {
  const { client } = await connected(t);
  const room = `/topic/${unique("pipelined")}`;
  const inbox = new Inbox();
  client.subscribe(room, inbox.put);
  client.publish({ destination: room, body: "at once" });
  assert.equal(body(await inbox.take()), "at once");
});

test("two subscriptions to one destination each get the message", async (t) => {
  const { client } = await connected(t);
  const room = `/topic/${unique("twice")}`;
  const inboxes = [await subscribed(client, room, { id: "a" }), await subscribed(client, room, { id: "b" })];
  client.publish({ destination: room, body: "both" });
  const messages = await Promise.all(inboxes.map((inbox) => inbox.take()));
  assert.deepEqual(messages.map(body), ["both", "both"]);
  assert.deepEqual(messages.map((message) => message.headers.subscription), ["a", "b"]);
  assert.deepEqual(messages.map((message) => message.headers.destination), [room, room]);
});

test("after the receipt of UNSUBSCRIBE nothing comes", async (t) => {
  const { client } = await connected(t);
  const room = `/topic/${unique("left")}`;
  const left = await subscribed(client, room);
  const stayed = await subscribed(client, room);
  const id = unique("receipt");
  const done = receipt(client, id);
  left.subscription.unsubscribe({ receipt: id });
  await done;
  client.publish({ destination: room, body: "who is there?" });
  assert.equal(body(await stayed.take()), "who is there?");
  assert.deepEqual(left.rest, []);
});

test("user headers pass through with what needs escapes", async (t) => {
  const { client } = await connected(t);
  const room = `/topic/${unique("headers")}`;
  const inbox = await subscribed(client, room);
  const headers = {
    "content-type": "text/plain;charset=utf-8",
    "x-colon": "a:b::c",
    "x-lines": "one\ntwo\r\nthree",
    "x-backslash": "a \\ b",
    "x-umlaut": "grüß 😀",
    "x-empty": "",
  };
  client.publish({ destination: room, headers, body: "" });
  const message = await inbox.take();
  for (const [name, value] of Object.entries(headers)) assert.equal(message.headers[name], value, name);
  assert.equal(message.body, "");
});

test("bodies of any bytes pass, as text and as binary messages", async (t) => {
  const room = `/topic/${unique("bytes")}`;
  const every = Uint8Array.from({ length: 4096 }, (_, index) => (index * 7) % 256);
  for (const forceBinaryWSFrames of [false, true]) {
    const { client } = await connected(t, { forceBinaryWSFrames });
    const inbox = await subscribed(client, room);
    client.publish({ destination: room, binaryBody: every });
    client.publish({ destination: room, body: "NUL \0 inside, 😀 beside" });
    const [bytes, text] = await inbox.takeAll(2);
    assert.deepEqual(Buffer.from(bytes.binaryBody), Buffer.from(every));
    assert.equal(text.body, "NUL \0 inside, 😀 beside");
    inbox.subscription.unsubscribe();
  }
});

test("a body without content-length ends at its NUL", async (t) => {
  const { client } = await connected(t);
  const room = `/topic/${unique("length")}`;
  const inbox = await subscribed(client, room);
  client.publish({ destination: room, body: "unmeasured", skipContentLengthHeader: true });
  assert.equal(body(await inbox.take()), "unmeasured");
});

for (const [how, settings] of [
  ["in one message", {}],
  ["in messages of 8 KiB", { splitLargeFrames: true, maxWebSocketChunkSize: 8 * 1024 }],
  ["in messages of 16 KiB", { splitLargeFrames: true, maxWebSocketChunkSize: 16 * 1024 }],
]) {
  test(`a body of 1 MiB passes ${how}`, async (t) => {
    const { client } = await connected(t, settings);
    const room = `/topic/${unique("large")}`;
    const inbox = await subscribed(client, room);
    const large = "0123456789abcdef".repeat(MEBIBYTE / 16);
    await published(client, { destination: room, body: large });
    assert.ok((await inbox.take()).body === large, "the body is what was sent");
  });
}

test("a queue gives each message to one subscriber, and keeps it while there is none", async (t) => {
  const queue = `/queue/${unique("work")}`;
  const { client } = await connected(t);
  for (const job of ["1", "2"]) await published(client, { destination: queue, body: job });
  const early = await subscribed(client, queue);
  assert.deepEqual((await early.takeAll(2)).map(body), ["1", "2"]);
  const late = await subscribed((await connected(t)).client, queue);
  const jobs = Array.from({ length: 20 }, (_, number) => `job ${number}`);
  for (const job of jobs) await published(client, { destination: queue, body: job });
  // A last look at the other session, so that nothing is under way.
  await pause(200);
  const taken = [...early.rest, ...late.rest].map(body);
  assert.deepEqual(taken.toSorted(), jobs.toSorted());
});

test("client-individual: NACK brings a queue's message again, ACK ends it", async (t) => {
  const queue = `/queue/${unique("nack")}`;
  const { client } = await connected(t);
  const inbox = await subscribed(client, queue, { ack: "client-individual" });
  client.publish({ destination: queue, body: "again" });
  const first = await inbox.take();
  assert.ok(first.headers.ack, "MESSAGE carries ack");
  first.nack();
  const second = await inbox.take("the redelivery");
  assert.equal(second.body, "again");
  assert.equal(second.headers["message-id"], first.headers["message-id"]);
  const id = unique("receipt");
  const done = receipt(client, id);
  second.ack({ receipt: id });
  await done;
  inbox.subscription.unsubscribe();
  const after = await subscribed(client, queue);
  await published(client, { destination: queue, body: "next" });
  assert.equal(body(await after.take()), "next");
});

test("client: one ACK covers all messages before it", async (t) => {
  const queue = `/queue/${unique("cumulative")}`;
  const { client } = await connected(t);
  const inbox = await subscribed(client, queue, { ack: "client" });
  for (const text of ["1", "2", "3", "4"]) client.publish({ destination: queue, body: text });
  const messages = await inbox.takeAll(4);
  const id = unique("receipt");
  const done = receipt(client, id);
  messages[2].ack({ receipt: id });
  await done;
  inbox.subscription.unsubscribe();
  const rest = await subscribed(client, queue);
  assert.equal(body(await rest.take("the message that was not acknowledged")), "4");
  assert.deepEqual(rest.rest, []);
});

test("messages that a lost connection held go to the next subscriber", async (t) => {
  const queue = `/queue/${unique("lost")}`;
  const { client } = await connected(t);
  const unlucky = await connected(t);
  const held = await subscribed(unlucky.client, queue, { ack: "client-individual" });
  await published(client, { destination: queue, body: "held" });
  await held.take();
  unlucky.socket().terminate();
  const next = await subscribed(client, queue, { ack: "client-individual" });
  const message = await next.take("the redelivery");
  assert.equal(message.body, "held");
  message.ack();
});

test("a transaction is seen when committed, as a whole, and never when aborted", async (t) => {
  const room = `/topic/${unique("tx")}`;
  const { client } = await connected(t);
  const inbox = await subscribed(client, room);
  const aborted = client.begin();
  client.publish({ destination: room, body: "aborted", headers: { transaction: aborted.id } });
  aborted.abort();
  const committed = client.begin();
  for (const text of ["one", "two"]) {
    client.publish({ destination: room, body: text, headers: { transaction: committed.id } });
  }
  await published(client, { destination: room, body: "outside" });
  committed.commit();
  assert.deepEqual((await inbox.takeAll(3)).map(body), ["outside", "one", "two"]);
  assert.deepEqual(inbox.rest, []);
});

test("an ACK in an aborted transaction has not happened", async (t) => {
  const queue = `/queue/${unique("tx-ack")}`;
  const { client } = await connected(t);
  const inbox = await subscribed(client, queue, { ack: "client-individual" });
  client.publish({ destination: queue, body: "kept" });
  const transaction = client.begin();
  (await inbox.take()).ack({ transaction: transaction.id });
  transaction.abort();
  inbox.subscription.unsubscribe();
  const next = await subscribed(client, queue);
  assert.equal(body(await next.take("the redelivery")), "kept");
});

test("/user/<login>/queue/<name> reaches all sessions of that login, and no others", async (t) => {
  const [ada, eve] = [unique("ada"), unique("eve")];
  const as = (login) => connected(t, { connectHeaders: { login, passcode: "any" } });
  const sessions = [await as(ada), await as(ada)];
  const stranger = await as(eve);
  const inboxes = await Promise.all(sessions.map(({ client }) => subscribed(client, "/user/queue/replies")));
  const others = await subscribed(stranger.client, "/user/queue/replies");
  await published(stranger.client, { destination: `/user/${ada}/queue/replies`, body: "for Ada" });
  const messages = await Promise.all(inboxes.map((inbox) => inbox.take()));
  assert.deepEqual(messages.map(body), ["for Ada", "for Ada"]);
  await published(stranger.client, { destination: `/user/${eve}/queue/replies`, body: "to myself" });
  assert.equal(body(await others.take()), "to myself");
  assert.deepEqual(others.rest, []);
});

test("heart-beats of 1 s keep a session that has nothing to say", async (t) => {
  const beats = new Inbox();
  const { client, closed, greeting } = await connected(t, {
    heartbeatIncoming: 1_000,
    heartbeatOutgoing: 1_000,
    onHeartbeatReceived: beats.put,
  });
  const [, wanted] = greeting.headers["heart-beat"].split(",").map(Number);
  assert.ok(wanted > 0 && wanted <= 1_000, "the server agrees to 1 s");
  await pause(4_500);
  assert.deepEqual(closed.rest, []);
  assert.ok(client.connected);
  assert.ok(beats.rest.length >= 3, `the server beat ${beats.rest.length} times in 4.5 s`);
});

test("a client whose beats stop is closed within 5 s", async (t) => {
  const socket = new WebSocket(endpoint(), ["v12.stomp"]);
  t.after(() => socket.terminate());
  const closed = new Promise((resolve) => socket.on("close", resolve));
  await within(new Promise((resolve) => socket.on("open", resolve)), "the handshake");
  socket.send("CONNECT\naccept-version:1.2\nhost:any\nheart-beat:1000,0\n\n\0");
  await within(closed, "the end of the connection", 5_500);
});

test("the receipt of DISCONNECT comes before the close", async (t) => {
  const { client, closed } = await connected(t);
  const goodbye = new Inbox();
  client.onDisconnect = goodbye.put;
  await within(client.deactivate(), "the end of deactivate()");
  const stompFrame = await goodbye.take("the receipt of DISCONNECT");
  assert.equal(stompFrame.command, "RECEIPT");
  const { wasClean } = await closed.take("the close");
  assert.ok(wasClean);
});

test("an unknown destination gets ERROR, naming it and the receipt, and then the close", async (t) => {
  const { client, closed, errors } = await connected(t);
  client.publish({ destination: "/nowhere/at-all", headers: { receipt: "r-1" }, body: "?" });
  const error = await errors.take("ERROR");
  assert.ok(error.headers.message.length > 0);
  assert.equal(error.headers["receipt-id"], "r-1");
  const { code } = await closed.take("the close");
  assert.notEqual(code, 1006);
});

test("of several subprotocols the newest is chosen, and none is needed", async () => {
  const negotiated = async (protocols) => {
    const socket = new WebSocket(endpoint(), protocols);
    try {
      await within(new Promise((resolve) => socket.on("open", resolve)), "the handshake");
      return socket.protocol;
    } finally {
      socket.terminate();
    }
  };
  assert.equal(await negotiated(["v10.stomp", "v12.stomp", "v11.stomp"]), "v12.stomp");
  assert.equal(await negotiated(["v10.stomp", "v11.stomp"]), "v11.stomp");
  assert.equal(await negotiated([]), "");
});
