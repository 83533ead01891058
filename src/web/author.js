/**
 * Who wrote a message: from what the server has verified and what the writer says to what is shown.
 *
 * Its job: lines of text that cannot pretend to be another line, and marks that tell two people of one name
 * apart. It knows nothing of the document, the connection or the server.
 *
 * Invariant: what a client says of itself never stands where a verified login stands.
 */

/** Colours of names, see style.css. */
const HUES = 8;
/** Characters of a name or login that the page shows. */
export const NAME_MAX = 40;

/**
 * Characters that turn text around: marks, embeddings, overrides and isolates of the bidirectional algorithm
 * (UAX #9, sections 2.1 to 2.6).
 */
const DIRECTIONAL = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;
/** The two that force letters against their own direction; no language needs them. */
const OVERRIDES = /[\u202d\u202e]/gu;
/** Characters without a shape, by which two names could differ and look alike. */
const INVISIBLE = /[\u00ad\u115f\u1160\u180e\u200b\u2060-\u2064\u2800\u3164\ufeff\uffa0]/gu;
/** Scripts with letters that look like Latin ones. */
const LIKE_LATIN = /[\p{Script=Armenian}\p{Script=Cherokee}\p{Script=Coptic}\p{Script=Cyrillic}\p{Script=Greek}\p{Script=Lisu}]/u;
const LATIN = /\p{Script=Latin}/u;

/** What a page puts before the dot of its messages' ids: the same for all that one window sends. */
const SOURCE = /^([0-9A-Za-z]{6,32})\./;

/** One line that reads in one way: no controls, nothing invisible, single spaces, at most `max` characters. */
export function oneLine(text, max) {
  const line = text
    .normalize("NFC")
    .replace(DIRECTIONAL, "")
    .replace(INVISIBLE, "")
    .replace(/[\p{Cc}\p{Zl}\p{Zp}\s]+/gu, " ")
    .trim();
  return [...line].slice(0, max).join("");
}

/**
 * A text of several lines whose letters stand in the order in which they were written. Isolates and embeddings
 * stay, because right-to-left writing uses them, and they end with their line.
 */
export function paragraphs(text, max) {
  const kept = text.replace(OVERRIDES, "");
  return kept.length > max ? `${kept.slice(0, max)}…` : kept;
}

/** The window that made a message, by the message's id; undefined for ids of another form. */
export function sourceOf(id) {
  return SOURCE.exec(id)?.[1];
}

/**
 * How the author of a message is shown.
 *
 * @param {object} said
 * @param {string} [said.sender] the login that the server has verified
 * @param {string} [said.name] what the writer calls himself, as one line
 * @param {string} [said.source] the window that wrote it, as that says
 * @returns {{shown: string | undefined, isVerified: boolean, alias: string | undefined, tag: string | undefined, hue: number}}
 *   `shown` is undefined for somebody of whom nothing is known; `alias` is the name beside a verified login;
 *   `tag` tells authors apart whose names look alike
 */
export function describe({ sender, name, source }) {
  if (sender === undefined) {
    const number = hash(source ?? name ?? "");
    return { shown: name, isVerified: false, alias: undefined, tag: source && tagOf(number), hue: number % HUES };
  }
  const shown = oneLine(sender, NAME_MAX);
  const number = hash(sender);
  const isAlias = name !== undefined && folded(name) !== folded(shown);
  return {
    shown: shown || "?",
    isVerified: true,
    alias: isAlias ? name : undefined,
    tag: mayBeMistaken(sender, shown) ? tagOf(number) : undefined,
    hue: number % HUES,
  };
}

/** Whether what is shown of a login could also be shown of another one. */
function mayBeMistaken(login, shown) {
  const isMixed = LATIN.test(login) && LIKE_LATIN.test(login);
  return shown !== login || isMixed || login.normalize("NFKC") !== login;
}

const folded = (name) => name.normalize("NFKC").toLowerCase();

const tagOf = (number) => `~${(number >>> 16).toString(16).padStart(4, "0")}`;

/** FNV-1a of 32 bits, stirred, so that near texts are far apart. */
function hash(text) {
  let number = 0x811c9dc5;
  for (const character of text) number = Math.imul(number ^ character.codePointAt(0), 0x01000193);
  number = Math.imul(number ^ (number >>> 15), 0x2c1b3c6d);
  return (number ^ (number >>> 13)) >>> 0;
}
