/**
 * The chat page where people prove who they are.
 *
 * Run by `tests/browser.rs`, whose server takes tokens and the passwords of alice (who has the role staff) and bob, has
 * rules for the rooms `news` (to read) and `staff`, and lets a session publish five messages a second. `TCBCHAT_DOWN` is
 * the page of one whose application does not answer, `TCBCHAT_MIXED` of one that lets people in without a login, too, and
 * `TCBCHAT_COOKIE` of one that takes tokens only, also in the cookie `chat`. `windows.mjs` says what else it gets from there.
 */

import assert from "node:assert/strict";

import { unique } from "./support.mjs";
import { accessible, ask, delivered, message, online, page, say, sendForeign, shoot, withBrowser } from "./windows.mjs";

const ALICE = { login: "alice", password: "wonder land:1" };
const BOB = { login: "bob", password: "builder" };

const chat = (window) => window.locator("#chat");
const problem = (window) => window.locator("#join-problem");

/** Fills the form as somebody with a password does, and sends it. */
async function signIn(window, { login, password }) {
  await window.fill("#login", login);
  await window.fill("#password", password);
  await window.press("#password", "Enter");
}

async function signInByToken(window, token) {
  await window.locator("label:has(#choose-token)").click();
  await window.fill("#token", token);
  await window.press("#token", "Enter");
}

async function inChat(window) {
  await chat(window).waitFor();
  await online(window);
}

/** Everything that the browser keeps of the page, as one text. */
const kept = (window) => window.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));

/** Goes to another room by the form, where nothing has to be proved again. */
async function changeRoom(window, room) {
  await window.click("#change");
  await window.fill("#room", room);
  await window.click("#join-button");
}

/** Who wrote a message, as the page shows it. */
async function head(row) {
  const text = async (part) => ((await row.locator(part).count()) > 0 ? row.locator(part).textContent() : undefined);
  return {
    author: await text(".author"),
    isVerified: (await row.locator(".author").getAttribute("data-verified")) === "true",
    alias: await text(".alias"),
    tag: await text(".tag"),
    time: await row.locator("time").getAttribute("datetime"),
  };
}

const steps = {
  async "the form offers what the server takes"({ alice, carol }) {
    for (const window of [alice, carol]) await window.locator("#login").waitFor();
    assert.equal(await alice.locator("#join-title").textContent(), "Sign in");
    await accessible(alice, "at the form for a password");
    await shoot(alice, "sign-in");
    await carol.locator("label:has(#choose-token)").click();
    await carol.locator("#token").waitFor();
    assert.equal(await carol.locator("#password").isVisible(), false);
    await accessible(carol, "at the form for a token");
    await shoot(carol, "sign-in-token-phone");
    // What is missing is said before the server is asked.
    await carol.click("#join-button");
    await carol.getByText("A token is needed.").waitFor();
    assert.equal(carol.sockets.length, 0);
  },

  async "a wrong password is said at the form, and what else was typed stays"({ alice, room }) {
    await alice.fill("#name", "Ada");
    await signIn(alice, { ...ALICE, password: "guess" });
    await problem(alice).getByText("Not authenticated; login or passcode is wrong.").waitFor();
    const fields = await alice.$$eval("#login, #password, #name, #room", (all) => all.map(({ value }) => value));
    assert.deepEqual(fields, ["alice", "", "Ada", room]);
    assert.equal(await alice.evaluate(() => document.activeElement.id), "password");
    await accessible(alice, "with a wrong password");
    await shoot(alice, "wrong-password");
  },

  async "a right one leads in, and is kept nowhere"({ alice }) {
    await alice.fill("#password", ALICE.password);
    await alice.press("#password", "Enter");
    await inChat(alice);
    assert.equal(await alice.locator("#who").textContent(), "alice");
    // One for each time that somebody asked for it: what was refused was not tried again.
    assert.equal(alice.sockets.length, 2);
    assert.ok(!(await kept(alice)).includes("wonder"));
    assert.equal(await alice.inputValue("#password"), "");
  },

  async "a token is kept for a reload where that is ticked, and not where it is not"({ carol, bob }) {
    const token = await ask("token carol 1h");
    await carol.check("#keep-token");
    await signInByToken(carol, token);
    await inChat(carol);
    assert.equal(await carol.locator("#who").textContent(), "carol");
    assert.ok((await kept(carol)).includes(token));
    await carol.reload();
    await inChat(carol);
    assert.equal(await carol.locator("#who").textContent(), "carol");

    await signInByToken(bob, await ask("token bob 1h"));
    await inChat(bob);
    assert.ok(!(await kept(bob)).includes("eyJ"));
    await bob.reload();
    await bob.locator("#token, #login").first().waitFor();
  },

  async "the author is the sender, and the time is the server's"({ alice, carol }) {
    await say(alice, "Who am I?");
    const own = await delivered(alice, "Who am I?");
    const theirs = await head(await message(carol, "Who am I?"));
    const { time, ...author } = theirs;
    assert.deepEqual(author, { author: "alice", isVerified: true, alias: "Ada", tag: undefined });
    // To the millisecond, in two windows: it is in the message.
    await alice.waitForFunction(([text, wanted]) => {
      const row = [...document.querySelectorAll(".message")].find((each) => each.querySelector(".text").textContent === text);
      return row.querySelector("time").dateTime === wanted;
    }, ["Who am I?", time]);
    // Who gives no other name has none beside his login.
    await say(carol, "You are alice.");
    assert.equal((await head(await message(alice, "You are alice."))).alias, undefined);
  },

  async "nobody writes under the name of another"({ alice, carol, room }) {
    const credentials = { login: BOB.login, passcode: BOB.password };
    const headers = { sender: "alice", timestamp: "1" };
    await sendForeign(room, JSON.stringify({ id: "spoof-1", name: "alice", text: "I am alice" }), { headers, credentials });
    for (const window of [alice, carol]) {
      const said = await head(await message(window, "I am alice"));
      assert.deepEqual([said.author, said.isVerified, said.alias], ["bob", true, "alice"]);
      assert.ok(Date.now() - Date.parse(said.time) < 3_600_000, said.time);
    }
    // The id of another's message makes it no message of his, and hides none.
    const first = JSON.stringify({ id: "taken-1", name: "bob", text: "bob was first" });
    await sendForeign(room, first, { credentials });
    await sendForeign(room, JSON.stringify({ id: "taken-1", name: "alice", text: "alice came later" }), {
      credentials: { login: ALICE.login, passcode: ALICE.password },
    });
    await message(carol, "bob was first");
    assert.equal((await head(await message(carol, "alice came later"))).author, "alice");
    // A body of another form has an author all the same.
    await sendForeign(room, "just words", { credentials });
    const plain = await message(carol, "just words");
    assert.equal((await head(plain)).author, "bob");
    assert.ok((await plain.getAttribute("class")).includes("plain"));
  },

  async "nothing that bob calls himself turns around what stands beside it"({ alice, carol, room }) {
    const credentials = { login: BOB.login, passcode: BOB.password };
    const turned = "\u202e(deifirev) ecila\u2066";
    await sendForeign(room, JSON.stringify({ id: "bidi-1", name: turned, text: "from \u202eecila\u202c to you" }), { credentials });
    const row = await message(alice, "from ecila\u202c to you");
    assert.equal((await head(row)).alias, "(deifirev) ecila");
    await sendForeign(room, JSON.stringify({ id: "bidi-2", name: "אליס", text: "שלום" }), { credentials });
    // In the wide window, where a head is one line.
    for (const each of [row, await message(alice, "שלום")]) {
      const lefts = await each.locator(".head").evaluate((line) =>
        [".author", ".alias", "time"].map((part) => line.querySelector(part).getBoundingClientRect().left),
      );
      assert.deepEqual(lefts, lefts.toSorted((a, b) => a - b));
    }
    await accessible(carol, "with verified authors");
    await shoot(alice, "senders");
    await shoot(carol, "senders-phone");
  },

  async "a login whose letters are mixed has a sign"({ alice, room }) {
    const token = await ask("token \u0430lice 1h");
    await sendForeign(room, JSON.stringify({ id: "mixed-1", name: "alice", text: "look alike" }), { credentials: { passcode: token } });
    const said = await head(await message(alice, "look alike"));
    assert.equal(said.author, "\u0430lice");
    assert.match(said.tag, /^~[0-9a-f]{4}$/);
  },

  async "a room that is not for everybody is refused in plain words, once"({ bob }) {
    await signIn(bob, BOB);
    await inChat(bob);
    const before = bob.sockets.length;
    await changeRoom(bob, "staff");
    await problem(bob).getByText("You may not enter the room “staff”.").waitFor();
    await bob.getByText("Signed in as bob").waitFor();
    await accessible(bob, "where a room is refused");
    await shoot(bob, "refused-room");
    // Nothing has to be proved again for another room, and nothing was tried meanwhile.
    assert.equal(bob.sockets.length, before);
    await bob.fill("#room", "news");
    await bob.click("#join-button");
    await inChat(bob);
    assert.equal(bob.sockets.length, before + 1);
  },

  async "who may only read is told so by the first message, once"({ alice, bob }) {
    await changeRoom(alice, "news");
    await inChat(alice);
    const before = bob.sockets.length;
    await bob.fill("#text", "May I?");
    await bob.press("#text", "Enter");
    await bob.locator('.message[data-mark="refused"]', { hasText: "you may not write here" }).waitFor();
    assert.ok(await bob.locator("#text").isDisabled());
    await bob.getByText(/^Connection found again after/).waitFor();
    await online(bob);
    assert.equal(await bob.locator("#text").getAttribute("placeholder"), "You may read here, and not write");
    await say(alice, "Tea at five");
    await message(bob, "Tea at five");
    assert.equal(bob.sockets.length, before + 1);
    await accessible(bob, "where one may not write");
    await shoot(bob, "read-only");
  },

  async "who writes faster than the rate sees that it takes longer, and loses nothing"({ alice, room }) {
    await changeRoom(alice, room);
    await inChat(alice);
    const before = alice.sockets.length;
    const texts = Array.from({ length: 40 }, (_, number) => `quick ${number}`);
    // All in one instant, so that it is too fast on any machine.
    await alice.evaluate((all) => {
      for (const text of all) {
        document.querySelector("#text").value = text;
        document.querySelector("#compose").requestSubmit();
      }
    }, texts);
    await alice.locator("#waiting", { hasText: /messages wait: the server takes only so many at a time/ }).waitFor();
    await shoot(alice, "slow");
    await alice.waitForFunction(
      () => document.querySelectorAll('.message[data-mark="delivered"]').length >= 40 && document.querySelector("#waiting").textContent === "",
      undefined,
      { timeout: 30_000 },
    );
    assert.equal(alice.sockets.length, before);
  },

  async "a token that expires is asked for, and everything is there when it is renewed"({ alice, dora, room }) {
    await dora.goto(`${page}#${encodeURIComponent(room)}`);
    await signInByToken(dora, await ask("token dora 8s"));
    await inChat(dora);
    await say(dora, "Before");
    await message(dora, "Before");
    await dora.fill("#text", "half a sen");
    await problem(dora).getByText("What proved the login has expired: log in again.").waitFor({ timeout: 30_000 });
    await accessible(dora, "with an expired token");
    await shoot(dora, "expired");
    const before = dora.sockets.length;
    // One that has expired already is refused at once, and once.
    await signInByToken(dora, await ask("token dora -1m"));
    await problem(dora).getByText("What proved the login has expired; log in again.").waitFor();
    await signInByToken(dora, await ask("token dora 1h"));
    await inChat(dora);
    assert.equal(dora.sockets.length, before + 2);
    await message(dora, "Before");
    await dora.getByText(/^Connection found again after/).waitFor();
    assert.equal(await dora.inputValue("#text"), "half a sen");
    await say(dora, "And after");
    await message(alice, "And after");
    await shoot(dora, "renewed");
  },

  async "who signs out leaves nothing in the tab"({ carol }) {
    await carol.click("#change");
    await carol.click("#sign-out");
    await carol.locator("#token").waitFor();
    assert.ok(!(await kept(carol)).includes("eyJ"));
    await carol.reload();
    await carol.locator("#proof").waitFor();
    assert.equal(await chat(carol).isVisible(), false);
  },

  async "who comes without a login is nobody, and that is said"({ bob, eve }) {
    for (const window of [bob, eve]) await window.goto(`${process.env.TCBCHAT_MIXED}#tea`);
    await signIn(bob, BOB);
    await inChat(bob);
    await eve.getByText("Or leave this empty, to come in without a login.").waitFor();
    await eve.fill("#name", "bob");
    await eve.click("#join-button");
    await inChat(eve);
    assert.equal(await eve.locator("#who-remark").textContent(), "(not signed in)");
    await say(eve, "I am the real bob");
    const row = await message(bob, "I am the real bob");
    const said = await head(row);
    assert.deepEqual([said.author, said.isVerified], ["bob", false]);
    assert.match(said.tag, /^~/);
    assert.equal(await row.locator(".remark").textContent(), "(not signed in)");
    await say(bob, "No, I am");
    assert.equal((await head(await message(eve, "No, I am"))).isVerified, true);
    await accessible(bob, "with somebody who is not signed in");
    await shoot(bob, "mixed");
  },

  async "a cookie is enough, and without it the form says what is needed"({ grace }) {
    const url = process.env.TCBCHAT_COOKIE;
    await grace.goto(`${url}#tea`);
    await grace.locator("#join-progress", { hasText: "a token, is needed" }).waitFor();
    assert.equal(await problem(grace).isVisible(), false);
    // Tokens are all that this server takes.
    assert.equal(await grace.locator("#proof-choice").isVisible(), false);
    assert.ok(await grace.locator("#token").isVisible());
    await accessible(grace, "at the form for a token or a cookie");
    await shoot(grace, "cookie-phone");
    await grace.context().addCookies([{ name: "chat", value: await ask("token grace 1h"), url }]);
    await grace.reload();
    await inChat(grace);
    assert.equal(await grace.locator("#who").textContent(), "grace");
    assert.equal(grace.sockets.length, 2);
  },

  async "a page that is older than the server's mode says what to do"({ frank, room }) {
    // Once, before the page's own program runs.
    await frank.addInitScript(() => {
      if (sessionStorage.getItem("is-old")) return;
      document.addEventListener("readystatechange", () => (document.querySelector('meta[name="proofs"]').content = ""), { once: true });
      sessionStorage.setItem("is-old", "yes");
    });
    await frank.goto(`${page}#${encodeURIComponent(room)}`);
    await frank.fill("#name", "Frank");
    await frank.press("#name", "Enter");
    await problem(frank).getByText("Reload this page to sign in.").waitFor();
    await frank.reload();
    await signIn(frank, BOB);
    await inChat(frank);
    assert.equal(frank.sockets.length, 2);
  },

  async "a server that cannot check logins is asked again, and that is said"({ eve }) {
    // A cookie may prove who it is, so the page asks by itself; what is typed takes the place of that.
    await eve.goto(`${process.env.TCBCHAT_DOWN}#tea`);
    await signIn(eve, BOB);
    await eve.locator("#join-progress", { hasText: "Logins cannot be checked now; try again later." }).waitFor();
    await eve.getByText(/^retrying in \d+ s$/).waitFor();
    for (let attempt = 0; attempt < 2; attempt += 1) await eve.waitForEvent("websocket");
    await eve.getByText(/^retrying in \d+ s$/).waitFor();
    assert.equal(await eve.inputValue("#password"), BOB.password);
    await shoot(eve, "unavailable");
  },
};

await withBrowser(async (openWindow) => {
  const room = unique("tea");
  const wide = { viewport: { width: 1000, height: 700 } };
  const phone = { viewport: { width: 390, height: 760 }, deviceScaleFactor: 2, colorScheme: "dark" };
  const windows = {
    alice: await openWindow(wide),
    bob: await openWindow(wide),
    carol: await openWindow(phone),
    dora: await openWindow(phone),
    eve: await openWindow(wide),
    frank: await openWindow(wide),
    grace: await openWindow(phone),
  };
  for (const name of ["alice", "bob", "carol"]) await windows[name].goto(`${page}#${encodeURIComponent(room)}`);
  for (const [name, step] of Object.entries(steps)) {
    await step({ ...windows, room });
    console.log(`ok: ${name}`);
  }
});
