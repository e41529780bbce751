//! The documents: every link leads somewhere, every page can be found, and every setting, event and alert is explained.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use casebridge::{config, notify};

/// Variables of other programs, and those of the tests.
const FOREIGN: &[&str] = &["CODE_OF_CONDUCT", "HTTPS_PROXY", "NO_COLOR"];
const FOREIGN_PREFIXES: &[&str] = &["CASEBRIDGE_", "PROPTEST_"];
/// Pages about the code, which name its constants.
const ABOUT_CODE: &[&str] =
    &["architecture.md", "internals.md", "adding-a-destination.md", "adding-a-source.md"];

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut dead = Vec::new();
    for (page, text) in &pages {
        for link in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = target(page, file);
            let is_alive = match pages.get(&target) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && root().join(&target).exists(),
            };
            if !is_alive {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let pages = pages();
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from("README.md")];
    while let Some(page) = next.pop() {
        let Some(text) = pages.get(&page) else { continue };
        if reached.insert(page.clone()) {
            next.extend(links(text).iter().map(|link| target(&page, link.split('#').next().unwrap())));
        }
    }
    let all: BTreeSet<PathBuf> = pages.into_keys().collect();
    assert_eq!(reached, all);
}

/// Operators filter by these names.
#[test]
fn every_event_of_the_log_is_explained() {
    let mut logged = BTreeSet::new();
    events_in(&root().join("src"), &mut logged);
    let page = fs::read_to_string(root().join("docs/logging.md")).unwrap();
    let (_, tables) = page.split_once("\n## Events\n").unwrap();
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let documented = rows.flat_map(|names| names.split(['`', ',', ' '])).filter(|name| !name.is_empty());
    assert_eq!(logged, documented.map(str::to_owned).collect());
}

#[test]
fn every_alert_has_a_remedy() {
    let page = fs::read_to_string(root().join("docs/alerts.md")).unwrap();
    let (_, table) = page.split_once("\n## Codes and remedies\n").unwrap();
    let rows =
        table.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    let documented: Vec<&str> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    let codes: Vec<&str> = notify::codes().map(|code| code.name).collect();
    let as_set = |codes: &[&'static str]| codes.iter().copied().collect::<BTreeSet<_>>();
    let codes_of_page = documented.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(codes_of_page, as_set(&codes));
    assert_eq!(documented.len(), codes.len(), "one row each: {documented:?}");
}

/// `settings::the_documents_contain_all_settings` compares the tables; this finds settings that are named elsewhere.
#[test]
fn every_setting_that_a_page_names_exists() {
    let known = config::names();
    let mut unknown = BTreeSet::new();
    for (page, text) in pages() {
        if ABOUT_CODE.iter().any(|name| page.ends_with(name)) {
            continue;
        }
        for name in variables(&text) {
            let of_route = name.strip_prefix("ROUTE_").and_then(|rest| rest.split_once('_'));
            let is_known = known.variables.contains(&name.to_owned())
                || of_route.is_some_and(|(_, end)| known.route_ends.contains(&end.to_owned()))
                || FOREIGN.contains(&name)
                || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if !is_known {
                unknown.insert(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and all pages, by their paths from the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut files = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 10, "{files:?}");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    };
    files.into_iter().map(read).collect()
}

/// The file that a link leads to, from the root.
fn target(page: &Path, link: &str) -> PathBuf {
    if link.is_empty() {
        return page.to_owned();
    }
    let mut path = PathBuf::new();
    for part in page.parent().unwrap().join(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {link} leaves the repository", page.display()),
            part => path.push(part),
        }
    }
    path
}

/// The links of a page within the repository.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        // Code shows what it says.
        let shown: String = line.split('`').step_by(2).collect();
        let targets = shown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.extend(targets.filter(|link| !link.contains("://")).map(str::to_owned));
    }
    links
}

/// The anchors that GitHub makes of a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

/// The lines that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The words that look like the whole name of a variable.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| {
        word.contains('_')
            && !word.starts_with('_')
            && !word.ends_with('_')
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && !word.contains(|c: char| c.is_ascii_lowercase())
    })
}

fn events_in(folder: &Path, events: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            events_in(&path, events);
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let named = source.split("event = \"").skip(1).filter_map(|rest| rest.split('"').next());
        events.extend(named.map(str::to_owned));
    }
}
