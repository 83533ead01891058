/**
 * The chat page: joins one room, shows what is said there, and says how the connection is.
 *
 * What goes over the wire: a SEND to `/topic/<room>`, `content-type:application/json`, whose body is
 * `{"id": …, "name": …, "text": …}`, three strings. `id` is unique for each message: it marks a message
 * that arrives twice (sent again because only its receipt was lost) and one's own. Up to its dot it is the
 * same for all messages of one window, which tells two people of one name apart; the rest cannot be guessed.
 * Any other body in the room is shown as it is, as plain text.
 *
 * Where the server verifies logins, its `sender` is the author, and `name` is only what he calls himself.
 *
 * The room is the page's fragment (`/#lobby`), so that a link leads into it. The name is kept by the
 * browser. The page holds no history: what others write while the connection is lost is not shown, and
 * the page says so.
 *
 * Invariant: a message that was typed is on the screen from then on, marked with what became of it.
 */

import { NAME_MAX, describe, oneLine, paragraphs, sourceOf } from "./author.js";
import { MessageLog } from "./log.js";
import { SignIn } from "./signin.js";
import { Client } from "./stomp.js";

/** Characters of a message that the page shows, whoever sent it. */
const TEXT_MAX = 4_000;
/** Characters of a room's name. */
const ROOM_MAX = 60;
/** Ids remembered to drop messages that come twice. */
const SEEN_IDS_MAX = 1_000;
/** Milliseconds that "Found again" stays. */
const FOUND_AGAIN_MS = 4_000;
/** What somebody is called who has neither a login nor a name. */
const NAMELESS = "guest";

const at = (id) => document.getElementById(id);
const log = new MessageLog(at("log"), at("rows"), at("newer"));
const client = new Client(endpoint(), {
  onState: showConnection,
  onMessage: receive,
  onDelivered: delivered,
  onRefused: refused,
  onProofRefused: proofRefused,
  onSlow: () => showWaiting(),
});
const signIn = new SignIn(waysToSignIn(), at);
/** This window, in the ids of its messages; another one after a reload, so that nobody can be followed by it. */
const source = randomHex(4);

let name = "";
let room = "";
/** The room to enter when the server has verified who this is; nothing while nobody is signing in. */
let entering;
/** Whether that is tried without anything typed: who is not known then has done nothing wrong. */
let isSilent = false;
/** Whether the rules of this room let nobody like this write. */
let isReadOnly = false;
/** Authors and ids of messages that are on the screen. */
let seen = new Set();
let unread = 0;
/** When the connection was lost, as long as it is. */
let lostAt;
let foundTimer;
let countdownTimer;

at("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const wantedName = oneLine(at("name").value, NAME_MAX);
  const wantedRoom = oneLine(at("room").value, ROOM_MAX);
  if (!wantedRoom || !(wantedName || signIn.isNeeded)) return showJoin("A name and a room are needed.");
  name = wantedName;
  if (!signIn.isNeeded || isSignedIn()) return go(wantedRoom);
  const { credentials, problem } = signIn.read();
  if (problem) return showJoin(problem);
  proveAndGo(credentials, wantedRoom);
});

at("sign-out").addEventListener("click", () => {
  leave();
  client.forget();
  signIn.forget();
  showJoin();
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
  if (!wanted || wanted === room) return;
  at("room").value = wanted;
  if (signIn.isNeeded ? room && isSignedIn() : name) enter(wanted);
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
  const isReady = signIn.isNeeded ? client.isProved || entering !== undefined : room;
  if (event.persisted && isReady) client.start();
});
addEventListener("beforeunload", (event) => {
  if (client.unsent > 0) event.preventDefault();
});

name = remembered();
at("name").value = name;
at("name").required = !signIn.isNeeded;
if (signIn.isNeeded) {
  at("name-label").textContent = "Name to show (optional)";
  at("name-hint").textContent = "Shown beside your login, as unverified.";
}
at("room").value = roomOfHash() || "lobby";
// The button needs the clipboard, which browsers give to secure origins only.
at("share").hidden = !navigator.clipboard;
begin();

/** Goes where the address leads, if it is known who this is. */
function begin() {
  const wanted = roomOfHash();
  if (!wanted) return showJoin();
  if (!signIn.isNeeded) return name ? enter(wanted) : showJoin();
  if (signIn.kept) return proveAndGo({ passcode: signIn.kept }, wanted);
  if (signIn.mayBeSilent) {
    proveAndGo({}, wanted);
    isSilent = true;
    return;
  }
  showJoin();
}

/** Proves who this is, and goes into a room when the server has verified it. */
function proveAndGo(credentials, wanted) {
  showJoin();
  client.stop();
  client.prove(credentials);
  isSilent = false;
  entering = wanted;
  client.start();
}

/** Goes into a room from the join form, and makes it the page's address. */
function go(wanted) {
  remember(name);
  // When the fragment changes, the event that follows joins the room a second time, to no effect.
  location.hash = encodeURIComponent(wanted);
  enter(wanted);
}

/** Goes into a room, from the join form or from another room. */
function enter(wanted) {
  if (wanted !== room) {
    if (room) client.unsubscribe(destination(room));
    room = wanted;
    seen = new Set();
    log.clear();
    log.addNotice("You are in ", { quoted: room }, ". Messages appear from now on.");
    if (!signIn.isNeeded) log.addNotice("Names are not verified here. The sign behind a name tells people of one name apart.");
    client.subscribe(destination(room));
    setReadOnly(false);
  }
  showWho();
  at("room-name").textContent = room;
  at("room-title").hidden = false;
  at("join").hidden = true;
  at("chat").hidden = false;
  showTitle();
  client.start();
  at("text").focus();
}

/** Is in no room from here on. */
function leave() {
  room = "";
  entering = undefined;
  lostAt = undefined;
  at("room-title").hidden = true;
  showTitle();
}

/** Whether the connection is one of somebody whom the server has verified, or let in without. */
function isSignedIn() {
  return signIn.isNeeded && entering === undefined && client.isProved;
}

function showWho() {
  const { login } = client;
  at("who").textContent = login === undefined ? name || NAMELESS : oneLine(login, NAME_MAX);
  const isOther = login !== undefined && name && name !== login;
  at("who-remark").replaceChildren();
  if (isOther) at("who-remark").append("as “", quoted(name), "”");
  else if (signIn.isNeeded && login === undefined) at("who-remark").append("(not signed in)");
}

function quoted(text) {
  const made = document.createElement("bdi");
  made.textContent = text;
  return made;
}

/** Shows the join form, with what was wrong if something was. */
function showJoin(problem) {
  at("join-problem").textContent = problem ?? "";
  at("join-problem").hidden = !problem;
  at("join-progress").textContent = "";
  at("chat").hidden = true;
  at("join").hidden = false;
  const needsProof = signIn.isNeeded && !isSignedIn();
  signIn.isHidden = !needsProof;
  at("signed-in").hidden = !signIn.isNeeded || needsProof;
  at("signed-in-as").textContent = client.login === undefined ? NAMELESS : oneLine(client.login, NAME_MAX);
  at("join-title").textContent = needsProof ? "Sign in" : "Join a room";
  at("join-button").textContent = needsProof ? "Sign in" : "Join";
  if (needsProof) signIn.focus();
  else at(at("name").value || signIn.isNeeded ? "room" : "name").focus();
}

/** The server does not take what was to prove who this is, or takes it no more. */
function proofRefused({ name: fault, reason }) {
  const isExpected = isSilent && fault === "not-authenticated";
  signIn.refused();
  // Of those that are tried from here on, the form says what is wrong.
  if (room && entering === undefined) log.addNotice("Signed out: ", { quoted: reason }, ".");
  isSilent = false;
  entering = undefined;
  if (isExpected) {
    showJoin();
    at("join-progress").textContent = sentence(reason);
  } else {
    // A page from before the server asked for this has no place to type it.
    showJoin(signIn.isNeeded ? sentence(reason) : `${sentence(reason)} Reload this page to sign in.`);
  }
}

/** The server has verified who this is: what was begun goes on. */
function proofAccepted() {
  const wanted = entering;
  entering = undefined;
  isSilent = false;
  signIn.accepted();
  // Another login may do other things.
  setReadOnly(false);
  go(wanted);
}

function sendTyped() {
  const field = at("text");
  const text = field.value.trim();
  if (!text || isReadOnly) return;
  const id = `${source}.${randomHex(12)}`;
  const called = name || client.login || NAMELESS;
  const body = JSON.stringify({ id, name: called, text });
  const taken = client.send(id, destination(room), "application/json", body);
  if (!taken) {
    showWaiting("Too many messages wait to be sent. This one stays in the field.");
    return;
  }
  const message = { author: author({ sender: client.login, name: called, source }), text: paragraphs(text, TEXT_MAX), at: new Date() };
  log.addPending(id, message, client.state.kind === "online" ? "sending" : "waiting");
  field.value = "";
  fitText();
  showWaiting();
}

function receive({ destination: from, headers, body }) {
  if (from !== destination(room)) return;
  const sender = headers.get("sender");
  const { id, name: called, text } = parse(body);
  const message = {
    author: author({ sender, name: called, source: sourceOf(id ?? "") }),
    text,
    at: timeOf(headers),
    isForeign: called === undefined,
  };
  if (id !== undefined) {
    // With the author: who sends the id of somebody else must not be taken for him.
    const key = JSON.stringify([sender, id]);
    if (seen.has(key)) return;
    seen.add(key);
    if (seen.size > SEEN_IDS_MAX) seen.delete(seen.values().next().value);
    if (sender === client.login && log.settle(id, message)) return;
  }
  log.addMessage(message);
  if (document.hidden) {
    unread += 1;
    showTitle();
  }
}

/** The author as he is shown; with a word more where others are verified and he is not. */
function author(said) {
  return { ...describe(said), isNobody: signIn.isNeeded && said.sender === undefined };
}

/** When the server accepted the message, if it says so. */
function timeOf(headers) {
  const stamp = new Date(Number(headers.get("timestamp") ?? NaN));
  return Number.isNaN(stamp.getTime()) ? new Date() : stamp;
}

/** A body in this page's form, or else the body as plain text. */
function parse(body) {
  try {
    const { id, name: called, text } = JSON.parse(body);
    if ([id, called, text].every((part) => typeof part === "string") && oneLine(called, NAME_MAX)) {
      return { id: id.slice(0, 64), name: oneLine(called, NAME_MAX), text: paragraphs(text, TEXT_MAX) };
    }
  } catch {
    // Not JSON, or JSON without these members: somebody else's form, which is allowed here.
  }
  return { text: paragraphs(body, TEXT_MAX) };
}

function delivered(id) {
  log.markDelivered(id);
  showWaiting();
}

function refused(id, { name: fault, reason }) {
  const isForbidden = fault === "forbidden";
  if (id === destination(room)) {
    const refusedRoom = room;
    leave();
    client.stop();
    showJoin(isForbidden ? `You may not enter the room “${refusedRoom}”.` : `The server refused this room: ${reason}`);
    return;
  }
  if (isForbidden) setReadOnly(true);
  log.refuse(id, isForbidden ? "you may not write here" : reason);
  showWaiting();
}

/** Rules hold for everything that is written here, so that one refusal is enough. */
function setReadOnly(isSo) {
  isReadOnly = isSo;
  at("text").disabled = isSo;
  at("send").disabled = isSo;
  at("text").placeholder = isSo ? "You may read here, and not write" : "Write a message";
}

function showConnection(state) {
  clearInterval(countdownTimer);
  clearTimeout(foundTimer);
  at("connection").title = state.reason ?? "";
  at("retry").hidden = state.kind !== "lost";
  at("connection-countdown").textContent = "";
  switch (state.kind) {
    case "connecting":
      if (at("connection").dataset.state === "lost") at("connection-countdown").textContent = "retrying…";
      else show("connecting", "Connecting…");
      if (entering !== undefined) at("join-progress").textContent = "Signing in…";
      break;
    case "online":
      if (lostAt === undefined) show("online", "Online");
      else foundAgain();
      if (entering !== undefined) proofAccepted();
      else showWho();
      log.markUndelivered("sending");
      break;
    case "lost":
      if (lostAt === undefined && room) {
        lostAt = Date.now();
        if (state.isRefusal) log.addNotice("The server refused that, and ended the connection.");
        else if (state.reason) log.addNotice("Connection lost: ", { quoted: state.reason }, ".");
        else log.addNotice("Connection lost.");
      }
      if (entering !== undefined) at("join-progress").textContent = sentence(state.reason || "the server does not answer");
      show("lost", entering === undefined ? "Connection lost" : "Not connected");
      log.markUndelivered("waiting");
      countDown(state.retryAt);
      break;
    case "stopped":
      // Whoever comes back has missed what was said.
      lostAt = room ? (lostAt ?? Date.now()) : undefined;
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

/** Says how many messages wait, and for what, or something more urgent. */
function showWaiting(urgent) {
  const count = client.unsent;
  const words = count === 1 ? "1 message waits" : `${count} messages wait`;
  const isOffline = client.state.kind !== "online";
  let sentence = "";
  if (count > 0 && isOffline) sentence = `${words} for the connection.`;
  else if (count > 0 && client.isSlow) sentence = `${words}: the server takes only so many at a time.`;
  at("waiting").textContent = urgent ?? sentence;
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
    return oneLine(decodeURIComponent(location.hash.slice(1)), ROOM_MAX);
  } catch {
    return oneLine(location.hash.slice(1), ROOM_MAX);
  }
}

/** What the server says, as a sentence. */
function sentence(reason) {
  return `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
}

/** How people sign in here, as the server has written it into the page. */
function waysToSignIn() {
  return document.querySelector('meta[name="proofs"]').content.split(" ").filter(Boolean);
}

function randomHex(bytes) {
  // Not randomUUID: browsers give that to secure origins only.
  const random = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function remembered() {
  try {
    return oneLine(localStorage.getItem("name") ?? "", NAME_MAX);
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
