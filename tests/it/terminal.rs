//! The command line on a terminal: help, colours, completions, progress, and the table of deliveries.

use std::fs;
use std::process::{Command, Output, Stdio};

use casebridge_sandbox::zendesk::Fault;

use crate::harness::{Screen, World, event, on_both, on_terminal, run_on_sqlite};

fn casebridge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casebridge")).args(arguments).env_clear().output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// The names of all commands, as the help lists them.
fn commands() -> Vec<String> {
    let help = stdout(&casebridge(&["--help"]));
    let (_, list) = help.split_once("\nCommands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> = names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert!(names.len() > 10 && names.contains(&"list".to_owned()), "{names:?}");
    names.into_iter().filter(|name| name != "help").collect()
}

#[tokio::test]
async fn every_help_has_an_example_and_fits_the_terminal() {
    let names = commands();
    let commands = names.iter().map(|name| vec![name.as_str(), "--help"]);
    for arguments in commands.chain([vec!["--help"], vec!["-h"]]) {
        for (columns, most) in [(80, 80), (200, 100)] {
            let help = on_terminal(columns, &[], &arguments).await;
            assert_eq!(help.code, Some(0));
            let help = help.plain();
            assert!(help.contains("\nExamples:\n  "), "{arguments:?} has no example: {help}");
            assert!(widest(&help) <= most, "{arguments:?} at {columns} columns: {help}");
        }
    }
}

#[tokio::test]
async fn only_a_terminal_gets_colours() {
    run_on_sqlite(|world| async move {
        store(&world, &["dead"]).await;
        let url = world.database.url.as_str();
        // The log of a start that fails is text by default.
        for arguments in [&["--help"][..], &["list"], &["check"], &["serve"]] {
            let with =
                async |name, value| on_terminal(80, &[("DATABASE_URL", url), (name, value)], arguments).await;
            assert!(with("LANG", "C").await.has_colours(), "{arguments:?}");
            assert!(!with("NO_COLOR", "1").await.has_colours(), "{arguments:?}");
            assert!(!with("TERM", "dumb").await.text.contains("\u{1b}["), "{arguments:?}");
            let piped = world.command(arguments).await;
            assert!(!stdout(&piped).contains('\u{1b}') && !piped.stderr.contains(&0x1b), "{arguments:?}");
        }
    })
    .await;
}

#[test]
fn a_misspelt_command_or_option_gets_a_suggestion() {
    for (arguments, suggestion) in [(&["lst"][..], "'list'"), (&["list", "--stat", "dead"], "'--state'")] {
        let output = casebridge(arguments);
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("similar") && errors.contains(suggestion), "{errors}");
    }
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&casebridge(&["completions", shell]));
        for command in commands() {
            assert!(script.contains(&command), "{shell} does not know {command}");
        }
    }
    // Bash itself says what it completes.
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(casebridge unsub); COMP_CWORD=1; _casebridge \
                  casebridge unsub casebridge; echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_casebridge")]).output().unwrap();
    assert_eq!(stdout(&bash), "unsubscribe\n", "{bash:?}");
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert!(casebridge(&["man", pages.to_str().unwrap()]).status.success());
    let main = fs::read_to_string(pages.join("casebridge.1")).unwrap();
    assert!(main.contains(".TH casebridge 1") && main.contains("casebridge settings"), "{main}");
    for command in commands() {
        let page = fs::read_to_string(pages.join(format!("casebridge-{command}.1"))).unwrap();
        assert!(page.contains(&format!("casebridge {}", command.split('-').next().unwrap())), "{page}");
    }
    assert!(stdout(&casebridge(&["man"])).contains(".TH casebridge 1"));
}

#[test]
fn a_replay_of_nothing_explains_how_to_look_first() {
    for arguments in [&["replay"][..], &["replay", "--now"], &["replay", "--dry-run"]] {
        let output = casebridge(arguments);
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8(output.stderr).unwrap();
        for line in ["casebridge list --state dead", "casebridge replay --all-dead --dry-run", "Usage:"] {
            assert!(errors.contains(line), "{errors}");
        }
    }
}

/// Stores deliveries without the service: event-1 is the oldest.
async fn store(world: &World, states: &[&str]) {
    drop(world.start().await);
    for (number, state) in (1..).zip(states) {
        let (received, settled) = (number * 1000, if *state == "waiting" { "null" } else { "5" });
        let route = if number % 2 == 0 { "vip" } else { "label" };
        let destination = if number % 3 == 0 { "webhook" } else { "zendesk" };
        world
            .database
            .execute(&format!(
                "insert into delivery (identity, destination, case_key, route, event_id, event_name, payload, state,
                                       attempts, due_at, received_at, settled_at, reference, last_error)
                 values ('khoros:1234:event-{number}:twitter:{number}', '{destination}',
                         'khoros:1234:twitter:{}', '{route}', 'event-{number}', 'name', '{{}}', '{state}', 1,
                         4102444800000, {received}, {settled}, '7{number}', 'reason {number}')",
                number % 5
            ))
            .await;
    }
}

/// The numbers of the events that the output lists, in its order.
fn events(output: &Output) -> Vec<u32> {
    let text = stdout(output);
    let ids = text.split("khoros:1234:event-").skip(1);
    ids.map(|rest| rest.split(':').next().unwrap().parse().unwrap()).collect()
}

on_both! {
    async fn the_list_is_of_the_newest_that_match(world: World) {
        store(&world, &["dead", "done", "waiting", "done", "dead", "done"]).await;
        for (arguments, expected) in [
            (&[][..], &[6, 5, 4, 3, 2, 1][..]),
            (&["--limit", "2"], &[6, 5]),
            (&["--limit", "0"], &[]),
            (&["--state", "dead"], &[5, 1]),
            (&["--state", "done"], &[6, 4, 2]),
            (&["--state", "waiting"], &[3]),
            (&["--route", "vip"], &[6, 4, 2]),
            (&["--route", "LABEL"], &[5, 3, 1]),
            (&["--route", "label", "--state", "dead"], &[5, 1]),
            (&["--route", "label", "--state", "waiting"], &[3]),
            (&["--route", "vip", "--state", "done", "--limit", "2"], &[6, 4]),
            (&["--destination", "webhook"], &[6, 3]),
            (&["--destination", "webhook", "--state", "done"], &[6]),
            (&["--case", "khoros:1234:twitter:1"], &[6, 1]),
            (&["--case", "khoros:1234:twitter:1", "--state", "dead"], &[1]),
            (&["--case", "khoros:1234:twitter:1", "--destination", "webhook"], &[6]),
            (&["--since", "1970-01-01T00:00:04Z"], &[6, 5, 4]),
            (&["--since", "1970-01-01T00:00:04Z", "--route", "label"], &[5]),
            (&["--since", "1970-01-01T00:00:03Z", "--state", "waiting"], &[3]),
            (&["--since", "1970-01-01T00:00:04Z", "--state", "waiting"], &[]),
            (&["--case", "khoros:1234:twitter:9"], &[]),
            (&["--route", "none"], &[]),
        ] {
            let table = world.command(&[&["list"], arguments].concat()).await;
            assert!(table.status.success(), "{table:?}");
            assert_eq!(events(&table), expected, "{arguments:?}: {}", stdout(&table));
            let json = world.command(&[&["list", "--json"], arguments].concat()).await;
            assert_eq!(events(&json), expected, "{arguments:?}");
            let total = stdout(&table).lines().last().unwrap().to_owned();
            if !arguments.contains(&"--limit") {
                let expected = match expected.len() {
                    0 => "no deliveries".to_owned(),
                    1 => "1 delivery".to_owned(),
                    count => format!("{count} deliveries"),
                };
                assert_eq!(total, expected, "{arguments:?}");
            }
        }
        let two = stdout(&world.command(&["list", "--limit", "2"]).await);
        assert!(two.ends_with("\n\nthe newest 2 of 6 deliveries; --limit shows more, --json all\n"), "{two}");
    }

    async fn the_table_has_50_rows_and_json_has_all(world: World) {
        store(&world, &["done"; 52]).await;
        let table = world.command(&["list"]).await;
        assert_eq!(events(&table), (3..=52).rev().collect::<Vec<u32>>());
        assert!(stdout(&table).contains("the newest 50 of 52 deliveries"), "{}", stdout(&table));
        assert_eq!(events(&world.command(&["list", "--limit", "51"]).await).len(), 51);
        assert_eq!(events(&world.command(&["list", "--json"]).await).len(), 52);
    }
}

/// A delivery that waits for its next try, and one that is dead for a long reason.
async fn waiting_and_dead(world: &mut World) {
    world.set("RETRY_SCHEDULE", "86400");
    world.zendesk.queue([Fault::Invalid, Fault::Status(500)]);
    let bridge = world.start().await;
    world.notify(&event("67c53595-efc3-46aa-963b-89650bd4bd98", "855485181481934848")).await;
    bridge.wait_for("delivery_dead").await;
    world.notify(&event("67c53595-efc3-46aa-963b-89650bd4bd99", "855485181481934849")).await;
    bridge.wait_for("delivery_retry").await;
}

const DEAD: &str = "khoros:1234:67c53595-efc3-46aa-963b-89650bd4bd98:twitter:855485181481934848";

#[tokio::test]
async fn the_table_fits_the_terminal_and_cuts_no_id() {
    run_on_sqlite(|mut world| async move {
        waiting_and_dead(&mut world).await;
        world
            .database
            .execute("update delivery set last_error = last_error || ' ' || hex(zeroblob(500)) || ' end'")
            .await;
        let narrow = world.on_terminal(80, &["list"]).await.plain();
        assert!(widest(&narrow) <= 80, "{narrow}");
        assert!(narrow.contains(&format!("\n  {DEAD}\n")), "{narrow}");
        assert!(narrow.contains("NEXT ATTEMPT") && narrow.contains(" …\n"), "{narrow}");
        let wide = world.on_terminal(200, &["list"]).await.plain();
        assert!(widest(&wide) <= 200 && wide.contains(&format!("  {DEAD}\n")), "{wide}");
        assert_eq!(wide.lines().next().unwrap().split_whitespace().last(), Some("ID"));
        // Without a terminal, each delivery is a line, which has everything.
        let piped = stdout(&world.command(&["list"]).await);
        assert_eq!(piped.lines().count(), 1 + 2 + 2, "{piped}");
        let dead = piped.lines().find(|line| line.starts_with("dead")).unwrap();
        assert!(dead.contains(&format!("  {DEAD}  Zendesk answered 422")), "{piped}");
    })
    .await;
}

#[tokio::test]
async fn foreign_text_does_not_control_the_terminal() {
    run_on_sqlite(|world| async move {
        store(&world, &["dead"]).await;
        let hostile = "\u{1b}]0;title\u{7} \u{9b}2J \u{202e}";
        for column in ["identity", "route", "last_error"] {
            world.database.execute(&format!("update delivery set {column} = {column} || '{hostile}'")).await;
        }
        for arguments in [&["list"][..], &["list", "--json"], &["replay", "--all-dead", "--dry-run"]] {
            for screen in
                [world.on_terminal(80, arguments).await.plain(), stdout(&world.command(arguments).await)]
            {
                let is_hostile = |c: char| hostile.contains(c) && !c.is_ascii_graphic() && c != ' ';
                // The progress of a replay moves the cursor.
                let screen = screen.replace("\u{1b}[2K", "");
                assert!(!screen.contains(is_hostile), "{arguments:?}: {screen:?}");
            }
        }
        let json = stdout(&world.command(&["list", "--json"]).await);
        let delivery: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(delivery["reason"].as_str().unwrap().ends_with(hostile), "{delivery}");
    })
    .await;
}

#[tokio::test]
async fn a_terminal_shows_progress_and_a_pipe_does_not() {
    run_on_sqlite(|world| async move {
        store(&world, &["dead", "dead"]).await;
        let copy = world.folder().join("copy.db");
        let copy = copy.to_str().unwrap();
        for (arguments, progress, result) in [
            (&["replay", "--all-dead", "--dry-run"][..], "replaying [", "2 would be replayed\n"),
            (&["discard", "--route", "label", "--dry-run"], "discarding [", "would discard 0 deliveries\n"),
            (&["backup", copy], "copying [", "is a copy of the database ("),
        ] {
            let screen: Screen = world.on_terminal(80, arguments).await;
            assert!(screen.text.contains(progress) && screen.text.contains(result), "{}", screen.text);
            let _ = fs::remove_file(copy);
            let piped = world.command(arguments).await;
            assert!(piped.stderr.is_empty() && stdout(&piped).contains(result), "{piped:?}");
            assert!(!stdout(&piped).contains(progress), "{piped:?}");
        }
        assert!(fs::metadata(copy).unwrap().len() > 0);
        let dumb = [("DATABASE_URL", world.database.url.as_str()), ("TERM", "dumb")];
        let dumb = on_terminal(80, &dumb, &["replay", "--all-dead", "--dry-run"]).await;
        assert!(!dumb.text.contains("replaying ["), "{}", dumb.text);
    })
    .await;
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    for arguments in [&["completions", "bash"][..], &["man"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_casebridge"));
        command.args(arguments).env_clear().stdout(writer).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}
