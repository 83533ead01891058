/**
 * Two windows of a real browser at the chat page of a server that verifies nobody.
 *
 * Run by `tests/browser.rs`; `windows.mjs` says what it gets from there.
 */

import assert from "node:assert/strict";

import { unique } from "./support.mjs";
import { FOUND_AGAIN_MS_MAX, accessible, ask, delivered, message, messages, online, page, say, sendForeign, shoot, withBrowser } from "./windows.mjs";

async function join(window, name) {
  await window.fill("#name", name);
  await window.press("#name", "Enter");
  await online(window);
}

const steps = {
  async "two windows chat"({ ada, grace }) {
    await say(ada, "Hello, is anybody there?");
    await message(grace, "Hello, is anybody there?");
    await say(grace, "I am.\nOn a phone.");
    await message(ada, "I am.\nOn a phone.");
    assert.deepEqual(await messages(ada), await messages(grace));
    await delivered(ada, "Hello, is anybody there?");
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

  async "names are not verified, and two people of one name are told apart"({ ada, grace, room }) {
    await ada.getByText("Names are not verified here.").waitFor();
    await say(ada, "I am the first Ada");
    const own = await (await message(grace, "I am the first Ada")).locator(".head");
    assert.equal(await own.locator(".author").getAttribute("data-verified"), "false");
    const tag = await own.locator(".tag").textContent();
    const id = (source) => `${source}.${unique("id")}`;
    for (const [source, text] of [["01234567", "I am the second Ada"], ["01234567", "And so am I"]]) {
      await sendForeign(room, JSON.stringify({ id: id(source), name: "Ada", text }));
    }
    const others = [];
    for (const text of ["I am the second Ada", "And so am I"]) others.push(await (await message(grace, text)).locator(".tag").textContent());
    assert.match(tag, /^~[0-9a-f]{4}$/);
    assert.deepEqual(others, [others[0], others[0]]);
    assert.notEqual(others[0], tag);
    // Not a header of a client's makes him somebody who is verified.
    await sendForeign(room, JSON.stringify({ id: id("89abcdef"), name: "Ada", text: "I say that I am" }), { headers: { sender: "Ada", timestamp: "1" } });
    const said = await message(grace, "I say that I am");
    assert.equal(await said.locator(".author").getAttribute("data-verified"), "false");
    const year = new Date(await said.locator("time").getAttribute("datetime")).getFullYear();
    assert.equal(year, new Date().getFullYear());
    await accessible(grace, "with people of one name");
    await shoot(ada, "names");
    await shoot(grace, "names-phone");
  },

  async "no name and no text turns what stands beside it around"({ ada, grace, room }) {
    const turned = "\u202eylerus\u2066 ada\u200f";
    const id = () => `01234567.${unique("id")}`;
    await sendForeign(room, JSON.stringify({ id: id(), name: turned, text: "one \u202eowt\u202c three" }));
    const row = await message(grace, "one owt\u202c three");
    assert.equal(await row.locator(".author").textContent(), "ylerus ada");
    await sendForeign(room, JSON.stringify({ id: id(), name: "שרה", text: "שלום, מה שלומך?" }));
    const hebrew = await message(ada, "שלום, מה שלומך?");
    for (const each of [row, hebrew]) {
      // The head is read from the left, whatever the name is.
      const lefts = await each.locator(".head").evaluate((head) =>
        [".author", ".tag", "time"].map((part) => head.querySelector(part).getBoundingClientRect().left),
      );
      assert.deepEqual(lefts, lefts.toSorted((a, b) => a - b));
    }
    assert.equal(await hebrew.locator(".text").evaluate((text) => getComputedStyle(text).direction), "rtl");
    await shoot(ada, "directions");
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
    await delivered(ada, "Written while the server was away");
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
    await delivered(ada, "Only here");
    await grace.goto(`${page}#${other}`);
    await grace.getByText(`# ${other}`).waitFor();
    // The server takes her SUBSCRIBE before this.
    await say(grace, "I am here");
    await delivered(grace, "I am here");
    await say(ada, "And now for both");
    await message(grace, "And now for both");
    assert.deepEqual((await messages(grace)).map(([, text]) => text), ["I am here", "And now for both"]);
  },
};

await withBrowser(async (openWindow) => {
  // A room with what an address must escape.
  const room = unique("tea & crêpes #1");
  const url = `${page}#${encodeURIComponent(room)}`;
  const ada = await openWindow({ viewport: { width: 1000, height: 640 } });
  const grace = await openWindow({ viewport: { width: 390, height: 760 }, deviceScaleFactor: 2, colorScheme: "dark" });
  for (const window of [ada, grace]) await window.goto(url);
  await accessible(ada, "at the join form");
  await shoot(ada, "join");
  await join(ada, "Ada");
  await join(grace, `<i>Grace</i> & "friends"`);
  for (const [name, step] of Object.entries(steps)) {
    await step({ ada, grace, room });
    console.log(`ok: ${name}`);
  }
});
