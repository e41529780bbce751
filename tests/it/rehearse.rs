//! `casebridge rehearse` against the stand-in for Zendesk, and against stand-ins that differ from the documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};

use casebridge::destination::zendesk::rehearse::Assumption;
use casebridge_sandbox::zendesk::{Fault, Quirk, Zendesk};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::harness::{World, leak, run_on_sqlite};

/// No rehearsal can try these.
const UNTESTABLE: [&str; 2] = ["too_many_requests", "hidden_ticket"];
const CREATE: &[&str] = &["rehearse", "--yes-create-tickets", "--json"];

/// Only what is documented as necessary, with limits that make no rehearsal wait.
fn variables(world: &World, zendesk: &Zendesk) -> BTreeMap<&'static str, String> {
    let mut vars = world.vars.clone();
    vars.retain(|name, _| name.starts_with("ZENDESK_") || *name == "LEASE_SECONDS");
    vars.insert("ZENDESK_API_URL", zendesk.url());
    vars.insert("ZENDESK_BUDGET_PERCENT", "100".to_owned());
    vars.insert("ZENDESK_UPDATE_BUDGET_PERCENT", "100".to_owned());
    let mut model = zendesk.model();
    (model.limit, model.update_limit) = (100_000, 100_000);
    vars
}

fn spawn(vars: &BTreeMap<&'static str, String>, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    let command = command.args(arguments).env_clear().envs(vars).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The output as it is printed, which contains no secret.
async fn output(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().await.unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!((leak(&stdout), leak(&stderr)), (None, None), "{stdout}{stderr}");
    (status.code(), stdout, stderr)
}

/// A rehearsal that began: its exit code and its report.
async fn rehearse(vars: &BTreeMap<&'static str, String>) -> (Option<i32>, Value) {
    report(spawn(vars, CREATE)).await
}

async fn report(child: Child) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = output(child).await;
    assert_eq!(stderr, "", "{stdout}");
    (code, serde_json::from_str(&stdout).unwrap())
}

fn in_state<'a>(report: &'a Value, state: &str) -> Vec<&'a str> {
    let assumptions = report["assumptions"].as_array().unwrap().iter();
    assumptions
        .filter(|verdict| verdict["state"] == state)
        .map(|verdict| verdict["id"].as_str().unwrap())
        .collect()
}

fn testable() -> Vec<&'static str> {
    let ids = Assumption::ALL.iter().map(|assumption| assumption.id());
    ids.filter(|id| !UNTESTABLE.contains(id)).collect()
}

/// Checks that everything is marked, bounded and no longer open, and that the report says so.
fn check_tickets(zendesk: &Zendesk, report: &Value) {
    let model = zendesk.model();
    let made = model.tickets.iter().chain(&model.deleted);
    for ticket in made.clone() {
        let subject = ticket["subject"].as_str().unwrap();
        assert!(subject.starts_with("casebridge rehearsal "), "{ticket}");
    }
    let open =
        model.tickets.iter().find(|ticket| ticket["status"] != "solved" && ticket["status"] != "closed");
    assert_eq!(open, None, "{report:#}");
    assert!(made.count() <= 6 && model.users.len() <= 1);
    let state = |ticket: &Value| match model.deleted.contains(ticket) {
        true => json!({"ticket": ticket["id"], "state": "deleted"}),
        false => json!({"ticket": ticket["id"], "state": ticket["status"]}),
    };
    let mut states: Vec<Value> = model.tickets.iter().chain(&model.deleted).map(state).collect();
    states.sort_by_key(|state| state["ticket"].as_u64());
    let mut reported = report["tickets"].as_array().unwrap().clone();
    reported.sort_by_key(|state| state["ticket"].as_u64());
    assert_eq!(reported, states);
}

#[tokio::test]
async fn without_the_flag_nothing_is_created() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        let (code, text, _) = output(spawn(&vars, &["rehearse"])).await;
        assert_eq!(code, Some(2), "{text}");
        let url = world.zendesk.url();
        let first = format!("Brand 30 ({url}/), a sandbox; the service user is casebridge (4000)\n");
        assert!(text.starts_with(&first), "{text}");
        for part in ["at most 6 tickets and one end user", "casebridge_rehearsal", "add --yes-create-tickets"]
        {
            assert!(text.contains(part), "{text}");
        }
        let (code, report) = report(spawn(&vars, &["rehearse", "--json"])).await;
        let account = json!({"url": format!("{url}/"), "name": "Brand 30", "sandbox": true,
            "service_user": {"id": 4000, "name": "casebridge"}});
        assert_eq!((code, &report["account"]), (Some(2), &account));
        assert_eq!((&report["assumptions"], &report["tickets"]), (&json!([]), &json!([])));
        assert!(report["problem"].as_str().unwrap().contains("--yes-create-tickets"));
        let model = world.zendesk.model();
        assert_eq!((model.creates, model.updates, model.user_writes), (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn the_stand_in_confirms_every_assumption() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        let (code, report) = rehearse(&vars).await;
        assert_eq!(in_state(&report, "confirmed"), testable(), "{report:#}");
        assert_eq!(in_state(&report, "not_testable"), UNTESTABLE);
        assert_eq!((code, &report["problem"]), (Some(0), &Value::Null));
        for verdict in report["assumptions"].as_array().unwrap() {
            let texts = ["assumption", "used_in", "seen"].map(|name| verdict[name].as_str().unwrap());
            assert!(texts.iter().all(|text| !text.is_empty()), "{verdict}");
        }
        check_tickets(&world.zendesk, &report);
        let user = world.zendesk.model().users[0].clone();
        assert_eq!(report["user"], user["id"]);
        assert!(user["name"].as_str().unwrap().starts_with("casebridge rehearsal "), "{user}");

        let (code, screen, _) = output(spawn(&vars, &["rehearse", "--yes-create-tickets"])).await;
        assert_eq!(code, Some(0), "{screen}");
        assert!(screen.starts_with("Brand 30 ("), "{screen}");
        assert!(screen.contains("✓ look_up ") && screen.contains("? hidden_ticket "), "{screen}");
        let summary = format!("{} confirmed (✓), 0 refuted (✗), 2 not testable (?).", testable().len());
        assert!(screen.contains(&summary), "{screen}");
    })
    .await;
}

/// The one assumption that each difference refutes.
fn refutes(quirk: Quirk) -> &'static str {
    match quirk {
        Quirk::NoRateReset => "rate_headers",
        Quirk::EmailRequired => "user_without_email",
        Quirk::UsersNotFound => "user_look_up",
        Quirk::QuotesLost => "html_body",
        Quirk::LinksMade => "no_links",
        Quirk::PlaceholdersFilled => "placeholders",
        Quirk::PublicComments => "private_comment",
        Quirk::RequesterComments => "comment_author",
        Quirk::MetadataLost => "metadata",
        Quirk::LookUpBlind => "look_up",
        Quirk::RepeatCreates => "idempotency_hit",
        Quirk::OtherBytesCreate => "idempotency_mismatch",
        Quirk::UnsafeUpdates => "safe_update",
        Quirk::NoUpdateLimit => "update_header",
        Quirk::TagsReplaced => "tags_added",
        Quirk::ClosedUpdates => "closed_ticket",
        Quirk::FollowUpUnnamed => "follow_up",
        Quirk::MergeUntagged => "merged_ticket",
        Quirk::MergeUnnamed => "merge_target",
        Quirk::DeletedShown => "deleted_ticket",
        Quirk::DeletedUnlisted => "deleted_list",
    }
}

#[tokio::test]
async fn each_difference_refutes_one_assumption() {
    let refuted: BTreeSet<&str> = Quirk::ALL.iter().map(|quirk| refutes(*quirk)).collect();
    assert_eq!(refuted, testable().into_iter().collect());
    run_on_sqlite(|world| async move {
        let mut rehearsals = tokio::task::JoinSet::new();
        for quirk in Quirk::ALL {
            let zendesk = Zendesk::start().await.unwrap();
            zendesk.model().quirk = Some(*quirk);
            let vars = variables(&world, &zendesk);
            rehearsals.spawn(async move { (*quirk, rehearse(&vars).await, zendesk) });
        }
        while let Some(rehearsed) = rehearsals.join_next().await {
            let (quirk, (code, report), zendesk) = rehearsed.unwrap();
            assert_eq!(in_state(&report, "refuted"), [refutes(quirk)], "{quirk:?}: {report:#}");
            let untestable = in_state(&report, "not_testable").len();
            // Without an author there is nobody to look up or to be the requester.
            let expected = if quirk == Quirk::EmailRequired { 4 } else { 2 };
            assert_eq!((untestable, code), (expected, Some(1)), "{quirk:?}: {report:#}");
            assert_eq!(report["problem"], Value::Null, "{quirk:?}");
            check_tickets(&zendesk, &report);
        }
    })
    .await;
}

#[tokio::test]
async fn a_rehearsal_that_cannot_begin_says_why() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        let mut wrong = vars.clone();
        wrong.insert("ZENDESK_OAUTH_CLIENT_SECRET", "another-secret".to_owned());
        let (code, stdout, stderr) = output(spawn(&wrong, CREATE)).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(
            stderr.contains("ZENDESK_OAUTH_CLIENT_SECRET") && stderr.contains("Admin Center"),
            "{stderr}"
        );

        let mut missing = vars.clone();
        missing.remove("ZENDESK_API_URL");
        let (code, _, stderr) = output(spawn(&missing, CREATE)).await;
        assert_eq!(code, Some(2));
        assert!(stderr.contains("1 problem:") && stderr.contains("ZENDESK_API_URL is not set"), "{stderr}");

        world.zendesk.model().withheld = BTreeSet::from(["users:write"]);
        let (code, _, stderr) = output(spawn(&vars, CREATE)).await;
        assert_eq!(code, Some(1));
        assert!(stderr.contains("without the scope users:write"), "{stderr}");
        assert_eq!(world.zendesk.model().creates, 0);
    })
    .await;
}

#[tokio::test]
async fn forbidden_requests_are_not_testable() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        world.zendesk.model().forbid_users = true;
        world.zendesk.model().forbid_deletions = true;
        let (code, report) = rehearse(&vars).await;
        assert_eq!((code, in_state(&report, "refuted")), (Some(0), Vec::new()), "{report:#}");
        let untestable = [
            "too_many_requests",
            "user_without_email",
            "user_look_up",
            "comment_author",
            "merged_ticket",
            "merge_target",
            "deleted_ticket",
            "deleted_list",
            "hidden_ticket",
        ];
        assert_eq!(in_state(&report, "not_testable"), untestable);
        check_tickets(&world.zendesk, &report);
    })
    .await;
}

#[tokio::test]
async fn a_lost_permission_ends_it_with_the_remedy() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        world.zendesk.queue([Fault::Status(403)]);
        let (code, report) = rehearse(&vars).await;
        let problem = report["problem"].as_str().unwrap();
        assert!(
            problem.contains("403") && problem.contains("a role that may see and create tickets"),
            "{problem}"
        );
        assert_eq!((code, world.zendesk.model().creates), (Some(1), 1));
        assert_eq!(in_state(&report, "confirmed"), ["rate_headers", "user_without_email", "user_look_up"]);
    })
    .await;
}

#[tokio::test]
async fn a_ticket_whose_create_was_not_answered_is_found_and_solved() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        world.zendesk.queue([Fault::ResetAfter]);
        let (code, report) = rehearse(&vars).await;
        assert!(
            report["problem"].as_str().unwrap().contains("the connection to Zendesk broke"),
            "{report:#}"
        );
        assert_eq!(code, Some(1));
        let confirmed = in_state(&report, "confirmed");
        assert!(confirmed.contains(&"deleted_list") && !confirmed.contains(&"html_body"), "{report:#}");
        check_tickets(&world.zendesk, &report);
        assert_eq!(world.zendesk.model().tickets[0]["status"], "solved");
    })
    .await;
}

#[tokio::test]
async fn a_ticket_that_cannot_be_solved_is_named() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        world.zendesk.queue_updates(vec![Fault::Status(500); 5]);
        let (code, report) = rehearse(&vars).await;
        assert_eq!(code, Some(1), "{report:#}");
        assert!(report["problem"].as_str().unwrap().contains("500"), "{report:#}");
        let ticket = world.zendesk.model().tickets[0]["id"].clone();
        let open = &report["tickets"][0];
        assert_eq!((&open["ticket"], &open["state"]), (&ticket, &json!("open")), "{report:#}");
        assert!(open["problem"].as_str().unwrap().contains("500"), "{open}");
    })
    .await;
}

#[tokio::test]
async fn a_rehearsal_waits_for_rate_limits() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        world.zendesk.queue([Fault::TooMany(1)]);
        world.zendesk.queue_updates([Fault::TooMany(1)]);
        let (code, report) = rehearse(&vars).await;
        assert_eq!((code, in_state(&report, "confirmed")), (Some(0), testable()), "{report:#}");
        check_tickets(&world.zendesk, &report);
    })
    .await;
}

/// Starts a rehearsal that waits for a minute after it has created its first tickets.
async fn start_and_hold(world: &World, vars: &BTreeMap<&'static str, String>) -> Child {
    world.zendesk.queue_updates([Fault::TooMany(60)]);
    let child = spawn(vars, CREATE);
    world.zendesk.wait_until(|model| model.updates == 1).await;
    child
}

async fn signal(child: &Child, signal: &str) {
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
}

#[tokio::test]
async fn a_signal_leaves_no_open_ticket() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        let child = start_and_hold(&world, &vars).await;
        signal(&child, "-INT").await;
        let (code, report) = report(child).await;
        assert_eq!((code, &report["problem"]), (Some(1), &json!("stopped by a signal")));
        assert!(in_state(&report, "confirmed").contains(&"html_body"), "{report:#}");
        assert_eq!(in_state(&report, "refuted"), [""; 0]);
        check_tickets(&world.zendesk, &report);
        assert_eq!(world.zendesk.model().tickets.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_rehearsal_after_a_killed_one_is_complete() {
    run_on_sqlite(|world| async move {
        let vars = variables(&world, &world.zendesk);
        let child = start_and_hold(&world, &vars).await;
        signal(&child, "-KILL").await;
        child.wait_with_output().await.unwrap();
        let (code, report) = rehearse(&vars).await;
        assert_eq!((code, in_state(&report, "confirmed")), (Some(0), testable()), "{report:#}");
        let model = world.zendesk.model();
        let open: Vec<&Value> = model.tickets.iter().filter(|ticket| ticket["status"] == "new").collect();
        assert_eq!(open.len(), 1);
        assert_eq!(open[0]["tags"], json!(["casebridge_rehearsal"]));
    })
    .await;
}

/// Each row of the document begins with what the code says; its last column is the state.
#[test]
fn the_document_lists_every_assumption() {
    let document = include_str!("../../docs/vendor-assumptions.md");
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let expected = Assumption::ALL.iter().map(|assumption| {
        format!("| `{}` | {} | `{}` | ", assumption.id(), assumption.text(), assumption.used_in())
    });
    let expected: Vec<String> = expected.collect();
    assert_eq!(rows.len(), expected.len(), "the rows should be:\n{}", expected.join("\n"));
    for (row, expected) in rows.iter().zip(&expected) {
        let file = row.split('`').nth_back(1).unwrap();
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file).exists(), "{row}");
        assert!(row.starts_with(expected) && row.len() > expected.len() + 2, "{row}\nshould be\n{expected}");
    }
}
