/**
 * The part of the join form where somebody proves who he is.
 *
 * Its job: offer what the server takes, read what was typed, and keep a token if its reader asks for that. It
 * does not know whether what it reads is right.
 *
 * Invariants: a password is in its field and in what `read` returns, and in no storage; a token is in the
 * storage of this tab only while the box beside it was ticked and the server takes it.
 */

import { oneLine } from "./author.js";

/** Where a token is kept, until the tab is closed. */
const KEPT_TOKEN = "token";
/** Where the login is kept, so that it need not be typed again. */
const LAST_LOGIN = "login";
/** Characters of a login that can be typed. */
const LOGIN_MAX = 255;

const HINTS = {
  nothing: "Or leave this empty, to come in without a login.",
  browser: "Or leave this empty, if you are logged in at this site already.",
};

/** What may go wrong before the server is asked. */
const PROBLEMS = {
  password: "A login and its password are needed.",
  token: "A token is needed.",
};

export class SignIn {
  /** Ways that the server takes: `password`, `token`, `browser`, `nothing`; none where it verifies nobody. */
  #ways;
  #parts;

  /**
   * @param {string[]} ways
   * @param {(id: string) => HTMLElement} at finds the parts of the form
   */
  constructor(ways, at) {
    this.#ways = new Set(ways);
    this.#parts = {
      proof: at("proof"),
      choice: at("proof-choice"),
      hint: at("proof-hint"),
      byPassword: at("by-password"),
      byToken: at("by-token"),
      choosesToken: at("choose-token"),
      login: at("login"),
      password: at("password"),
      token: at("token"),
      keep: at("keep-token"),
    };
    const { choice, hint, choosesToken, login, token, keep } = this.#parts;
    choice.hidden = !(this.#ways.has("password") && this.#ways.has("token"));
    choice.addEventListener("change", () => this.#showWay());
    // A token has no second line.
    token.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      token.form.requestSubmit();
    });
    const way = ["browser", "nothing"].find((each) => this.#ways.has(each));
    hint.textContent = HINTS[way] ?? "";
    hint.hidden = !way;
    login.value = stored("localStorage", LAST_LOGIN);
    token.value = this.kept;
    keep.checked = this.kept !== "";
    choosesToken.checked = keep.checked || !this.#ways.has("password");
    this.#showWay();
  }

  /** Whether the server verifies logins at all. */
  get isNeeded() {
    return this.#ways.size > 0;
  }

  /** Whether a login may be verified without anything typed: by a cookie. */
  get mayBeSilent() {
    return this.#ways.has("browser");
  }

  /** The token that this tab keeps, or nothing. */
  get kept() {
    return stored("sessionStorage", KEPT_TOKEN);
  }

  set isHidden(isHidden) {
    this.#parts.proof.hidden = isHidden;
  }

  /**
   * What was typed, as headers of CONNECT, or what is wrong with it.
   *
   * @returns {{credentials?: {login?: string, passcode?: string}, problem?: string}}
   */
  read() {
    const { login, password, token } = this.#parts;
    const mayBeEmpty = this.#ways.has("browser") || this.#ways.has("nothing");
    if (this.#isByToken) {
      const passcode = withoutBlanks(token.value);
      if (passcode) return { credentials: { passcode } };
      return mayBeEmpty ? { credentials: {} } : { problem: PROBLEMS.token };
    }
    const typed = oneLine(login.value, LOGIN_MAX);
    if (typed && password.value) return { credentials: { login: typed, passcode: password.value } };
    return mayBeEmpty && !typed && !password.value ? { credentials: {} } : { problem: PROBLEMS.password };
  }

  /** The server has taken what was typed: secrets leave the form. */
  accepted() {
    const { login, password, token, keep } = this.#parts;
    if (this.#isByToken) store("sessionStorage", KEPT_TOKEN, keep.checked ? withoutBlanks(token.value) : "");
    else store("localStorage", LAST_LOGIN, oneLine(login.value, LOGIN_MAX));
    password.value = "";
    token.value = "";
  }

  /** The server has not taken it, or takes it no more: all but the password may be mended. */
  refused() {
    this.#parts.password.value = "";
    store("sessionStorage", KEPT_TOKEN, "");
  }

  /** Nothing of who was here stays in this tab. */
  forget() {
    this.refused();
    this.#parts.token.value = "";
  }

  /** Puts the cursor where the next word is needed. */
  focus() {
    const { login, password, token } = this.#parts;
    if (this.#isByToken) token.select();
    else if (login.value) password.focus();
    else login.focus();
  }

  get #isByToken() {
    return this.#parts.choosesToken.checked;
  }

  #showWay() {
    this.#parts.byToken.hidden = !this.#isByToken;
    this.#parts.byPassword.hidden = this.#isByToken;
  }
}

/** Tokens are copied with ends of lines in them. */
const withoutBlanks = (token) => token.replace(/\s+/g, "");

/** What a storage of this origin has; nothing where the browser has switched it off. */
function stored(area, key) {
  try {
    return globalThis[area].getItem(key) ?? "";
  } catch {
    return "";
  }
}

function store(area, key, value) {
  try {
    if (value) globalThis[area].setItem(key, value);
    else globalThis[area].removeItem(key);
  } catch {
    // Storage is off in this browser: it is asked for again next time.
  }
}
