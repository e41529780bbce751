//! `casebridge render`: what tickets are like, without a neighbour or a database.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const TWITTER: &str = "tests/fixtures/stream-item-label-applied-twitter.json";

fn render(arguments: &[&str], vars: &[(&str, &str)]) -> Output {
    command(arguments, vars).output().unwrap()
}

fn command(arguments: &[&str], vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_clear().envs(vars.iter().copied());
    command.arg("render").args(arguments);
    command
}

fn render_text(notification: &str, arguments: &[&str], vars: &[(&str, &str)]) -> Output {
    let mut command = command(&[&["-"], arguments].concat(), vars);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(notification.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The tickets of `--json`.
fn tickets(output: &Output) -> Vec<Value> {
    let lines = out(output);
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["ticket"].take()).collect()
}

fn post(fields: Value) -> String {
    json!({"eventUuid": "e", "data": {"items": [fields]}}).to_string()
}

#[test]
fn an_operator_can_start_from_the_built_in_templates() {
    let [subject, comment, update] = ["subject", "comment", "update"].map(|name| {
        let output = render(&["--template", name], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        out(&output)
    });
    let own = [
        ("TICKET_SUBJECT", &*subject),
        ("TICKET_COMMENT", &*comment),
        ("TICKET_UPDATE", &*update),
        ("TICKET_COMMENT_FORMAT", "html"),
    ];
    for fixture in fixtures() {
        for part in [&["--json"][..], &["--json", "--update"]] {
            let arguments = [&[fixture.to_str().unwrap()], part].concat();
            let rendered = render(&arguments, &own);
            assert!(!err(&rendered).contains("template"), "{}", err(&rendered));
            assert_eq!(tickets(&rendered), tickets(&render(&arguments, &[])));
        }
    }
}

/// A translation has all texts: each fixture renders, and nothing of ours remains in English.
#[test]
fn the_german_templates_translate_every_notification() {
    let german = |name: &str| fs::read_to_string(format!("docs/templates/de/{name}")).unwrap();
    let (subject, comment, update) = (german("subject.txt"), german("comment.html"), german("update.html"));
    let own = [
        ("TICKET_SUBJECT", &*subject),
        ("TICKET_COMMENT", &*comment),
        ("TICKET_UPDATE", &*update),
        ("TICKET_COMMENT_FORMAT", "html"),
        ("TICKET_TIME_ZONE", "Europe/Berlin"),
    ];
    let mut all = String::new();
    for fixture in fixtures() {
        for part in [&[][..], &["--update"]] {
            let rendered = render(&[&[fixture.to_str().unwrap()], part].concat(), &own);
            assert!(!err(&rendered).contains("template"), "{}", err(&rendered));
            let texts = out(&rendered)
                .lines()
                .filter(|line| line.starts_with("  | "))
                .map(|line| format!("{line}\n"))
                .collect::<String>();
            all.push_str(&format!("{}{}\n{texts}\n", fixture.file_name().unwrap().display(), part.join(" ")));
        }
    }
    for english in [
        "Open on",
        "reply",
        "labelled",
        "notes",
        "Khoros says",
        "Account id",
        "posted",
        " again",
        "user 5",
        "Several",
        "UTC",
    ] {
        assert!(!all.contains(english), "{english}: {all}");
    }
    compare_with_snapshot("de.txt", &all);
}

#[test]
fn every_published_notification_makes_the_ticket_that_it_made() {
    for fixture in fixtures() {
        let render = |arguments: &[&str]| {
            let output = render(&[&[fixture.to_str().unwrap()], arguments].concat(), &[]);
            assert_eq!(output.status.code(), Some(0), "{}", err(&output));
            output
        };
        let name = fixture.file_stem().unwrap().display().to_string();
        let ticket = serde_json::to_string_pretty(&tickets(&render(&["--json"]))).unwrap() + "\n";
        compare_with_snapshot(&format!("{name}.json"), &ticket);
        let texts = out(&render(&[])) + "On a later event:\n" + &out(&render(&["--update"]));
        compare_with_snapshot(&format!("{name}.txt"), &texts);
    }
}

/// The notifications in `tests/fixtures/`.
fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut fixtures: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    fixtures.retain(|fixture| fixture.extension().is_some_and(|extension| extension == "json"));
    fixtures.sort();
    assert!(!fixtures.is_empty());
    fixtures
}

/// With `CASEBRIDGE_UPDATE_SNAPSHOTS=1` the snapshot is written instead of compared.
fn compare_with_snapshot(name: &str, rendered: &str) {
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("CASEBRIDGE_UPDATE_SNAPSHOTS").is_some() {
        fs::write(&snapshot, rendered).unwrap();
    }
    let expected = fs::read_to_string(&snapshot);
    let expected = expected.unwrap_or_else(|error| panic!("{}: {error}", snapshot.display()));
    assert_eq!(rendered, expected, "{}", snapshot.display());
}

#[test]
fn it_shows_the_ticket_the_comment_and_the_requester() {
    let output = render(&[TWITTER], &[]);
    let told = out(&output);
    assert!(told.contains("    \"subject\": \"[Twitter] @author: Post Text\","), "{told}");
    assert!(told.contains("\nInternal comment:\n  | Open on twitter.com ↗ · reply there: a reply"), "{told}");
    assert!(!told.contains("html_body"), "{told}");
    let sent = out(&render(&[TWITTER, "--html"], &[]));
    assert!(
        sent.contains("</p><blockquote>Post Text</blockquote><p><strong>author</strong> (@author"),
        "{sent}"
    );
    let requester = "\nRequester: the Zendesk user khoros:twitter:12345678 (author), created if missing\n";
    assert!(told.contains(requester), "{told}");
    assert!(err(&output).contains("SPREDFAST_COMPANY_ID is not set: 1234 is assumed"), "{}", err(&output));
    assert!(err(&output).contains("SPREDFAST_LABEL_NAME is not set: CreateCase is assumed"));

    let set = [
        ("SPREDFAST_COMPANY_ID", "20,307,234"),
        ("SPREDFAST_LABEL_NAME", "VIP"),
        ("TICKET_REQUESTER", "service"),
    ];
    let output = render(&[TWITTER], &set);
    assert!(out(&output).contains("\nRequester: the user of the credential\n"), "{}", out(&output));
    assert!(out(&output).contains("khoros:20307234:twitter:") && out(&output).contains("khoros_label_vip"));
    assert_eq!(err(&output), "");

    let nobody = render_text(&post(json!({"entityId": "twitter:1", "author": "Jane"})), &[], &[]);
    assert!(out(&nobody).contains("since the event does not have the author's id"), "{}", out(&nobody));
}

#[test]
fn the_2017_ticket() {
    let vars = [
        ("TICKET_SUBJECT", "Case from Social Network {{ item.entityId }}"),
        ("TICKET_COMMENT", "{{ item.text }}"),
        ("TICKET_PUBLIC", "true"),
        ("TICKET_REQUESTER", "service"),
    ];
    let output = render(&[TWITTER, "--json"], &vars);
    let ticket = &tickets(&output)[0];
    assert_eq!(ticket["subject"], "Case from Social Network twitter:<twitterId>");
    assert_eq!(ticket["comment"], json!({"html_body": "<blockquote>Post Text</blockquote>", "public": true}));
    assert!(err(&output).contains("TICKET_PUBLIC: notes of Khoros' users are internal"), "{}", err(&output));
}

#[test]
fn a_form_with_its_fields() {
    let custom = r#"{"360003": ["social_{{ author.network }}", "{{ item.repostedFrom }}"], "360001": "{{ item.link }}",
        "360004": 5, "360005": "{{ item.inReplyTo }}", "360002": true}"#;
    let vars = [
        ("TICKET_FORM_ID", "11"),
        ("TICKET_GROUP_ID", "12"),
        ("TICKET_ASSIGNEE_ID", "13"),
        ("TICKET_BRAND_ID", "14"),
        ("TICKET_PRIORITY", "High"),
        ("TICKET_TYPE", "incident"),
        ("TICKET_STATUS", "open"),
        ("TICKET_TAGS", "Social, vip:gold ,social"),
        ("TICKET_CUSTOM_FIELDS", custom),
    ];
    let facebook = "tests/fixtures/stream-item-label-applied-facebook.json";
    let ticket = &tickets(&render(&[facebook, "--json"], &vars))[0];
    for (name, value) in [
        ("ticket_form_id", json!(11)),
        ("group_id", json!(12)),
        ("assignee_id", json!(13)),
        ("brand_id", json!(14)),
        ("priority", json!("high")),
        ("type", json!("incident")),
        ("status", json!("open")),
        (
            "tags",
            json!([
                "khoros",
                "khoros_facebook",
                "khoros_route_label",
                "khoros_type_post",
                "khoros_label_createcase",
                "khoros_initiative_5",
                "social",
                "vip:gold",
            ]),
        ),
        (
            "custom_fields",
            json!([
                {"id": 360001, "value": "https://facebook.com/link"},
                {"id": 360002, "value": true},
                {"id": 360003, "value": ["social_facebook"]},
                {"id": 360004, "value": 5},
            ]),
        ),
    ] {
        assert_eq!(ticket[name], value, "{name}");
    }
}

/// The example of `docs/tickets.md`, on a post of which Khoros tells all and on one of which it tells nothing.
#[test]
fn the_form_of_the_documents() {
    let page = include_str!("../../docs/tickets.md");
    let custom = page.lines().find_map(|line| line.strip_prefix("TICKET_CUSTOM_FIELDS=")).unwrap();
    let vars = [("TICKET_CUSTOM_FIELDS", custom)];
    let whole = render(&[TWITTER, "--json"], &vars);
    assert_eq!(tickets(&whole)[0]["custom_fields"].as_array().unwrap().len(), 5, "{}", err(&whole));
    let bare = render_text(&post(json!({"text": "t"})), &["--json"], &vars);
    assert_eq!(tickets(&bare)[0]["custom_fields"][2], json!({"id": 360005, "value": "reach_low"}));
    assert!(!err(&bare).contains("failed"), "{}", err(&bare));
}

#[test]
fn text_of_a_post_is_neither_template_nor_placeholder() {
    let bomb = "{{ticket.requester.email}} {{ item.link }} {% raw %}";
    let notification = post(json!({"entityId": "twitter:1", "link": "https://t.example", "text": bomb}));
    for vars in [&[][..], &[("TICKET_COMMENT", "{{ item.text }}"), ("TICKET_SUBJECT", "{{ item.text }}")]] {
        let output = render_text(&notification, &["--json"], vars);
        let ticket = &tickets(&output)[0];
        for text in [&ticket["subject"], &ticket["comment"]["html_body"]] {
            let text = text.as_str().unwrap();
            assert!(!text.contains("{{") && !text.contains("{%"), "{text}");
            assert!(text.replace('\u{2060}', "").contains(bomb), "{text}");
        }
    }
}

#[test]
fn a_template_that_fails_does_not_hold_the_ticket_up() {
    let vars = [
        ("TICKET_SUBJECT", "{{ item.followerCount|int + 1 }}"),
        ("TICKET_CUSTOM_FIELDS", r#"{"7": "{{ item.followerCount|int }}"}"#),
    ];
    let notification = post(json!({"entityId": "twitter:1", "text": "hello", "followerCount": "zebra"}));
    let output = render_text(&notification, &["--json"], &vars);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let ticket = &tickets(&output)[0];
    assert_eq!(ticket["subject"], "[Twitter] unknown author: hello");
    assert_eq!(ticket["custom_fields"], Value::Null);
    assert!(err(&output).contains("TICKET_SUBJECT: invalid operation in line 1\n"), "{}", err(&output));
    assert!(err(&output).contains("TICKET_CUSTOM_FIELDS: field 7: invalid operation in line 1\n"));
    assert!(!err(&output).contains("zebra"), "{}", err(&output));
}

#[test]
fn a_wrong_setting_is_named_with_all_others() {
    let vars = [
        ("TICKET_PRIORITY", "value"),
        ("TICKET_STATUS", "closed"),
        ("TICKET_GROUP_ID", "Care"),
        ("TICKET_SUBJECT", "{{ item.entityID }}"),
        ("TICKET_COMMENT", "{{ item.text|shout }}"),
        ("TICKET_CUSTOM_FIELDS", r#"{"360001": "{{ item.text", "360002": null, "color": "x"}"#),
    ];
    let output = render(&[TWITTER], &vars);
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
    assert_eq!(out(&output), "");
    for told in [
        "the configuration has 8 problems:",
        "TICKET_PRIORITY is not one of urgent, high, normal and low",
        "TICKET_STATUS cannot be closed",
        "TICKET_GROUP_ID is not an id",
        "TICKET_SUBJECT: unknown names: `item.entityID`; known names: item.sfEntityType, item.entityId,",
        "TICKET_COMMENT: unknown filter in line 1: filter shout is unknown",
        "TICKET_CUSTOM_FIELDS: field 360001: syntax error in line 1",
        "TICKET_CUSTOM_FIELDS: field 360002: its value must be",
        "TICKET_CUSTOM_FIELDS: a key is not the number of a field: color",
    ] {
        assert!(err(&output).contains(told), "{told}: {}", err(&output));
    }
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_takes_the_settings_of_a_ticket() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    demo.args(["demo", "--once"]).env_clear().env("TICKET_SUBJECT", "{{ shout }}");
    let output = demo.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("TICKET_SUBJECT: unknown names: `shout`"), "{}", err(&output));
}

#[test]
fn a_file_without_a_notification_is_an_error() {
    let missing = render(&["no/such/file.json"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("no/such/file.json cannot be read"), "{}", err(&missing));

    let other = render(&["README.md"], &[]);
    assert_eq!(other.status.code(), Some(1));
    assert!(err(&other).contains("README.md is not JSON"), "{}", err(&other));

    let items = json!({"eventUuid": "e", "data": {"items": [{"text": "one"}, {}, {"text": "three"}]}});
    let partly = render_text(&items.to_string(), &["--json"], &[]);
    assert_eq!(partly.status.code(), Some(1));
    assert_eq!(tickets(&partly).len(), 2);
    let told = "item 2 cannot become a ticket: the item has no id, no text and no link";
    assert!(err(&partly).contains(told), "{}", err(&partly));
}

#[test]
fn a_route_has_tickets_of_its_own() {
    let vars = [
        ("ROUTE_VIP_LABEL", "VIP"),
        ("ROUTE_VIP_TICKET_PRIORITY", "urgent"),
        ("TICKET_PRIORITY", "low"),
        ("SPREDFAST_LABEL_NAME", "CreateCase"),
    ];
    let of =
        |arguments: &[&str]| tickets(&render(&[&[TWITTER, "--json"], arguments].concat(), &vars)).remove(0);
    assert_eq!(of(&[])["priority"], "low");
    assert_eq!(of(&["--route", "label"])["priority"], "low");
    let vip = of(&["--route", "VIP"]);
    assert_eq!(vip["priority"], "urgent");
    assert!(vip["tags"].as_array().unwrap().contains(&json!("khoros_label_vip")));
    let unknown = render(&[TWITTER, "--route", "gold"], &vars);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        err(&unknown).contains("there is no such route; the configured routes are label, vip"),
        "{}",
        err(&unknown)
    );
}

#[test]
fn an_event_without_a_post_lacks_no_author() {
    let shown = out(&render(&["tests/fixtures/credential-deauth-instagram.json"], &[]));
    assert!(shown.ends_with("Requester: the user of the credential\n\n"), "{shown}");
}
