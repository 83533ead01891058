//! Parts of the documentation that the code prints: what is between `<!-- begin: NAME -->` and `<!-- end: NAME -->`.
//!
//! Invariant: a part that differs fails its test, unless `UPDATE_DOCS` is set; then it is written.

use std::path::Path;

/// Compares a part of `docs/{file}` with what the code says, or writes it. `test` is the test to name to whoever has
/// to write it.
pub fn compare(test: &str, file: &str, name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
    let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("no {end}"));
    if text[from..to] == *expected {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "the part {name:?} of docs/{file} is not what the code says; UPDATE_DOCS=1 cargo test --test {test} \
         writes it. The code says:\n{expected}"
    );
    std::fs::write(&path, [&text[..from], expected, &text[to..]].concat())
        .expect("the documentation can be written");
}
