/**
 * Two windows of a real browser at the chat page.
 *
 * Run by `tests/browser.rs`, which owns the server: this script asks it to kill, to stop and to start
 * the server with a line on standard output (`@kill`, `@stop`, `@start`) and goes on when a line comes back. The page's address
 * is in the environment variable `TCBCHAT_PAGE`, the browser's program in `CHROMIUM`, and a folder for
 * screenshots, if they are wanted, in `SCREENSHOTS`.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";

import { chromium } from "playwright-core";
import WebSocket from "ws";

import { unique, within } from "./support.mjs";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Milliseconds that the page may take to find the server again: the longest delay of its first attempts. */
const FOUND_AGAIN_MS_MAX = 20_000;

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const page = process.env.TCBCHAT_PAGE;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test to do something with the server, and waits until it is done. */
async function ask(what) {
  process.stdout.write(`@${what}\n`);
  const { done } = await within(answers.next(), `the answer to @${what}`, 60_000);
  assert.ok(!done, "the test still listens");
}

/** One window with an identity of its own; what goes wrong in the page is collected. */
async function openWindow(browser, settings) {
  const context = await browser.newContext(settings);
  const window = await context.newPage();
  const troubles = [];
  window.on("pageerror", (error) => troubles.push(String(error)));
  window.on("dialog", (dialog) => {
    troubles.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  window.on("console", (message) => {
    // What a killed server and a missing network look like; the browser always logs it.
    const expected = /net::ERR_(CONNECTION_REFUSED|INTERNET_DISCONNECTED)/.test(message.text());
    if (message.type() === "error" && !expected) troubles.push(message.text());
  });
  return Object.assign(window, { troubles });
}

async function join(window, name) {
  await window.fill("#name", name);
  await window.press("#name", "Enter");
  await online(window);
}

async function say(window, text) {
  await window.fill("#text", text);
  await window.press("#text", "Enter");
}

const online = (window) => window.waitForSelector('#connection[data-state="online"]', { timeout: FOUND_AGAIN_MS_MAX });

/** Waits until a message is there, and gives its element. */
async function message(window, text) {
  const row = window.locator(".message", { has: window.getByText(text, { exact: true }) });
  await row.waitFor();
  return row;
}

/** All messages in their order, as [author, text]. */
function messages(window) {
  return window.$$eval(".message", (rows) =>
    rows.map((row) => [row.querySelector(".author").textContent, row.querySelector(".text").textContent]),
  );
}

/** What axe finds against the accessibility guidelines, in either scheme. */
async function accessible(window, what) {
  await window.evaluate(axe);
  for (const colorScheme of ["light", "dark"]) {
    await window.emulateMedia({ colorScheme });
    const { violations } = await window.evaluate(() => globalThis.axe.run());
    const found = violations.map(({ help, nodes }) => [help, nodes.map(({ html }) => html)]);
    assert.deepEqual(found, [], `${what}, ${colorScheme}`);
  }
  await window.emulateMedia({ colorScheme: null });
}

async function shoot(window, name) {
  if (process.env.SCREENSHOTS) await window.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}.png`) });
}

/** Sends a body that the page did not make. */
async function sendForeign(room, body) {
  const url = new URL("/ws", page);
  url.protocol = "ws:";
  const socket = new WebSocket(url, ["v12.stomp"]);
  await within(new Promise((resolve) => socket.on("open", resolve)), "the handshake");
  const done = new Promise((resolve) => socket.on("message", (data) => String(data).startsWith("RECEIPT") && resolve()));
  socket.send("CONNECT\naccept-version:1.2\nhost:any\n\n\0");
  socket.send(`SEND\ndestination:/topic/${room}\nreceipt:r\n\n${body}\0`);
  await within(done, "the receipt");
  socket.close();
}

const steps = {
  async "two windows chat"({ ada, grace }) {
    await say(ada, "Hello, is anybody there?");
    await message(grace, "Hello, is anybody there?");
    await say(grace, "I am.\nOn a phone.");
    await message(ada, "I am.\nOn a phone.");
    assert.deepEqual(await messages(ada), await messages(grace));
    const own = await message(ada, "Hello, is anybody there?");
    assert.equal(await own.getAttribute("data-mark"), "delivered");
    await accessible(ada, "in the chat");
    await shoot(ada, "chat");
    await shoot(grace, "chat-phone");
  },

  async "names and messages are data, never markup"({ ada, grace }) {
    const hostile = `<img src=x onerror="alert(1)"><script>alert(2)</script>&amp;<b>bold</b>`;
    await say(grace, hostile);
    const row = await message(ada, hostile);
    assert.equal(await row.locator(".text *").count(), 0);
    assert.equal(await row.locator(".author").textContent(), `<i>Grace</i> & "friends"`);
    assert.equal(await row.locator(".author *").count(), 0);
    for (const window of [ada, grace]) assert.equal(await window.locator("#log img, #log script, #log b, #log i").count(), 0);
  },

  async "what is not of the page's form is shown as plain text"({ ada, room }) {
    for (const body of ["just words", `{"name":1,"text":"no text"}`, "<u>under</u>", `{"id":"x","name":" ","text":"t"}`]) {
      await sendForeign(room, body);
      const row = await message(ada, body);
      assert.ok((await row.getAttribute("class")).includes("plain"));
      assert.equal(await row.locator(".text *").count(), 0);
    }
  },

  async "a message that comes twice is shown once"({ ada, room }) {
    const body = JSON.stringify({ id: unique("id"), name: "Echo", text: "once" });
    await sendForeign(room, body);
    await sendForeign(room, body);
    await sendForeign(room, JSON.stringify({ id: unique("id"), name: "Echo", text: "last" }));
    await message(ada, "last");
    assert.equal((await messages(ada)).filter(([, text]) => text === "once").length, 1);
  },

  async "the newest message is in sight, unless the reader has scrolled away"({ ada, grace }) {
    const inSight = (window, text) =>
      window.locator("#log").evaluate((log, wanted) => {
        const row = [...log.querySelectorAll(".message")].find((each) => each.innerText.includes(wanted));
        return row !== undefined && row.getBoundingClientRect().bottom <= log.getBoundingClientRect().bottom + 1;
      }, text);
    for (let number = 0; number < 30; number += 1) await say(ada, `line ${number}`);
    await message(grace, "line 29");
    assert.ok(await inSight(ada, "line 29"));
    assert.ok(await inSight(grace, "line 29"));
    await grace.locator("#log").evaluate((log) => log.scrollBy(0, -10_000));
    await say(ada, "below");
    await grace.locator("#newer").waitFor();
    assert.equal(await inSight(grace, "below"), false);
    await grace.click("#newer");
    await grace.locator("#newer").waitFor({ state: "hidden" });
    assert.ok(await inSight(grace, "below"));
  },

  async "a lost connection is seen, and what was written then waits"({ ada, grace }) {
    await ask("kill");
    for (const window of [ada, grace]) {
      await window.waitForSelector('#connection[data-state="lost"]');
      assert.equal(await window.locator("#connection-text").textContent(), "Connection lost");
    }
    await ada.getByText(/^retrying in \d+ s$/).waitFor();
    await say(ada, "Written while the server was away");
    const waiting = await message(ada, "Written while the server was away");
    assert.equal(await waiting.getAttribute("data-mark"), "waiting");
    assert.equal(await ada.locator("#waiting").textContent(), "1 message waits for the connection.");
    await accessible(ada, "while the connection is lost");
    await shoot(ada, "lost");
    await shoot(grace, "lost-phone");
  },

  async "the connection is found again, and the message arrives once"({ ada, grace }) {
    // Past the first attempts, so that the delays between them have been seen to work.
    await ada.waitForTimeout(1_500);
    // Ada's message goes out on her reconnection: Grace must be back by then to see it.
    await ada.context().setOffline(true);
    await ask("start");
    await online(grace);
    await ada.context().setOffline(false);
    await online(ada);
    await message(grace, "Written while the server was away");
    const own = await message(ada, "Written while the server was away");
    await own.locator(".mark", { hasText: "delivered" }).waitFor();
    assert.equal(await ada.locator("#waiting").textContent(), "");
    for (const window of [ada, grace]) {
      await window.getByText(/^Connection found again after \d+ s\./).waitFor();
      const texts = (await messages(window)).map(([, text]) => text);
      assert.equal(texts.filter((text) => text === "Written while the server was away").length, 1);
    }
    await say(grace, "There you are");
    await message(ada, "There you are");
    await shoot(ada, "found");
  },

  async "a server that ends in order says so, and the reader need not wait for the next attempt"({ ada, grace }) {
    await ask("stop");
    await ada.getByText("Connection lost: the server is shutting down.").waitFor();
    await ada.getByText(/^retrying in [3-9] s$/).waitFor({ timeout: FOUND_AGAIN_MS_MAX });
    await ask("start");
    await ada.click("#retry");
    await online(ada);
    // Her machine says that the network is back, which is a reason to look at once, too.
    await grace.evaluate(() => dispatchEvent(new Event("online")));
    await online(grace);
  },

  async "the room is the page's fragment"({ ada, grace }) {
    const other = unique("other");
    await ada.evaluate((room) => (location.hash = room), other);
    await ada.getByText(`# ${other}`).waitFor();
    await say(ada, "Only here");
    await message(ada, "Only here");
    await grace.goto(`${page}#${other}`);
    await online(grace);
    await say(ada, "And now for both");
    await message(grace, "And now for both");
    assert.deepEqual((await messages(grace)).map(([, text]) => text), ["And now for both"]);
  },
};

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
try {
  // A room with what an address must escape.
  const room = unique("tea & crêpes #1");
  const url = `${page}#${encodeURIComponent(room)}`;
  const ada = await openWindow(browser, { viewport: { width: 1000, height: 640 } });
  const grace = await openWindow(browser, {
    viewport: { width: 390, height: 760 },
    deviceScaleFactor: 2,
    colorScheme: "dark",
  });
  for (const window of [ada, grace]) {
    window.setDefaultTimeout(10_000);
    await window.goto(url);
  }
  await accessible(ada, "at the join form");
  await shoot(ada, "join");
  await join(ada, "Ada");
  await join(grace, `<i>Grace</i> & "friends"`);
  for (const [name, step] of Object.entries(steps)) {
    await step({ ada, grace, room });
    console.log(`ok: ${name}`);
  }
  assert.deepEqual([...ada.troubles, ...grace.troubles], []);
} finally {
  await browser.close();
  process.stdin.destroy();
}
