//! Posts made to cost time or memory: casebridge limits the work before it does it.

use serde_json::{Value, json};

use crate::harness::{event, event_with, run_on_sqlite};

/// The bytes that one notification can have.
const BODY: usize = (2 << 20) - 10_000;

/// As many short members as fit.
fn members(prefix: &str) -> Vec<Value> {
    let member = |number: usize| json!(format!("{prefix}{number}"));
    let bytes = |number: usize| member(number).to_string().len() + 1;
    let mut room = BODY;
    let fits = |number: &usize| {
        let fits = bytes(*number) <= room;
        room = room.saturating_sub(bytes(*number));
        fits
    };
    (0..).take_while(fits).map(member).collect()
}

/// Each took more than a minute before its lists were bounded.
#[tokio::test]
async fn a_post_with_as_many_labels_or_notes_as_fit_is_a_ticket_at_once() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        for (number, field, prefix) in [(1, "labels", ""), (2, "notes", ""), (3, "notes", "a longer note ")] {
            let members = members(prefix);
            assert!(members.len() > 50_000);
            let hostile =
                |event: &str| event_with(event, &number.to_string(), |item| item[field] = json!(members));
            world.notify(&hostile(&format!("event-{number}"))).await;
            world.tickets(number).await;
            // The second one is compared with the first.
            world.notify(&hostile(&format!("event-{number}-again"))).await;
        }
        world.notify(&event("event-after", "after")).await;
        world.tickets(4).await;
        while world.list().await.iter().any(|delivery| delivery["state"] != "done") {}
        let model = world.zendesk.model();
        let tags = model.tickets[0]["tags"].as_array().unwrap();
        assert!(tags.len() <= 20 && tags.contains(&json!("khoros_label_1")), "{tags:?}");
    })
    .await;
}

#[tokio::test]
async fn a_template_of_a_hostile_post_takes_little_memory() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_SUBJECT", "{{ item.text|replace('a', item.text) }}");
        world.set("TICKET_COMMENT", "{{ item.notes|map(attribute='text')|join(item.text)|indent(900) }}");
        let bridge = world.start().await;
        for number in 0..4 {
            world.notify(&hostile(number)).await;
        }
        let tickets = world.tickets(4).await;
        assert!(tickets.iter().all(|ticket| ticket["subject"].as_str().unwrap().starts_with("aa")));
        let peak = bridge.peak_memory();
        assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    })
    .await;
}

fn hostile(number: usize) -> String {
    event_with(&format!("event-{number}"), &number.to_string(), |item| {
        item["text"] = json!("a".repeat(1 << 20));
        item["notes"] = json!(vec!["a\n".repeat(1000); 200]);
    })
}
