//! Comments about later events.

use super::*;

#[test]
fn a_later_event_of_a_post_is_a_comment() {
    let item = whole_item();
    let note = Note {
        author: Some("Ann".to_owned()),
        created: Some("2017-04-12T09:01:11Z".to_owned()),
        text: "{{call}}".to_owned(),
    };
    let shown = |of: Changes| shown_update(&item, "care", &of);
    assert_eq!(shown(Changes::default()), "Labelled \"VIP\" again · open on t.example ↗");
    assert_eq!(
        shown(Changes {
            other_route: true,
            text_changed: true,
            notes: vec![note.clone()],
            ..Changes::default()
        }),
        "Labelled \"VIP\" · route \"care\" · open on t.example ↗\n\n\
         The text of the post has changed:\n\n> help\n\n\
         New Khoros notes (internal)\n\nAnn, 2017-04-12 09:01 UTC: {\u{2060}{call}}"
    );
    let long = item_of_length(COMMENT_BYTES);
    let cut = render_update(
        &long,
        "VIP",
        "care",
        &Ticket::default(),
        &Changes { text_changed: true, notes: vec![note], ..Changes::default() },
    );
    let cut = cut.comment;
    assert!(cut.as_str().contains(" more characters)</blockquote><p>New Khoros notes"), "{cut:?}");
    assert!(cut.bytes() <= COMMENT_BYTES);
}

#[test]
fn a_later_rule_or_unknown_event_is_a_comment() {
    let again = Changes::default();
    let rule = Item { kind: Kind::Rule, rule: Some("Angry".to_owned()), ..whole_item() };
    let shown = |item: &Item, of: &Changes| shown_update(item, "r", of);
    assert_eq!(shown(&rule, &again), "Rule \"Angry\" applied again · open on t.example ↗");
    let other = Changes { other_route: true, ..Changes::default() };
    let unknown = Item { kind: Kind::Other, event_name: Some("e".to_owned()), ..whole_item() };
    assert_eq!(shown(&unknown, &other), "Event \"e\" · route \"r\" · open on t.example ↗");
}

/// The update as a person sees it.
fn shown_update(item: &Item, route: &str, of: &Changes) -> String {
    let update = render_update(item, "VIP", route, &Ticket::default(), of);
    assert_eq!(update.failures, [""; 0]);
    html::visible_text(update.comment.as_str(), "> ")
}

#[test]
fn an_account_that_works_again_solves_its_ticket() {
    let shown = |json: &str| {
        let item = published(json);
        let changes = Changes { is_report: true, ..Changes::default() };
        (item.is_resolution(), shown_update(&item, "route", &changes))
    };
    assert_eq!(
        shown(include_str!("../../../../../tests/fixtures/credential-reauth-instagram.json")),
        (
            true,
            "2018-03-14 00:31 UTC · The account was re-authorized in Khoros · It can be used again.\n\n\
             Account: will.i.am\nAccount id: 673abc9794"
                .to_owned()
        )
    );
    let (solves, lost) =
        shown(include_str!("../../../../../tests/fixtures/credential-deauth-instagram.json"));
    let start =
        "Re-authorize the account in Khoros: Company Settings > Accounts.\nDown since 2018-03-14 00:31 UTC. ";
    assert!(!solves && lost.starts_with(start), "{lost}");
}

#[test]
fn a_changed_message_is_a_new_comment() {
    let json = include_str!("../../../../../tests/fixtures/message-needs-approval-facebook.json");
    let item = published(json);
    let of = Changes { text_changed: true, notes: item.notes.clone(), is_report: true, other_route: false };
    let shown = shown_update(&item, "route", &of);
    let start = "Approve or reject the message in Khoros.\n2021-03-17 20:02 UTC · \
        The message needs approval in Khoros\n\nThe text has changed:\n\n> This is the best day";
    assert!(shown.starts_with(start), "{shown}");
    let end = "\n\nNew Khoros notes (internal)\n\nAnn, 2021-03-17 20:00 UTC: Legal has to see this first";
    assert!(shown.ends_with(end), "{shown}");
}
