/**
 * The chat page: joins one room, shows what is said there, and says how the connection is.
 *
 * What goes over the wire: a SEND to `/topic/<room>`, `content-type:application/json`, whose body is
 * `{"id": …, "name": …, "text": …}`, three strings. `id` is unique for each message: it marks a message
 * that arrives twice (sent again because only its receipt was lost) and one's own. Any other body in the
 * room is shown as it is, as plain text without a name.
 *
 * The room is the page's fragment (`/#lobby`), so that a link leads into it. The name is kept by the
 * browser. The page holds no history: what others write while the connection is lost is not shown, and
 * the page says so.
 *
 * Invariant: a message that was typed is on the screen from then on, marked with what became of it.
 */

import { MessageLog } from "./log.js";
import { Client } from "./stomp.js";

/** Characters of a message that the page shows, whoever sent it. */
const TEXT_MAX = 4_000;
/** Characters of a name that the page shows. */
const NAME_MAX = 40;
/** Characters of a room's name. */
const ROOM_MAX = 60;
/** Ids remembered to drop messages that come twice. */
const SEEN_IDS_MAX = 1_000;
/** Milliseconds that "Found again" stays. */
const FOUND_AGAIN_MS = 4_000;

const at = (id) => document.getElementById(id);
const log = new MessageLog(at("log"), at("rows"), at("newer"));
const client = new Client(endpoint(), {
  onState: showConnection,
  onMessage: receive,
  onDelivered: delivered,
  onRefused: refused,
});

let name = "";
let room = "";
/** Ids of messages that are on the screen. */
let seen = new Set();
let unread = 0;
/** When the connection was lost, as long as it is. */
let lostAt;
let foundTimer;
let countdownTimer;

at("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const wantedName = tidy(at("name").value, NAME_MAX);
  const wantedRoom = tidy(at("room").value, ROOM_MAX);
  if (!wantedName || !wantedRoom) return showJoin("A name and a room are needed.");
  remember(wantedName);
  name = wantedName;
  // When the fragment changes, the event that follows joins the room a second time, to no effect.
  location.hash = encodeURIComponent(wantedRoom);
  enter(wantedRoom);
});

at("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  sendTyped();
});

at("text").addEventListener("keydown", (event) => {
  // Enter sends and Shift+Enter breaks the line; while an input method composes, Enter is its own.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  sendTyped();
});

at("text").addEventListener("input", fitText);
at("retry").addEventListener("click", () => client.retry());
at("change").addEventListener("click", () => showJoin());
at("share").addEventListener("click", copyLink);

addEventListener("hashchange", () => {
  const wanted = roomOfHash();
  if (wanted && name && wanted !== room) enter(wanted);
});
addEventListener("online", () => client.retry());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  showTitle();
  client.retry();
});
addEventListener("pagehide", () => client.stop());
addEventListener("pageshow", (event) => {
  if (event.persisted && room) client.start();
});
addEventListener("beforeunload", (event) => {
  if (client.unsent > 0) event.preventDefault();
});

name = remembered();
at("name").value = name;
at("room").value = roomOfHash() || "lobby";
// The button needs the clipboard, which browsers give to secure origins only.
at("share").hidden = !navigator.clipboard;
if (name && roomOfHash()) enter(roomOfHash());
else showJoin();

/** Goes into a room, from the join form or from another room. */
function enter(wanted) {
  if (wanted !== room) {
    if (room) client.unsubscribe(destination(room));
    room = wanted;
    seen = new Set();
    log.clear();
    log.addNotice(`You are in ${room}. Messages appear from now on.`);
    client.subscribe(destination(room));
  }
  at("who").textContent = name;
  at("room-title").textContent = `# ${room}`;
  at("room-title").hidden = false;
  at("join").hidden = true;
  at("chat").hidden = false;
  showTitle();
  client.start();
  at("text").focus();
}

/** Shows the join form, with what was wrong if something was. */
function showJoin(problem) {
  at("join-problem").textContent = problem ?? "";
  at("join-problem").hidden = !problem;
  at("chat").hidden = true;
  at("join").hidden = false;
  at(at("name").value ? "room" : "name").focus();
}

function sendTyped() {
  const field = at("text");
  const text = field.value.trim();
  if (!text) return;
  const id = newId();
  const taken = client.send(id, destination(room), "application/json", JSON.stringify({ id, name, text }));
  if (!taken) {
    showWaiting("Too many messages wait to be sent. This one stays in the field.");
    return;
  }
  seen.add(id);
  log.addPending(id, { name, text }, client.state.kind === "online" ? "sending" : "waiting");
  field.value = "";
  fitText();
  showWaiting();
}

function receive({ destination: from, body }) {
  if (from !== destination(room)) return;
  const message = parse(body);
  if (message.id !== undefined) {
    if (seen.has(message.id)) return log.settle(message.id);
    seen.add(message.id);
    if (seen.size > SEEN_IDS_MAX) seen.delete(seen.values().next().value);
  }
  log.addMessage(message);
  if (document.hidden) {
    unread += 1;
    showTitle();
  }
}

/** A body in this page's form, or else the body as plain text. */
function parse(body) {
  try {
    const { id, name: author, text } = JSON.parse(body);
    if ([id, author, text].every((part) => typeof part === "string") && tidy(author, NAME_MAX)) {
      return { id: id.slice(0, 64), name: tidy(author, NAME_MAX), text: shorten(text, TEXT_MAX) };
    }
  } catch {
    // Not JSON, or JSON without these members: somebody else's form, which is allowed here.
  }
  return { text: shorten(body, TEXT_MAX) };
}

function delivered(id) {
  log.markDelivered(id);
  showWaiting();
}

function refused(id, reason) {
  if (id === destination(room)) {
    client.stop();
    room = "";
    at("room-title").hidden = true;
    showTitle();
    showJoin(`The server refused this room: ${reason}`);
    return;
  }
  log.refuse(id, reason);
  showWaiting();
}

function showConnection(state) {
  clearInterval(countdownTimer);
  clearTimeout(foundTimer);
  at("connection").title = state.reason ?? "";
  at("retry").hidden = state.kind !== "lost";
  at("connection-countdown").textContent = "";
  switch (state.kind) {
    case "connecting":
      if (lostAt === undefined) show("connecting", "Connecting…");
      else at("connection-countdown").textContent = "retrying…";
      break;
    case "online":
      if (lostAt === undefined) show("online", "Online");
      else foundAgain();
      log.markUndelivered("sending");
      break;
    case "lost":
      if (lostAt === undefined) {
        lostAt = Date.now();
        log.addNotice(state.reason ? `Connection lost: ${state.reason}.` : "Connection lost.");
      }
      show("lost", "Connection lost");
      log.markUndelivered("waiting");
      countDown(state.retryAt);
      break;
    case "stopped":
      lostAt = undefined;
      show("idle", "");
      break;
  }
  showWaiting();
}

function show(state, text) {
  at("connection").dataset.state = state;
  // Set only when it changes: each change is read aloud.
  if (at("connection-text").textContent !== text) at("connection-text").textContent = text;
}

function foundAgain() {
  const seconds = Math.max(1, Math.round((Date.now() - lostAt) / 1_000));
  lostAt = undefined;
  log.addNotice(`Connection found again after ${seconds} s. What others wrote meanwhile is not shown.`);
  show("online", "Found again");
  foundTimer = setTimeout(() => show("online", "Online"), FOUND_AGAIN_MS);
}

function countDown(retryAt) {
  const tell = () => {
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1_000));
    at("connection-countdown").textContent = `retrying in ${seconds} s`;
  };
  tell();
  countdownTimer = setInterval(tell, 250);
}

/** Says how many messages wait for a connection, or something more urgent. */
function showWaiting(urgent) {
  const count = client.unsent;
  const offline = client.state.kind !== "online";
  const words = count === 1 ? "1 message waits" : `${count} messages wait`;
  at("waiting").textContent = urgent ?? (offline && count > 0 ? `${words} for the connection.` : "");
}

function showTitle() {
  document.title = `${unread > 0 ? `(${unread}) ` : ""}${room ? `# ${room} – ` : ""}tcbchat`;
}

/** The field grows with what is typed, up to the height that style.css allows. */
function fitText() {
  const field = at("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

async function copyLink() {
  const button = at("share");
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed: copy the address bar";
  }
  setTimeout(() => (button.textContent = "Copy link"), 2_000);
}

function endpoint() {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url.href;
}

function destination(ofRoom) {
  return `/topic/${ofRoom}`;
}

function roomOfHash() {
  try {
    return tidy(decodeURIComponent(location.hash.slice(1)), ROOM_MAX);
  } catch {
    return tidy(location.hash.slice(1), ROOM_MAX);
  }
}

/** One line without control characters, with single spaces, at most `max` characters long. */
function tidy(text, max) {
  const line = text.normalize("NFC").replace(/[\p{Cc}\p{Zl}\p{Zp}\s]+/gu, " ").trim();
  return [...line].slice(0, max).join("");
}

function shorten(text, max) {
  return text.length > max ? `${text.slice(0, max)}…` : text;
}

function newId() {
  // Not randomUUID: browsers give that to secure origins only.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function remembered() {
  try {
    return tidy(localStorage.getItem("name") ?? "", NAME_MAX);
  } catch {
    return "";
  }
}

function remember(value) {
  try {
    localStorage.setItem("name", value);
  } catch {
    // Storage is off in this browser: the name is asked for again next time.
  }
}
