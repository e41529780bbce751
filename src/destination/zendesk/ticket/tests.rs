mod updates;

use unicode_segmentation::UnicodeSegmentation;

use super::super::legacy;
use super::super::memory::CaseMemory;
use super::*;
use crate::source::khoros::notification;

fn published(json: &str) -> Item {
    let arrivals = notification::parse("", json.as_bytes(), 1234).unwrap();
    crate::source::item(&arrivals[0].payload).unwrap()
}

fn item(fields: Value) -> Item {
    let json = json!({"eventUuid": "e", "data": {"items": [fields]}});
    published(&json.to_string())
}

fn ticket(item: &Item) -> Value {
    let draft = Draft {
        item,
        case_key: "khoros:1234:twitter:1",
        delivery: "khoros:1234:e:twitter:1",
        route: "label",
        label: "CreateCase",
        settings: &Ticket::default(),
        plan: plan(None, Fields::Configured),
        service_user: None,
    };
    render(&draft).ticket["ticket"].clone()
}

#[test]
fn the_published_example() {
    let json = include_str!("../../../../tests/fixtures/stream-item-label-applied-twitter.json");
    assert_eq!(
        ticket(&published(json)),
        json!({
            "subject": "[Twitter] @author: Post Text",
            "comment": {
                "html_body": "<p><a href=\"https://twitter.com/link\" rel=\"noopener noreferrer\">\
                    Open on twitter.com ↗</a> · <strong>reply there</strong>: a reply to this ticket does not \
                    reach the author · labelled \"CreateCase\" at 2017-04-12 14:01 UTC</p>\
                    <blockquote>Post Text</blockquote>\
                    <p><strong>author</strong> (@author · <a href=\"https://twitter.com/author\" rel=\"noopener noreferrer\">\
                    twitter.com ↗</a>) · 8,424 followers · posted 2011-05-26 18:23 UTC · \
                    in reply to twitter:855485181481934848</p>",
                "public": false,
            },
            "priority": "normal",
            "external_id": "khoros:1234:twitter:1",
            "tags": [
                "khoros",
                "khoros_twitter",
                "khoros_route_label",
                "khoros_type_post",
                "khoros_label_createcase",
                "khoros_initiative_5"
            ],
            "metadata": {
                "delivery": "khoros:1234:e:twitter:1",
                "eventUuid": "67c53595-efc3-46aa-963b-89650bd4bd98",
            },
        })
    );
}

#[test]
fn labels_and_notes() {
    let ticket = ticket(&item(json!({
        "entityId": "facebook:1_2", "text": "t", "labels": ["VIP - Gold!", "CreateCase", "日本"],
        "notes": [{"text": "call {{them}}", "createdByDisplayName": "Ann", "createdDate": "2017-04-12T09:01:11Z"},
                  {"text": "second"}],
    })));
    let body = seen(&ticket);
    let end = "\n\nLabels: CreateCase, VIP - Gold!, 日本\n\nKhoros notes (internal)\n\n\
        Ann, 2017-04-12 09:01 UTC: call {\u{2060}{them}}\n\nKhoros user: second";
    assert!(body.ends_with(end), "{body}");
    assert_eq!(
        ticket["tags"],
        json!([
            "khoros",
            "khoros_facebook",
            "khoros_route_label",
            "khoros_label_createcase",
            "khoros_label_vip_gold",
            "khoros_label_u65e5u672c"
        ])
    );
}

#[test]
fn an_item_without_text_is_a_ticket_that_says_so() {
    let ticket =
        ticket(&item(json!({"entityId": "instagram:1", "link": "https://i.example/p/1", "text": " "})));
    assert_eq!(ticket["subject"], "[Instagram] unknown author: (no text)");
    let start = "Open on i.example ↗ · reply there: a reply to this ticket does not reach the author · \
        labelled \"CreateCase\"\n\n(no text)\n\nUnknown author";
    assert_eq!(seen(&ticket), start);
}

#[test]
fn invisible_text_is_no_text() {
    for blank in
        ["\u{200b}", "\u{202e}\u{2066}", "\u{3164}\u{ad}\u{feff}\u{2060}", "\u{0}\u{1b}", "\u{e0001}\u{fe0f}"]
    {
        let ticket = ticket(&item(json!({
            "entityId": "twitter:1", "text": blank, "author": blank, "authorScreenName": blank,
            "authorId": "9", "authorLink": blank, "labels": [blank], "followerCount": blank,
            "notes": [{"text": blank, "createdByDisplayName": blank}],
        })));
        assert_eq!(ticket["subject"], "[Twitter] unknown author: (no text)");
        let expected = "No public link: find twitter:1 in Khoros · reply there: a reply to this ticket does not \
            reach the author · labelled \"CreateCase\"\n\n(no text)\n\nUnknown author\n\n\
            Khoros notes (internal)\n\nKhoros user: (no text)";
        assert_eq!(seen(&ticket), expected);
        let author = json!({"entityId": "twitter:1", "authorId": "9", "author": blank});
        assert_eq!(author_profile(&item(author)).unwrap().name, "Twitter user 9");
    }
}

#[test]
fn a_subject_is_one_line_of_at_most_150_graphemes() {
    let family = "👩‍👩‍👧‍👦";
    let ticket = ticket(&item(json!({"text": family.repeat(500), "author": "A\n\tB"})));
    let subject = ticket["subject"].as_str().unwrap();
    assert_eq!(subject.graphemes(true).count(), SUBJECT_GRAPHEMES);
    assert!(subject.starts_with("[Social] A B: 👩‍👩‍👧‍👦") && subject.ends_with("👦…"));
}

#[test]
fn placeholders_are_defused_everywhere() {
    let bomb = "{{ticket.requester.email}} {%if%} {{{x}}} {\u{0}{a}} {\r{";
    let ticket = ticket(&item(json!({
        "entityId": "twitter:1", "text": bomb, "author": bomb, "authorScreenName": bomb, "link": bomb,
        "authorLink": bomb, "createdDate": bomb, "followerCount": bomb, "inReplyTo": bomb,
        "labels": [bomb], "notes": [{"text": bomb, "createdByDisplayName": bomb, "createdDate": bomb}],
    })));
    let ticket = ticket.to_string();
    assert!(!ticket.contains("{{") && !ticket.contains("{%"), "{ticket}");
    assert!(ticket.contains("{\u{2060}{ticket.requester.email}}"), "only an invisible mark is added");
}

#[test]
fn control_characters_are_removed() {
    let ticket =
        ticket(&item(json!({"entityId": "twitter:1", "text": "a\u{0}b\u{1b}[31m\u{7f}\u{9b}\r\nc\td"})));
    assert!(seen(&ticket).contains("\n> ab[31m\n> c    d\n"), "{}", seen(&ticket));
}

#[test]
fn a_comment_fits_whatever_it_is_made_of() {
    for text in ["x", "é", "👩‍👩‍👧‍👦", "<", "&", "\"", "  ", "\n.", "{{", "e\u{301}", "https://t.example/"]
    {
        let long = format!("x{}x", text.repeat(COMMENT_BYTES / text.len() + 1));
        let ticket = ticket(&item(json!({
            "text": long, "link": long, "author": long, "authorScreenName": long, "authorLink": long,
            "createdDate": long, "followerCount": long, "inReplyTo": long,
            "labels": [long], "notes": [{"text": long, "createdByDisplayName": long}],
        })));
        let body = sent(&ticket);
        assert!(body.len() <= COMMENT_BYTES, "{} bytes of {text}", body.len());
        assert!(body.ends_with("</li></ul>"), "of {text}");
    }
}

#[test]
fn a_letter_with_endless_marks_is_cut_as_well() {
    let zalgo = format!("e{}", "\u{301}".repeat(300_000));
    let ticket = ticket(&item(json!({"entityId": "twitter:1", "text": zalgo, "author": "Jane"})));
    assert!(ticket["subject"].as_str().unwrap().chars().count() <= SUBJECT_CHARS);
    assert!(sent(&ticket).contains("e\u{301}\u{301}") && sent(&ticket).len() <= COMMENT_BYTES);
}

const AUTHOR: u64 = 77;
const SERVICE: u64 = 5;

fn settings(vars: &[(&str, &str)]) -> Ticket {
    let required = [
        ("SPREDFAST_API_TOKEN", "t"),
        ("SPREDFAST_COMPANY_ID", "1234"),
        ("SPREDFAST_LABEL_NAME", "CreateCase"),
        ("ZENDESK_API_URL", "https://acme.zendesk.com"),
        ("ZENDESK_OAUTH_CLIENT_ID", "casebridge"),
        ("ZENDESK_OAUTH_CLIENT_SECRET", "secret"),
        ("NOTIFICATION_BEARER_TOKEN", "0123456789abcdef"),
    ];
    let vars = required.iter().chain(vars).map(|(name, value)| (name.into(), value.into()));
    crate::config::Config::from_vars(vars).unwrap().destinations.zendesk.unwrap().ticket
}

fn whole_item() -> Item {
    item(json!({
        "entityId": "twitter:1", "text": "help", "link": "https://t.example/1", "author": "Jane Doe",
        "authorId": 42, "authorIcon": "https://t.example/jane.jpg", "authorScreenName": "@jane", "authorLink": "https://t.example/jane",
        "followerCount": "9", "createdDate": "2011-05-26T18:23:31.000Z", "inReplyTo": "twitter:0",
        "labels": ["VIP"], "notes": [{"text": "internal", "createdByDisplayName": "Ann"}],
    }))
}

fn rendered(item: &Item, settings: &Ticket, plan: Plan, service_user: Option<u64>) -> Rendered {
    render(&Draft {
        item,
        case_key: "case",
        delivery: "delivery",
        route: "label",
        label: "CreateCase",
        settings,
        plan,
        service_user,
    })
}

fn plan(author: Option<u64>, fields: Fields) -> Plan {
    let requester = author.map_or(RequesterUser::Service, RequesterUser::Author);
    Plan { requester, fields, follow_up: None }
}

/// The comment as it is sent.
fn sent(ticket: &Value) -> &str {
    ticket["comment"]["html_body"].as_str().unwrap()
}

/// The comment as a person sees it.
fn seen(ticket: &Value) -> String {
    html::visible_text(sent(ticket), "> ")
}

/// The plan, read from frozen bytes alone.
fn plan_of(bytes: &str, service_user: Option<u64>) -> Plan {
    legacy::decision(bytes, service_user, CaseMemory::default()).plan
}

#[test]
fn the_requester_and_the_author_of_the_comment() {
    let (private, public) = (settings(&[]), settings(&[("TICKET_PUBLIC", "1")]));
    for (settings, requester, service, expected) in [
        (&private, Some(AUTHOR), Some(SERVICE), (json!(AUTHOR), json!(SERVICE))),
        (&private, Some(AUTHOR), None, (json!(AUTHOR), Value::Null)),
        (&private, None, Some(SERVICE), (json!(SERVICE), json!(SERVICE))),
        (&private, None, None, (Value::Null, Value::Null)),
        (&public, Some(AUTHOR), Some(SERVICE), (json!(AUTHOR), json!(AUTHOR))),
        (&public, Some(AUTHOR), None, (json!(AUTHOR), json!(AUTHOR))),
        (&public, None, Some(SERVICE), (json!(SERVICE), json!(SERVICE))),
    ] {
        for fields in [Fields::Configured, Fields::Plain] {
            let plan = plan(requester, fields);
            let body = rendered(&whole_item(), settings, plan, service).ticket;
            let ticket = &body["ticket"];
            assert_eq!((ticket["requester_id"].clone(), ticket["submitter_id"].clone()), expected);
            assert_eq!(plan_of(&body.to_string(), service), plan);
        }
    }
    let pending = Plan { requester: RequesterUser::Pending, ..plan(None, Fields::Plain) };
    let body = rendered(&whole_item(), &private, pending, Some(SERVICE)).ticket;
    assert_eq!(body["ticket"]["requester_id"], SERVICE);
    assert!(body["ticket"]["tags"].as_array().unwrap().contains(&json!(NO_AUTHOR_TAG)));
    assert_eq!(plan_of(&body.to_string(), Some(SERVICE)), pending);
    for odd in ["", "[]", "{}"] {
        assert_eq!(plan_of(odd, Some(SERVICE)), plan(None, Fields::Configured));
    }
}

#[test]
fn a_plain_ticket_has_none_of_the_accounts_own_fields() {
    let settings = settings(&[
        ("TICKET_GROUP_ID", "1"),
        ("TICKET_ASSIGNEE_ID", "2"),
        ("TICKET_BRAND_ID", "3"),
        ("TICKET_FORM_ID", "4"),
        ("TICKET_CUSTOM_FIELDS", r#"{"5": "{{ author.name }}", "6": 1.50, "7": "{{ item.parentPost }}"}"#),
        ("TICKET_TYPE", "task"),
        ("TICKET_STATUS", "hold"),
        ("TICKET_TAGS", "vip"),
    ]);
    let own = ["group_id", "assignee_id", "brand_id", "ticket_form_id", "custom_fields", "type", "status"];
    let full = rendered(&whole_item(), &settings, plan(None, Fields::Configured), None).ticket;
    assert!(own.iter().all(|name| !full["ticket"][name].is_null()), "{full}");
    let custom = full["ticket"]["custom_fields"].to_string();
    assert_eq!(custom, r#"[{"id":5,"value":"Jane Doe"},{"id":6,"value":1.50}]"#);
    let plain = rendered(&whole_item(), &settings, plan(None, Fields::Plain), None).ticket;
    assert!(own.iter().all(|name| plain["ticket"].get(name).is_none()), "{plain}");
    let tags = json!([
        "khoros",
        "khoros_twitter",
        "khoros_route_label",
        "khoros_label_createcase",
        "khoros_label_vip",
        "vip",
        FALLBACK_TAG
    ]);
    assert_eq!(plain["ticket"]["tags"], tags);
}

#[test]
fn configured_tags_are_never_cut_away() {
    let settings = settings(&[("TICKET_TAGS", "last")]);
    let labels: Vec<String> = (0..50).map(|n| format!("label {n}")).collect();
    let item = item(json!({"text": "t", "labels": labels}));
    let body = rendered(&item, &settings, plan(None, Fields::Plain), None).ticket;
    let tags = body["ticket"]["tags"].as_array().unwrap();
    assert_eq!(tags.len(), TAGS + 2);
    assert_eq!(&tags[TAGS..], [json!("last"), json!(FALLBACK_TAG)]);
}

#[test]
fn a_public_comment_has_nothing_internal() {
    let public = settings(&[("TICKET_PUBLIC", "1")]);
    let body = rendered(&whole_item(), &public, plan(None, Fields::Configured), None).ticket;
    assert_eq!(
        seen(&body["ticket"]),
        "Open on t.example ↗\n\n> help\n\nJane Doe (@jane · t.example ↗) · posted 2011-05-26 18:23 UTC · \
         in reply to twitter:0"
    );
    assert_eq!(body["ticket"]["comment"]["public"], true);
    let template = ("TICKET_COMMENT", "{{ item.notes|length }} {{ item.labels|join }}");
    let own = settings(&[("TICKET_PUBLIC", "1"), template]);
    let body = rendered(&whole_item(), &own, plan(Some(AUTHOR), Fields::Configured), None).ticket;
    assert_eq!(seen(&body["ticket"]), "> 0 VIP");
    let own = settings(&[template]);
    let body = rendered(&whole_item(), &own, plan(Some(AUTHOR), Fields::Configured), None).ticket;
    assert_eq!(seen(&body["ticket"]), "> 1 VIP");
}

#[test]
fn the_author_is_somewhere_on_the_ticket() {
    let comment = |vars: &[(&str, &str)], requester, item: &Item| {
        let body = rendered(item, &settings(vars), plan(requester, Fields::Configured), None).ticket;
        seen(&body["ticket"])
    };
    let template = ("TICKET_COMMENT", "{{ item.text }}");
    let lines = "> help\n\nJane Doe (@jane) · https://t.example/jane";
    assert_eq!(comment(&[template], None, &whole_item()), lines);
    assert_eq!(comment(&[template], Some(AUTHOR), &whole_item()), "> help");
    assert_eq!(comment(&[template, ("TICKET_REQUESTER", "service")], None, &whole_item()), "> help");
    assert_eq!(comment(&[template], None, &item(json!({"text": "help"}))), "> help");
    let long = item(json!({"text": "&".repeat(COMMENT_BYTES), "author": "Jane"}));
    let cut = comment(&[template], None, &long);
    assert!(cut.ends_with(" more characters)\n\nJane"), "{cut}");
}

#[test]
fn templates_are_cleaned_and_cut_and_never_leave_a_ticket_empty() {
    let vars = [("TICKET_SUBJECT", "{{ item.text }}"), ("TICKET_COMMENT", "{{ item.text }}")];
    let of = |text: &str| {
        let item = item(json!({"entityId": "twitter:1", "text": text, "link": "https://t.example"}));
        rendered(&item, &settings(&vars), plan(Some(1), Fields::Configured), None).ticket["ticket"].clone()
    };
    let ticket = of("{{a}} \u{0}{\u{1}{b}}\nnext line");
    assert_eq!(ticket["subject"], "{\u{2060}{a}} {\u{2060}{b}} next line");
    assert_eq!(seen(&ticket), "> {\u{2060}{a}} {\u{2060}{b}}\n> next line");
    let ticket = of(&"long ".repeat(40_000));
    assert_eq!(ticket["subject"].as_str().unwrap().graphemes(true).count(), SUBJECT_GRAPHEMES);
    assert!(sent(&ticket).len() <= COMMENT_BYTES);
    let ticket = of(" ");
    assert_eq!(ticket["subject"], "[Twitter] unknown author: (no text)");
    assert!(seen(&ticket).contains("\n(no text)\n"));
}

#[test]
fn an_html_template_escapes_its_values() {
    const LINK: &str = "<a href=\"https://t.example/%3Cb%3E\" rel=\"noopener noreferrer\">\
                        https://t.example/&lt;b&gt;</a>";
    let format = ("TICKET_COMMENT_FORMAT", "html");
    let of = |template: &str, text: &str| {
        let item = item(json!({"entityId": "twitter:1", "text": text}));
        let settings = settings(&[("TICKET_COMMENT", template), format]);
        let Rendered { ticket, failures, .. } =
            rendered(&item, &settings, plan(Some(1), Fields::Configured), None);
        (sent(&ticket["ticket"]).to_owned(), failures)
    };
    for (template, text, expected) in [
        ("<h2>{{ item.text }}</h2>", "<b>a</b>\n  c", "<h2>&lt;b&gt;a&lt;/b&gt;<br>&nbsp;&nbsp;c</h2>"),
        ("<p title=\"{{ item.text }}\">x</p>", "\"'", "<p title=\"&quot;&#39;\">x</p>"),
        ("{{ item.text|upper }}{{ item.text|e }}", "<i>", "&lt;I&gt;&lt;i&gt;"),
        ("{% set x %}<i>{{ item.text }}</i>{% endset %}{{ x }}", "<b>", "<i>&lt;b&gt;</i>"),
        ("{{ '<br>' }}{{ item.text|replace('a', '<i>') }}", "a", "&lt;br&gt;&lt;i&gt;"),
        ("{{ item.text }}{{ item.text }}", "{", "{\u{2060}{"),
        ("{{ item.text|link }}", "javascript:alert('1')", "javascript:alert(&#39;1&#39;)"),
        ("{{ item.text|link }}", "https://t.example/<b>", LINK),
    ] {
        assert_eq!(of(template, text), (expected.to_owned(), vec![]), "{template}");
    }
    let (built_in, failures) = of("<p>{{ item.text }}</p>", &"x".repeat(COMMENT_BYTES));
    assert!(built_in.contains("</p><blockquote>xxx"));
    assert_eq!(failures, ["TICKET_COMMENT: the rendered HTML is longer than a comment may be"]);
    assert!(of("<p><br></p>&nbsp;", "seen").0.contains("seen"), "nobody would see anything");
}

#[test]
fn a_failed_template_is_reported_without_text_of_the_post() {
    let failing = "\n{{ item.followerCount|int + 1 }}";
    let custom = format!(r#"{{"5": ["{}", "sure"], "6": "{0}"}}"#, failing.trim());
    let vars =
        [("TICKET_SUBJECT", "{{ item.followerCount|int + 1 }}"), ("TICKET_CUSTOM_FIELDS", custom.as_str())];
    let item = item(json!({"entityId": "twitter:1", "text": "t", "followerCount": "zebra"}));
    let Rendered { ticket, failures, .. } =
        rendered(&item, &settings(&vars), plan(None, Fields::Configured), None);
    assert_eq!(ticket["ticket"]["subject"], "[Twitter] unknown author: t");
    assert_eq!(ticket["ticket"]["custom_fields"], json!([{"id": 5, "value": ["sure"]}]));
    assert_eq!(
        failures,
        [
            "TICKET_SUBJECT: invalid operation in line 1",
            "TICKET_CUSTOM_FIELDS: field 5: invalid operation in line 1",
            "TICKET_CUSTOM_FIELDS: field 6: invalid operation in line 1",
        ]
    );
}

#[test]
fn a_follow_up_names_the_closed_ticket() {
    let settings = Ticket::default();
    let item = whole_item();
    let draft = Draft {
        item: &item,
        case_key: "case",
        delivery: "delivery",
        route: "label",
        label: "CreateCase",
        settings: &settings,
        plan: Plan { follow_up: Some(4711), ..plan(None, Fields::Configured) },
        service_user: None,
    };
    let body = render(&draft).ticket;
    assert_eq!(body["ticket"]["via_followup_source_id"], 4711);
    assert_eq!(plan_of(&body.to_string(), None), draft.plan);
    assert_eq!(body.to_string(), render(&draft).ticket.to_string());
}

#[test]
fn the_author_as_a_user() {
    let profile = |fields: Value| author_profile(&item(fields));
    assert_eq!(
        author_profile(&whole_item()),
        Some(Profile {
            key: "khoros:twitter:42".to_owned(),
            name: "Jane Doe".to_owned(),
            details: "Profile: https://t.example/jane\nHandle: @jane".to_owned(),
            photo: Some("https://t.example/jane.jpg".to_owned()),
        })
    );
    for (fields, key, name) in [
        (
            json!({"entityId": "Twitter:1", "authorId": "2", "authorScreenName": "@@jane"}),
            "khoros:twitter:2",
            "jane",
        ),
        (
            json!({"entityId": "linkedin:1", "authorId": "2", "author": "\u{1}"}),
            "khoros:linkedin:2",
            "LinkedIn user 2",
        ),
        (
            json!({"entityId": "x:1", "authorId": "2", "author": " A\n{{b}} "}),
            "khoros:x:2",
            "A {\u{2060}{b}}",
        ),
    ] {
        let profile = profile(fields).unwrap();
        assert_eq!((profile.key.as_str(), profile.name.as_str()), (key, name));
    }
    let strange =
        profile(json!({"entityId": "twitter:1", "authorId": "été", "author": "é".repeat(300)})).unwrap();
    assert!(strange.key.starts_with("sha256:") && strange.name.chars().count() == USER_NAME_CHARS);
    assert_eq!((strange.details.as_str(), strange.photo), ("", None));
    assert_eq!(profile(json!({"entityId": "twitter:1", "author": "Jane"})), None);
    assert_eq!(profile(json!({"text": "t", "authorId": "2"})), None);
}

#[test]
fn a_lost_account_is_urgent_and_internal() {
    let json = include_str!("../../../../tests/fixtures/credential-deauth-instagram.json");
    let of = |vars: &[(&str, &str)], fields| {
        let plan = plan(None, fields);
        rendered(&published(json), &settings(vars), plan, Some(SERVICE)).ticket["ticket"].clone()
    };
    for (vars, fields, priority) in [
        (&[][..], Fields::Configured, "high"),
        (&[], Fields::Plain, "high"),
        (&[("TICKET_PRIORITY", "low")], Fields::Configured, "low"),
    ] {
        assert_eq!(of(vars, fields)["priority"], priority);
    }
    let public = of(&[("TICKET_PUBLIC", "1"), ("TICKET_COMMENT", "{{ item.text }}")], Fields::Configured);
    assert_eq!(public["comment"]["public"], false);
    let start = "Re-authorize the account in Khoros: Company Settings > Accounts.\n\
        Down since 2018-03-14 00:31 UTC. Khoros neither publishes to this account nor receives from it. \
        Khoros can no longer use this account";
    assert!(seen(&public).starts_with(start), "{}", seen(&public));
}

#[test]
fn events_without_a_post_are_cleaned_and_cut() {
    for filler in ["{{x}}&\u{0}", "\n.", "👩‍👩‍👧‍👦"] {
        let long = filler.repeat(COMMENT_BYTES / filler.len() + 1);
        let event = json!({"eventName": "message-needs-approval", "eventUuid": "e", "data": {
            "id": "1", "title": long, "content": {"text": format!("t{long}")}, "service": long,
            "status": long, "labels": [long], "notes": [long], "scheduledPublishDate": long,
            "publicationResults": vec![json!({"serviceLink": long, "status": "ERROR"}); 12],
        }});
        let ticket = ticket(&published(&event.to_string()));
        let body = sent(&ticket);
        assert!(body.len() <= COMMENT_BYTES, "{} bytes", body.len());
        assert!(body.starts_with("<p><strong>Approve or reject the message in Khoros.</strong>"));
        assert!(ticket["subject"].as_str().unwrap().graphemes(true).count() <= SUBJECT_GRAPHEMES);
        assert!(!ticket.to_string().contains("{{"));
    }
}

fn item_of_length(length: usize) -> Item {
    item(json!({"text": "<".repeat(length)}))
}

#[test]
fn times_are_those_of_the_configured_zone() {
    let settings = settings(&[("TICKET_TIME_ZONE", "Europe/Berlin")]);
    let json = json!({"eventUuid": "e", "createdDate": "Thu May 26 22:30:00 UTC 2011", "data": {"items": [{
        "entityId": "twitter:1", "text": "t", "createdDate": "2011-05-26T22:05:00Z",
        "notes": [{"text": "n", "createdByDisplayName": "Ann", "createdDate": "2011-05-26T21:05:00Z"}],
    }]}});
    let Rendered { ticket, notes, .. } =
        rendered(&published(&json.to_string()), &settings, plan(None, Fields::Configured), None);
    let seen = seen(&ticket["ticket"]);
    assert!(seen.contains("labelled \"CreateCase\" at 2011-05-27 00:30 CEST\n"), "{seen}");
    assert!(seen.contains(" · posted 00:05\n") && seen.ends_with("Ann, 2011-05-26 23:05 CEST: n"), "{seen}");
    assert_eq!(notes.len(), 1, "a short note is recognized by its author and its time");
}

#[test]
fn a_comment_names_the_post_it_belongs_to() {
    let last = |fields: Value| {
        let mut all = json!({"entityId": "facebook:1", "text": "t", "author": "Bob"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        seen(&ticket(&item(all))).lines().last().unwrap().to_owned()
    };
    for (fields, expected) in [
        (json!({"contentType": "comment", "parentPost": "facebook:2"}), "Bob · comment on facebook:2"),
        (
            json!({"contentType": "comment", "parentPost": "facebook:2", "inReplyTo": "facebook:3"}),
            "Bob · comment on facebook:2 · in reply to facebook:3",
        ),
        (json!({"inReplyTo": "x:2", "parentPost": "x:3"}), "Bob · in reply to x:2 · part of x:3"),
        (json!({"inReplyTo": "x:2", "parentPost": "x:2", "repostedFrom": "x:2"}), "Bob · in reply to x:2"),
        (json!({"repostedFrom": "https://x.example/4"}), "Bob · repost of x.example ↗"),
        (json!({"followerCount": "1"}), "Bob · 1 follower"),
    ] {
        assert_eq!(last(fields), expected);
    }
}

#[test]
fn notes_fold_after_20() {
    let notes: Vec<Value> = (0..500).map(|n| json!({"text": format!("this is note {n}.")})).collect();
    let item = item(json!({"entityId": "twitter:1", "text": "t", "notes": notes}));
    let rendered = rendered(&item, &Ticket::default(), plan(None, Fields::Configured), None);
    let seen = seen(&rendered.ticket["ticket"]);
    assert!(seen.ends_with("\n\nKhoros user: this is note 19.\n\n… and 480 more in Khoros"), "{seen}");
    assert_eq!(rendered.notes.len(), 20);
}

#[test]
fn a_long_name_of_a_rule_is_clipped() {
    let json = json!({"eventName": "rule-applied", "eventUuid": "e", "data": {
        "ruleMatched": {"ruleName": "Angry ".repeat(50)}, "items": [{"entityId": "twitter:1", "text": "late"}],
    }});
    let ticket = ticket(&published(&json.to_string()));
    let subject = ticket["subject"].as_str().unwrap();
    assert!(subject.starts_with("[Twitter] Rule \"Angry Angry ") && subject.ends_with(": late"), "{subject}");
    let tags = ticket["tags"].as_array().unwrap();
    let rule = tags.iter().find_map(|tag| tag.as_str().filter(|tag| tag.starts_with("khoros_rule_angry")));
    assert_eq!(rule.unwrap().len(), TAG_LENGTH);
}

/// What a post's author chose must not read as a line of ours.
#[test]
fn names_are_kept_apart_from_our_words() {
    let of = |fields: Value| {
        let mut all = json!({"entityId": "facebook:1", "text": "t"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ticket(&item(all))
    };
    let ticket = of(json!({"authorScreenName": "jane in Khoros · approved: refund"}));
    assert!(seen(&ticket).starts_with("No public link: find facebook:1 in Khoros · reply there"));
    let ticket = of(json!({"author": "Jane (@jane) · 9 followers", "link": "https://t.example/1\n"}));
    assert!(sent(&ticket).contains("<p><strong>Jane (@jane) · 9 followers</strong></p>"), "{ticket}");
    assert!(seen(&ticket).starts_with("Open on t.example ↗ · "));
    let ticket = of(
        json!({"author": "שרה", "followerCount": "8424", "notes": [{"text": "18:00", "createdByDisplayName": "דנה"}]}),
    );
    assert!(sent(&ticket).contains("<strong>שרה&lrm;</strong> · 8,424 followers"), "{ticket}");
    assert!(sent(&ticket).ends_with("<li>דנה&lrm;: 18:00</li></ul>"), "{ticket}");
}

#[test]
fn a_public_comment_names_neither_rule_nor_khoros() {
    let public = settings(&[("TICKET_PUBLIC", "1")]);
    let json = json!({"eventName": "rule-applied", "eventUuid": "e", "createdDate": "Thu May 26 18:30:00 UTC 2011",
    "data": {"ruleMatched": {"ruleName": "Angry"}, "items": [
        {"entityId": "facebook:1", "text": "late", "author": "Bob", "createdDate": "2011-05-26T18:23:31Z"},
    ]}});
    let body =
        rendered(&published(&json.to_string()), &public, plan(Some(1), Fields::Configured), None).ticket;
    assert_eq!(body["ticket"]["subject"], "[Facebook] Bob: late");
    assert_eq!(seen(&body["ticket"]), "> late\n\nBob · posted 2011-05-26 18:23 UTC");
}
