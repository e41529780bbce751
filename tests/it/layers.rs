//! Who may know whom: the structure of the program, read from its `use` lines.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules on which everything stands. They know only each other.
const GROUND: &[&str] = &[
    "alert", "connect", "delivery", "env", "exchange", "item", "json", "metrics", "report", "route", "text",
    "uptime",
];

/// What the modules may import beside the ground and themselves. `app`, `check`, `cli`, `config` and `main` put
/// everything together, and may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("inbox", &["config"]),
    ("intake", &["inbox"]),
    ("ledger", &["inbox", "source"]),
    ("source", &["intake", "inbox"]),
    ("destination", &["ledger"]),
    ("notify", &["destination", "inbox", "source"]),
    ("worker", &["config", "destination", "inbox", "ledger", "source"]),
    ("status", &["http", "inbox", "source", "worker"]),
    ("http", &["intake", "inbox", "source", "status"]),
];
const MAY_IMPORT_ALL: &[&str] = &["app", "check", "cli", "config", "lib", "main"];

/// The core names no source and no destination, not even in a comment.
const CORE: &[&str] = &["delivery", "inbox", "item", "json", "worker"];
const NAMES: &[&str] = &["zendesk", "ticket", "khoros", "webhook", "flow", "slack", "twilio"];

#[test]
fn modules_import_only_what_stands_below_them() {
    for (path, text) in sources() {
        let module = module_of(&path);
        if MAY_IMPORT_ALL.contains(&module.as_str()) {
            continue;
        }
        let above = MAY_IMPORT.iter().find(|(name, _)| *name == module).map(|(_, above)| *above);
        assert!(above.is_some() || GROUND.contains(&module.as_str()), "which layer is {}?", path.display());
        for (number, line) in production_lines(&text) {
            for imported in imports(line) {
                let is_allowed = imported == module
                    || GROUND.contains(&imported)
                    || above.is_some_and(|above| above.contains(&imported));
                assert!(is_allowed, "{}:{number}: {module} must not know {imported}: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_core_names_no_source_and_no_destination() {
    for (path, text) in sources() {
        if !CORE.contains(&module_of(&path).as_str()) {
            continue;
        }
        for (number, line) in production_lines(&text) {
            let lower = line.to_lowercase();
            // As a part of another word, `flow` is in `overflow`.
            let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).collect();
            let named =
                NAMES.iter().find(|name| words.iter().any(|word| word.trim_end_matches('s') == **name));
            assert_eq!(named, None, "{}:{number}: {line}", path.display());
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 50, "{files:?}");
    files
}

/// The module at the top level: `inbox` of `src/inbox/claim.rs`.
fn module_of(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(root).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The lines in front of the unit tests, with their numbers.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).take_while(|(_, line)| *line != "mod tests {")
}

/// The modules at the top level that a line names.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::").skip(1).flat_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '{')).unwrap_or(rest.len());
        // `use crate::{alert, connect};`
        match rest.strip_prefix('{') {
            Some(list) => list.split(['}', ';']).next().unwrap_or_default().split(", ").collect::<Vec<_>>(),
            None => vec![&rest[..end]],
        }
    })
}
