//! Configured fields reach the ticket, and refused ones cost no ticket.

use casebridge_sandbox::zendesk::SERVICE_USER;
use serde_json::{Value, json};

use crate::harness::{World, event, event_with, run_on_sqlite};

fn configure(world: &mut World) {
    for (name, value) in [
        ("TICKET_PRIORITY", "high"),
        ("TICKET_TYPE", "question"),
        ("TICKET_STATUS", "open"),
        ("TICKET_GROUP_ID", "10"),
        ("TICKET_ASSIGNEE_ID", "20"),
        ("TICKET_BRAND_ID", "30"),
        ("TICKET_FORM_ID", "40"),
        ("TICKET_TAGS", "vip, social"),
        ("TICKET_SUBJECT", "{{ author.network }}: {{ item.entityId }}"),
        ("TICKET_CUSTOM_FIELDS", r#"{"50": "{{ item.link }}", "51": true}"#),
    ] {
        world.set(name, value);
    }
}

async fn first_ticket(world: &World, notification: &str) -> Value {
    world.notify(notification).await;
    world.tickets(1).await.remove(0)
}

fn has_tag(ticket: &Value, tag: &str) -> bool {
    ticket["tags"].as_array().unwrap().contains(&json!(tag))
}

#[tokio::test]
async fn configured_fields_reach_the_ticket() {
    run_on_sqlite(|mut world| async move {
        configure(&mut world);
        let bridge = world.start().await;
        let ticket = first_ticket(&world, &event("e1", "1")).await;
        for (field, value) in [
            ("priority", json!("high")),
            ("type", json!("question")),
            ("status", json!("open")),
            ("group_id", json!(10)),
            ("assignee_id", json!(20)),
            ("brand_id", json!(30)),
            ("ticket_form_id", json!(40)),
            ("subject", json!("twitter: twitter:1")),
            (
                "custom_fields",
                json!([{"id": 50, "value": "https://twitter.com/link"}, {"id": 51, "value": true}]),
            ),
        ] {
            assert_eq!(ticket[field], value, "{field}");
        }
        assert!(has_tag(&ticket, "vip") && has_tag(&ticket, "social") && has_tag(&ticket, "khoros"));
        bridge.wait_for("delivery_done ticket=1000").await;
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_field_falls_back_to_the_plain_ticket() {
    run_on_sqlite(|mut world| async move {
        configure(&mut world);
        world.zendesk.model().known.groups.clear();
        let bridge = world.start().await;
        for post in 1..=3 {
            world.notify(&event(&format!("e{post}"), &post.to_string())).await;
            bridge.wait_for_nth("delivery_done", post).await;
        }
        for ticket in world.tickets(3).await {
            assert!(has_tag(&ticket, "casebridge_fallback") && has_tag(&ticket, "vip"));
            assert!(ticket["group_id"].is_null() && ticket["custom_fields"].is_null());
            assert_ne!(ticket["requester_id"], SERVICE_USER, "the author was not at fault");
        }
        let line = bridge.wait_for("ticket_fields_refused level=ERROR alert=zendesk_fields").await;
        assert!(line.contains("group InvalidValue"), "{line}");
        assert_eq!(bridge.count("* level=ERROR"), 1);
        world.check_one_ticket_per_case().await;
    })
    .await;
}

#[tokio::test]
async fn a_public_comment_is_the_authors_and_holds_no_notes() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_PUBLIC", "true");
        let bridge = world.start().await;
        bridge.wait_for("setting_warning").await;
        let noted = event_with("e1", "1", |item| item["notes"] = json!([{"text": "an agent's own words"}]));
        let ticket = first_ticket(&world, &noted).await;
        assert_eq!(ticket["submitter_id"], ticket["requester_id"]);
        assert_ne!(ticket["requester_id"], SERVICE_USER);
        assert_eq!(ticket["comment"]["public"], true);
        assert!(!ticket["comment"]["body"].as_str().unwrap().contains("an agent's own words"));
        assert_eq!(bridge.count("ticket_privacy_wrong"), 0);
        // The ticket does not contain them yet.
        world.notify(&noted.replace("\"e1\"", "\"e2\"")).await;
        bridge.wait_for("delivery_done action=commented").await;
        let comment = world.zendesk.model().comments(1000).remove(1);
        assert_eq!(comment["public"], false);
        assert!(comment["body"].as_str().unwrap().contains("an agent's own words"));
    })
    .await;
}

#[tokio::test]
async fn a_comment_that_is_less_public_than_requested_is_an_error() {
    run_on_sqlite(|mut world| async move {
        world.set("TICKET_PUBLIC", "true");
        world.zendesk.model().private_only = true;
        let bridge = world.start().await;
        world.notify(&event("e1", "1")).await;
        let line = bridge.wait_for("ticket_privacy_wrong level=ERROR alert=zendesk_privacy").await;
        assert!(line.contains("\"ticket\":1000"), "{line}");
    })
    .await;
}

#[tokio::test]
async fn a_template_that_fails_costs_no_ticket() {
    run_on_sqlite(|mut world| async move {
        // The template works with the text of the sample, and fails with this one.
        world.set("TICKET_SUBJECT", "{{ item.text|int if item.text != 'Text' }}");
        let bridge = world.start().await;
        let ticket = first_ticket(&world, &event("e1", "1")).await;
        assert!(ticket["subject"].as_str().unwrap().starts_with("[Twitter] @author: "));
        bridge.wait_for("template_failed level=WARN").await;
    })
    .await;
}

/// The stand-in expands placeholders in comments of agents, as Zendesk does.
#[tokio::test]
async fn a_placeholder_in_a_post_stays_as_it_was_typed() {
    for vars in [&[][..], &[("TICKET_PUBLIC", "1")], &[("TICKET_COMMENT", "{{ item.text }}")]] {
        run_on_sqlite(|mut world| async move {
            for (name, value) in vars {
                world.set(name, *value);
            }
            let bridge = world.start().await;
            let typed = "{{ticket.requester.email}} and {% if x %}";
            let post = |event: &str, text: &str| event_with(event, "1", |item| item["text"] = json!(text));
            world.notify(&post("e1", typed)).await;
            bridge.wait_for("delivery_done ticket=1000").await;
            world.notify(&post("e2", &format!("now {typed}"))).await;
            bridge.wait_for("delivery_done action=commented").await;
            let comments = world.zendesk.model().comments(1000);
            for comment in &comments {
                let body = comment["body"].as_str().unwrap().replace('\u{2060}', "");
                assert!(body.contains(typed), "{body}");
            }
            assert_eq!(comments.len(), 2);
        })
        .await;
    }
}
