//! What do the pages share that tests write of themselves: that each test they name stands where they
//! say, and that the page in `docs/reference` is what they would write now?

use std::path::{Path, PathBuf};

/// The folder that tests are named from, as in `tests/guard.rs`.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails when the page in `docs/reference` is not `text`; `UPDATE=1` rewrites it.
pub fn assert_current(name: &str, text: &str) {
    let page: PathBuf = root().join("../../docs/reference").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&page, text).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert_eq!(written, text, "{} is stale: UPDATE=1 rewrites it", page.display());
}

pub fn assert_stands(file: &str, function: &str) {
    let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
    assert!(text.contains(&format!("fn {function}(")), "{file} has no test {function}");
}

/// As a page in `docs/reference` points to a file.
pub fn link(file: &str) -> String {
    let (shown, path) = match file.strip_prefix("../") {
        Some(other) => (other.to_owned(), format!("crates/{other}")),
        None => (file.to_owned(), format!("crates/domicile/{file}")),
    };
    format!("[{shown}](../../{path})")
}
