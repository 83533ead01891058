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
/** Colours of names, see style.css. */
const HUES = 8;

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

  /** A line about the conversation that nobody wrote. */
  addNotice(text) {
    this.#insert(element("p", "notice", text));
  }

  /** A message of somebody else; `name` is undefined when its form is not this page's. */
  addMessage({ name, text }) {
    this.#insert(messageRow(name, text, "foreign"));
    if (!this.#atEnd) this.#newer.hidden = false;
  }

  /** An own message, not yet with the server. */
  addPending(id, { name, text }, mark) {
    const row = messageRow(name, text, "own");
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

  /** This own message came back from the room: it takes its place in the room's order. */
  settle(id) {
    const row = this.#pending.get(id);
    if (!row) return;
    this.#pending.delete(id);
    setMark(row, "delivered");
    this.#insert(row);
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

function messageRow(name, text, kind) {
  const row = element("article", `message ${kind}`);
  const head = element("p", "head");
  const author = element("bdi", "author", name ?? "not from this page");
  if (name === undefined) row.classList.add("plain");
  else author.dataset.hue = String(hue(name));
  const now = new Date();
  const time = element("time", "time", now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = now.toISOString();
  head.append(author, " ", time);
  const body = element("p", "text", text);
  body.dir = "auto";
  row.append(head, body);
  return row;
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

function hue(name) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
  return hash % HUES;
}
