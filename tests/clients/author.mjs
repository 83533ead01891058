/**
 * The chat page's module that says who wrote a message, without a browser.
 *
 * Run by `tests/browser.rs`; by hand: `node --test author.mjs`.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

// As text, since Node takes a module from a folder without package.json for something else.
const source = readFileSync(new URL("../../src/web/author.js", import.meta.url));
const { NAME_MAX, describe, oneLine, paragraphs, sourceOf } = await import(
  `data:text/javascript;base64,${source.toString("base64")}`
);

/** Everything that turns text around, by its number, so that no editor does it here. */
const DIRECTIONAL = [0x061c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069].map(
  (number) => String.fromCodePoint(number),
);

test("a line has no control, nothing that turns it around and nothing invisible", () => {
  for (const control of [...DIRECTIONAL, "\u200b", "\ufeff", "\u00ad", "\u2060", "\u3164"]) {
    assert.equal(oneLine(`${control}al${control}ice${control}`, 10), "alice", control.codePointAt(0).toString(16));
  }
  assert.equal(oneLine(" a\n\tb\u2028c\0 ", 10), "a b c");
  assert.equal(oneLine("\u202e\u3164", 10), "");
  // A joiner is a part of words and of pictures, and letters of any direction stay.
  for (const kept of ["می\u200cخواهم", "👩\u200d💻", "שלום", "Zoë"]) assert.equal(oneLine(kept, 20), kept);
  assert.equal(oneLine("😀".repeat(50), NAME_MAX), "😀".repeat(NAME_MAX));
});

test("a text keeps its lines, its length and the order of its letters", () => {
  assert.equal(paragraphs("one\n\n\u202etwo\u202c \u202dthree", 100), "one\n\ntwo\u202c three");
  assert.equal(paragraphs("\u2067שלום\u2069", 100), "\u2067שלום\u2069");
  assert.equal(paragraphs("x".repeat(11), 10), `${"x".repeat(10)}…`);
});

test("the author is the sender, and another name stands beside it", () => {
  const said = describe({ sender: "alice", name: "Root", source: "0123abcd" });
  assert.deepEqual([said.shown, said.isVerified, said.alias, said.tag], ["alice", true, "Root", undefined]);
  // The same name, in whatever letters, is no other one.
  for (const name of ["alice", "Alice", "ＡＬＩＣＥ"]) assert.equal(describe({ sender: "alice", name }).alias, undefined, name);
  // A body that is not the page's has no name.
  assert.equal(describe({ sender: "alice" }).alias, undefined);
});

test("nobody is verified by what he says", () => {
  const said = describe({ name: "alice", source: "0123abcd" });
  assert.deepEqual([said.shown, said.isVerified, said.alias], ["alice", false, undefined]);
  assert.deepEqual(describe({}), { shown: undefined, isVerified: false, alias: undefined, tag: undefined, hue: describe({}).hue });
});

test("two windows of one name differ, and one window is always the same", () => {
  const tags = new Set();
  for (let number = 0; number < 100; number += 1) {
    const said = describe({ name: "Ada", source: number.toString(16).padStart(8, "0") });
    assert.match(said.tag, /^~[0-9a-f]{4}$/);
    tags.add(said.tag);
  }
  assert.ok(tags.size >= 98, `${tags.size} of 100`);
  const [one, other] = ["Ada", "Grace"].map((name) => describe({ name, source: "0123abcd" }));
  assert.deepEqual([one.tag, one.hue], [other.tag, other.hue]);
  // Who does not say what window he is in has no tag.
  assert.equal(describe({ name: "Ada" }).tag, undefined);
});

test("a login that looks like another one has a tag", () => {
  const cyrillic = "\u0430lice";
  for (const sender of [cyrillic, "alice\u202e", "alice\u200b", "𝐚lice", "ａlice", `alice${" ".repeat(40)}x`, "x".repeat(41)]) {
    const said = describe({ sender });
    assert.match(said.tag, /^~/, sender);
    assert.ok(said.shown.length > 0);
  }
  assert.notEqual(describe({ sender: cyrillic }).tag, describe({ sender: "\u0430lic\u0435" }).tag);
  // Letters of one script, whatever it is, need none.
  for (const sender of ["alice", "zoë", "иван", "王伟", "δήμος", "a.b@example.com"]) {
    assert.equal(describe({ sender }).tag, undefined, sender);
  }
  assert.equal(describe({ sender: "\u202e" }).shown, "?");
});

test("logins have all colours", () => {
  const hues = new Set(Array.from({ length: 200 }, (_, number) => describe({ sender: `user-${number}` }).hue));
  assert.deepEqual([...hues].sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
});

test("the window is the part of an id before its dot", () => {
  assert.equal(sourceOf("0123abcd.0011"), "0123abcd");
  for (const other of ["1", "no-dot", ".x", "short.x", "with space.x", `${"x".repeat(33)}.y`]) assert.equal(sourceOf(other), undefined, other);
});

/** How much brighter one colour is than another (WCAG 2.2, "contrast ratio"). */
function contrast(...colours) {
  const [dark, bright] = colours.map(luminance).sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}

function luminance(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const part = parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

test("every colour of a name can be read, on every ground and in both schemes", () => {
  const style = readFileSync(new URL("../../src/web/style.css", import.meta.url), "utf8");
  const schemes = [...style.matchAll(/:root \{([^}]*)\}/g)].map(([, rules]) =>
    new Map([...rules.matchAll(/(--[a-z0-9-]+): (#[0-9a-f]{6});/g)].map(([, name, colour]) => [name, colour])),
  );
  assert.equal(schemes.length, 2);
  for (const colours of schemes) {
    const names = [...Array.from({ length: 8 }, (_, hue) => `--hue-${hue}`), "--quiet", "--good"];
    for (const name of names) {
      for (const ground of ["--surface", "--own", "--page"]) {
        const ratio = contrast(colours.get(name), colours.get(ground));
        assert.ok(ratio >= 4.5, `${name} on ${ground}: ${ratio.toFixed(2)}`);
      }
    }
  }
});
