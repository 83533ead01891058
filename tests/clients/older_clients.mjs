/**
 * The round of a STOMP client with two older libraries: `stompjs` 2 and `webstomp-client`, over `ws`.
 *
 * Both offer no subprotocol here and send CONNECT without a `host`; both split what is larger than 16 KiB
 * into several WebSocket messages. Run by `tests/stompjs.rs`.
 */

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { describe, test } from "node:test";

import WebSocket from "ws";

import { Inbox, endpoint, unique, within } from "./support.mjs";

const require = createRequire(import.meta.url);
// The package's main file wants a WebSocket library of its own, which nothing here needs.
const { Stomp } = require("stompjs/lib/stomp.js");
const webstomp = require("webstomp-client");

Stomp.setInterval = (ms, action) => setInterval(action, ms);
Stomp.clearInterval = (timer) => clearInterval(timer);

/** What differs between the two. */
const LIBRARIES = [
  {
    name: "stompjs 2",
    over: (socket) => Object.assign(Stomp.over(socket), { debug: null }),
    send: (client, destination, body, headers) => client.send(destination, headers, body),
    version: "1.1",
  },
  {
    name: "webstomp-client",
    over: (socket) => webstomp.over(socket, { debug: false }),
    send: (client, destination, body, headers) => client.send(destination, body, headers),
    version: "1.2",
  },
];

for (const library of LIBRARIES) {
  describe(library.name, () => {
    /** A connected client, which is closed when its test ends. */
    async function connected(t) {
      const socket = new WebSocket(endpoint());
      const client = library.over(socket);
      const session = { client, socket, receipts: new Inbox(), failures: new Inbox() };
      client.onreceipt = session.receipts.put;
      t.after(() => {
        client._cleanUp();
        socket.terminate();
      });
      session.greeting = await within(
        new Promise((resolve) => client.connect({}, resolve, session.failures.put)),
        "CONNECTED",
      );
      return session;
    }

    test("connects with the newest version that it knows", async (t) => {
      const { greeting } = await connected(t);
      assert.equal(greeting.headers.version, library.version);
    });

    test("gets its own message, with user headers, and its receipt", async (t) => {
      const { client, receipts } = await connected(t);
      const room = `/topic/${unique("old-room")}`;
      const inbox = new Inbox();
      client.subscribe(room, inbox.put);
      library.send(client, room, "hello äöü 😀", { receipt: "r-1", "x-user": "value" });
      const message = await inbox.take();
      assert.equal(message.headers["x-user"], "value");
      assert.equal((await receipts.take("the receipt")).headers["receipt-id"], "r-1");
    });

    test("passes a body of 1 MiB in messages of 16 KiB", async (t) => {
      const { client } = await connected(t);
      const room = `/topic/${unique("old-large")}`;
      const inbox = new Inbox();
      client.subscribe(room, inbox.put);
      const large = "0123456789abcdef".repeat(64 * 1024);
      library.send(client, room, large, {});
      assert.ok((await inbox.take()).body === large, "the body is what was sent");
    });

    test("NACK brings a queue's message again, ACK ends it", async (t) => {
      const { client, receipts } = await connected(t);
      const queue = `/queue/${unique("old-queue")}`;
      const inbox = new Inbox();
      client.subscribe(queue, inbox.put, { ack: "client-individual" });
      library.send(client, queue, "again", {});
      (await inbox.take()).nack();
      const second = await inbox.take("the redelivery");
      assert.equal(second.body, "again");
      second.ack({ receipt: "acknowledged" });
      assert.equal((await receipts.take("the receipt")).headers["receipt-id"], "acknowledged");
      assert.deepEqual(inbox.rest, []);
    });

    test("sees a transaction when it is committed", async (t) => {
      const { client } = await connected(t);
      const room = `/topic/${unique("old-tx")}`;
      const inbox = new Inbox();
      client.subscribe(room, inbox.put);
      const [aborted, committed] = [client.begin(unique("tx")), client.begin(unique("tx"))];
      library.send(client, room, "aborted", { transaction: aborted.id });
      library.send(client, room, "committed", { transaction: committed.id });
      aborted.abort();
      committed.commit();
      assert.equal((await inbox.take()).body, "committed");
      assert.deepEqual(inbox.rest, []);
    });

    test("learns from ERROR what was wrong", async (t) => {
      const { client, failures } = await connected(t);
      library.send(client, "/nowhere/at-all", "?", {});
      const error = await failures.take("ERROR");
      assert.equal(error.command, "ERROR");
      assert.ok(error.headers.message.length > 0);
    });

    test("leaves without an error", async (t) => {
      const { client, socket } = await connected(t);
      const closed = within(new Promise((resolve) => socket.on("close", resolve)), "the close");
      client.disconnect(() => {});
      assert.notEqual(await closed, 1006);
    });
  });
}
