/**
 * The list of messages as the document shows it.
 *
 * Its job: rows for messages and notices, in order, at most a bounded number of them. It does not know where messages come from.
 *
 * Invariants: whatever a person or a server wrote is set as text, never parsed as markup; and rows of the
 * room, in the room's one order, stand before the own messages that have not come back from it.
 */

/** Rows that are kept; the oldest go first. */
const ROWS_MAX = 500;
/** Pixels from the end within which the reader counts as reading the end. */
const AT_END_PX = 48;

const MARKS = {
  waiting: ["○", "waiting to be sent"],
  sending: ["◌", "on its way"],
  delivered: ["✓", "delivered"],
  refused: ["!", "refused"],
};

export class MessageLog {
  #scroller;
  #rows;
  #newer;
  /** Own messages that have not come back from the room yet, oldest first: message id to row. */
  #pending = new Map();
  #atEnd = true;

  /**
   * @param {HTMLElement} scroller scrolls the rows and, by its style, counts from the end: zero is the end,
   *   and who is there stays there when rows come or the window shrinks
   * @param {HTMLElement} rows
   * @param {HTMLButtonElement} newer shown while messages arrive below what the reader looks at
   */
  constructor(scroller, rows, newer) {
    this.#scroller = scroller;
    this.#rows = rows;
    this.#newer = newer;
    scroller.addEventListener("scroll", () => {
      this.#atEnd = Math.abs(scroller.scrollTop) < AT_END_PX;
      if (this.#atEnd) newer.hidden = true;
    }, { passive: true });
    newer.addEventListener("click", () => this.scrollToEnd());
  }

  clear() {
    this.#rows.replaceChildren();
    this.#pending.clear();
    this.scrollToEnd();
  }

  /**
   * A line about the conversation that nobody wrote.
   *
   * @param {(string | {quoted: string})[]} parts what somebody chose is `quoted`: its direction is its own
   */
  addNotice(...parts) {
    const row = element("p", "notice");
    for (const part of parts) row.append(typeof part === "string" ? part : element("bdi", "quoted", part.quoted));
    this.#insert(row);
  }

  /**
   * A message of somebody else.
   *
   * @param {object} message
   * @param {object} message.author as author.js describes it
   * @param {string} message.text
   * @param {Date} message.at
   * @param {boolean} message.isForeign whether its form is not this page's
   */
  addMessage(message) {
    this.#insert(messageRow(message, "theirs"));
    if (!this.#atEnd) this.#newer.hidden = false;
  }

  /** An own message, not yet with the server. */
  addPending(id, message, mark) {
    const row = messageRow(message, "own");
    setMark(row, mark);
    this.#pending.set(id, row);
    this.#rows.append(row);
    this.#trim();
    this.scrollToEnd();
  }

  /** The server has this own message; its place in the room's order is known when it comes back. */
  markDelivered(id) {
    const row = this.#pending.get(id);
    if (row) setMark(row, "delivered");
  }

  /** The connection was lost or found: `mark` is what became of all messages without a receipt. */
  markUndelivered(mark) {
    for (const [id, row] of this.#pending) {
      // What was delivered before the connection broke will not come back.
      if (row.dataset.mark === "delivered") this.settle(id);
      else setMark(row, mark);
    }
  }

  /**
   * This own message came back from the room: it takes its place in the room's order, and the server's
   * time. Says whether it is one of those.
   */
  settle(id, message) {
    const row = this.#pending.get(id);
    if (!row) return false;
    this.#pending.delete(id);
    if (message) row.querySelector(".head").replaceWith(head(message));
    setMark(row, "delivered");
    this.#insert(row);
    return true;
  }

  refuse(id, reason) {
    const row = this.#pending.get(id);
    if (!row) return;
    this.#pending.delete(id);
    setMark(row, "refused", reason);
  }

  scrollToEnd() {
    this.#atEnd = true;
    this.#newer.hidden = true;
    this.#scroller.scrollTop = 0;
  }

  #insert(row) {
    const [firstPending] = this.#pending.values();
    this.#rows.insertBefore(row, firstPending ?? null);
    this.#trim();
  }

  #trim() {
    while (this.#rows.childElementCount > ROWS_MAX) this.#rows.firstElementChild.remove();
  }
}

function messageRow(message, kind) {
  const row = element("article", `message ${kind}`);
  if (message.isForeign) row.classList.add("plain");
  const body = element("p", "text", message.text);
  body.dir = "auto";
  row.append(head(message), body);
  return row;
}

/** Who, and when. Names are isolated: their direction does not reach what stands beside them. */
function head({ author, at }) {
  const { shown, isVerified, alias, tag, hue, isNobody } = author;
  const line = element("p", "head");
  const name = element("bdi", "author", shown ?? "not from this page");
  line.append(name);
  if (shown !== undefined) {
    name.dataset.hue = String(hue);
    name.dataset.verified = String(isVerified);
    name.title = isVerified ? "The server has verified this login." : "Nobody has verified this name.";
  }
  if (tag) {
    const sign = element("span", "tag", tag);
    sign.title = "Tells people apart whose names look alike.";
    line.append(" ", sign);
  }
  if (alias !== undefined) {
    const remark = element("span", "remark", "as “");
    remark.append(element("bdi", "alias", alias), "” (unverified)");
    line.append(" ", remark);
  }
  if (isNobody) line.append(" ", element("span", "remark", "(not signed in)"));
  line.append(" ", time(at));
  return line;
}

function time(at) {
  const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const isToday = at.toDateString() === new Date().toDateString();
  const day = isToday ? "" : `${at.toLocaleDateString([], { day: "numeric", month: "short" })}, `;
  const made = element("time", "time", `${day}${clock}`);
  made.dateTime = at.toISOString();
  made.title = at.toLocaleString();
  return made;
}

function setMark(row, mark, reason) {
  const [sign, words] = MARKS[mark];
  const sentence = reason ? `${words}: ${reason}` : words;
  row.dataset.mark = mark;
  row.querySelector(".mark")?.remove();
  const note = element("span", "mark");
  const icon = element("span", "", sign);
  icon.ariaHidden = "true";
  note.append(icon, element("span", mark === "delivered" ? "unseen" : "", ` ${sentence}`));
  note.title = sentence;
  row.querySelector(".head").append(" ", note);
}

/** The only way in which this module makes elements: content is text. */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
