//! The files around the code: what they repeat has to agree, and what they promise has to hold.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The value of `key = "value"` in Cargo.toml's first section.
fn of_package(key: &str) -> String {
    let manifest = text("Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
    line.unwrap().trim_end_matches('"').to_owned()
}

fn workflows() -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(root().join(".github/workflows")).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn the_changelog_describes_this_version() {
    let changelog = text("CHANGELOG.md");
    let newest = changelog.lines().filter_map(|line| line.strip_prefix("## [")).nth(1).unwrap();
    assert!(newest.starts_with(&format!("{}] - 20", of_package("version"))), "{newest}");
}

/// The first bytes of each file's SHA-256. A database knows the migrations that it has by their checksums, and casebridge
/// does not start on one with others, so a published file never changes: not even a comment.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_delivery.sql", "2ec711cbd7c12442"),
    ("0002_case.sql", "00acd275bf0f5a59"),
    ("0003_subscription.sql", "7f7ab094d2a52f9f"),
    ("0004_feed_health.sql", "8f16b531173013be"),
    ("0005_ticket.sql", "b0c5183ce361166a"),
    ("0006_deployment.sql", "a5ab7f8e0e081835"),
    ("0007_run.sql", "b6f979d3e2310d0b"),
    ("0008_readiness.sql", "90bc918d83f192e5"),
    ("0009_destinations.sql", "e7d73e1a77427741"),
    ("0010_held.sql", "b565d98649043a4b"),
    ("0011_attempt.sql", "8f7b18861d4ff77e"),
    ("0013_alert.sql", "2dc96624c0757192"),
    ("0014_target.sql", "d54747995409b2bd"),
    ("postgres/0012_count.sql", "5c3c42b21f2dc4b8"),
    ("sqlite/0012_count.sql", "0003d594893ee714"),
];

#[test]
fn published_migrations_never_change() {
    let folders = ["migrations", "migrations/postgres", "migrations/sqlite"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let is_sql = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sql");
    let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).filter(is_sql).collect();
    for path in &files {
        let name = path.strip_prefix(root().join("migrations")).unwrap().to_str().unwrap();
        let known = MIGRATIONS.iter().find(|(file, _)| *file == name).map(|(_, hash)| *hash);
        let hash: String =
            Sha256::digest(fs::read(path).unwrap())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            known,
            Some(hash.as_str()),
            "{name}: change nothing that was published; add the hash of a new file"
        );
    }
    assert_eq!(files.len(), MIGRATIONS.len());
}

#[test]
fn the_oldest_rust_is_the_same_everywhere() {
    let oldest = of_package("rust-version");
    assert!(text(".github/workflows/ci.yml").contains(&format!("toolchain: [stable, \"{oldest}\"]")));
    for page in ["README.md", "CONTRIBUTING.md", "docs/deploy.md"] {
        assert!(text(page).contains(&format!("Rust {oldest} or later")), "{page}");
    }
}

/// A tag can be moved to other code.
#[test]
fn workflows_pin_actions_by_their_hash() {
    let mut used = 0;
    for (path, workflow) in workflows() {
        for line in workflow.lines().filter(|line| line.contains("uses:")) {
            let (_, pin) = line.split_once('@').unwrap_or_default();
            let (hash, version) = pin.split_once(" # v").unwrap_or_default();
            let is_pinned = hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_pinned && !version.is_empty(), "{}: {line}", path.display());
            used += 1;
        }
    }
    assert!(used > 5, "{used}");
}

/// Somebody clicks it with tokens at hand: it must not lead to a repository of strangers.
#[test]
fn the_deploy_button_takes_the_repository_that_shows_it() {
    for page in ["README.md", "docs/deploy.md"] {
        assert!(text(page).contains("](https://www.heroku.com/deploy)"), "{page}");
        assert!(!text(page).contains("template="), "{page}");
    }
    for file in ["app.json", "Cargo.toml", "README.md", "docs/deploy.md"] {
        assert!(!text(file).contains("github.com/casebridge"), "{file}");
    }
}

#[test]
fn the_deploy_button_asks_for_at_most_15_settings() {
    let app: Value = serde_json::from_str(&text("app.json")).unwrap();
    let settings = app["env"].as_object().unwrap();
    assert!((5..=15).contains(&settings.len()), "{settings:#?}");
}

#[test]
fn the_unit_is_reached_from_this_machine_only() {
    let unit = text("deploy/casebridge.service");
    assert!(unit.lines().any(|line| line == "Environment=LISTEN=127.0.0.1"), "{unit}");
    // A file of settings may replace it.
    assert!(unit.find("LISTEN=127.0.0.1") < unit.find("EnvironmentFile="), "{unit}");
}

#[test]
fn contributing_stays_short() {
    let lines = text("CONTRIBUTING.md").lines().count();
    assert!(lines <= 80, "{lines}");
}

/// The image is built of these alone.
#[test]
fn the_dockerfile_copies_files_that_exist() {
    let dockerfile = text("Dockerfile");
    let copies = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--"));
    let sources: Vec<&str> = copies.flat_map(|line| line.split(' ').rev().skip(1)).collect();
    assert!(sources.len() > 5, "{sources:?}");
    for source in sources {
        assert!(root().join(source).exists(), "{source}");
    }
}
