/**
 * Windows of a real browser at the chat page: what the scripts that drive them share.
 *
 * `tests/browser.rs` runs those scripts and owns the server. A script asks it to do something with a line on standard output
 * (`@kill`, `@stop`, `@start`, `@token …`) and goes on when a line comes back. The page's address is in the environment
 * variable `TCBCHAT_PAGE`, the browser's program in `CHROMIUM`, and a folder for screenshots, if they are wanted, in
 * `SCREENSHOTS`.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";

import { chromium } from "playwright-core";
import WebSocket from "ws";

import { within } from "./support.mjs";

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
export const FOUND_AGAIN_MS_MAX = 20_000;
/** Milliseconds that anything else may take. */
const WAIT_MS_MAX = 10_000;

/** The page's address, without a room. */
export const page = process.env.TCBCHAT_PAGE;

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test to do something with the server, waits until it is done, and gives the answer. */
export async function ask(what) {
  process.stdout.write(`@${what}\n`);
  const { done, value } = await within(answers.next(), `the answer to @${what}`, 60_000);
  assert.ok(!done, "the test still listens");
  return value;
}

/** Has `run` open windows, and ends the browser with it; what went wrong in a page fails. */
export async function withBrowser(run) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  const windows = [];
  try {
    await run(async (settings) => {
      const window = await openWindow(browser, settings);
      windows.push(window);
      return window;
    });
    assert.deepEqual(windows.flatMap(({ troubles }) => troubles), []);
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
}

/** One window with an identity of its own; what goes wrong in the page, and its WebSockets, are collected. */
async function openWindow(browser, settings) {
  const context = await browser.newContext(settings);
  const window = await context.newPage();
  window.setDefaultTimeout(WAIT_MS_MAX);
  const troubles = [];
  const sockets = [];
  window.on("websocket", (socket) => sockets.push(socket));
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
  return Object.assign(window, { troubles, sockets, colorScheme: settings.colorScheme ?? null });
}

export async function say(window, text) {
  await window.fill("#text", text);
  await window.press("#text", "Enter");
}

export const online = (window) => window.waitForSelector('#connection[data-state="online"]', { timeout: FOUND_AGAIN_MS_MAX });

/** Waits until a message is there, and gives its element. */
export async function message(window, text) {
  const row = window.locator(".message", { has: window.getByText(text, { exact: true }) });
  await row.waitFor();
  return row;
}

/** Waits until a message of the window's own has been delivered: until then it is shown, but may be under way. */
export async function delivered(window, text) {
  const row = await message(window, text);
  await row.locator(".mark", { hasText: "delivered" }).waitFor();
  return row;
}

/** All messages in their order, as [author, text]. */
export function messages(window) {
  return window.$$eval(".message", (rows) =>
    rows.map((row) => [row.querySelector(".author").textContent, row.querySelector(".text").textContent]),
  );
}

/** What axe finds against the accessibility guidelines, in either scheme. */
export async function accessible(window, what) {
  await window.evaluate(axe);
  for (const colorScheme of ["light", "dark"]) {
    await window.emulateMedia({ colorScheme });
    const { violations } = await window.evaluate(() => globalThis.axe.run());
    const found = violations.map(({ help, nodes }) => [help, nodes.map(({ html }) => html)]);
    assert.deepEqual(found, [], `${what}, ${colorScheme}`);
  }
  await window.emulateMedia({ colorScheme: window.colorScheme });
}

export async function shoot(window, name) {
  if (process.env.SCREENSHOTS) await window.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}.png`) });
}

/** Sends a body that the page did not make, with headers that it would not send, as whoever `credentials` prove. */
export async function sendForeign(room, body, { headers = {}, credentials = {} } = {}) {
  const url = new URL("/ws", page);
  url.protocol = "ws:";
  const socket = new WebSocket(url, ["v12.stomp"]);
  await within(new Promise((resolve) => socket.on("open", resolve)), "the handshake");
  const done = new Promise((resolve) => socket.on("message", (data) => String(data).startsWith("RECEIPT") && resolve()));
  const lines = (fields) => Object.entries(fields).map(([name, value]) => `${name}:${value}\n`).join("");
  socket.send(`CONNECT\naccept-version:1.2\nhost:any\n${lines(credentials)}\n\0`);
  socket.send(`SEND\ndestination:/topic/${room}\nreceipt:r\n${lines(headers)}\n${body}\0`);
  await within(done, "the receipt");
  socket.close();
}
