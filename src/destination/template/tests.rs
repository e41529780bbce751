use serde_json::{Value, json};

use super::*;
use crate::delivery::Cause;

fn item(fields: Value) -> Item {
    let json = json!({"eventName": "e", "data": {"items": [fields]}});
    crate::source::item(&json.to_string()).unwrap()
}

fn context(item: &Item, label: &str, route: &str) -> Context {
    Context::new(&Subject {
        item,
        label,
        route,
        is_public: false,
        notes: &item.notes,
        more_notes: 0,
        time_zone: &TimeZone::UTC,
    })
}

fn rendered(text: &str, fields: Value) -> Result<String, String> {
    Template::new("T", text).unwrap().render(&context(&item(fields), "CreateCase", "label"))
}

#[test]
fn the_names_have_the_values_of_the_item() {
    let fields = json!({
        "entityId": "twitter:1:2", "text": "<b>&\"{{ label }}", "author": "Jane", "authorId": 42,
        "authorScreenName": "jane", "authorLink": "https://t.example/jane", "followerCount": "8424",
        "initiativeIds": [5, 123456789012345678901234567890u128 as f64], "labels": "VIP",
        "notes": [{"text": "n", "createdByDisplayName": "Ann"}],
    });
    for (text, expected) in [
        ("Case from Social Network {{ item.entityId }}", "Case from Social Network twitter:1:2"),
        ("{{ item.text }}", "<b>&\"{{ label }}"),
        (
            "{{ author.id }} {{ author.name }} {{ author.screen_name }} {{ author.network }}",
            "42 Jane jane twitter",
        ),
        ("{{ author.link }} {{ author.followers }}", "https://t.example/jane 8424"),
        ("{{ event }} {{ label }} {{ route }}", "e CreateCase label"),
        ("{{ item.followerCount > 10000 }} {{ author.followers > 8000 }}", "False True"),
        ("{{ item.initiativeIds[0] }}", "5"),
        ("{{ item.labels|join(', ') }}", "VIP"),
        ("{% for n in item.notes %}{{ n.createdByDisplayName }}:{{ n.text }} {% endfor %}", "Ann:n "),
        (
            "{% if item.followerCount|int > 1000 %}many{% else %}few{% endif %}{{ \"\\n\" }}{{ item.followerCount|int + 1 }}",
            "many\n8425",
        ),
        (
            "{% for name, value in item|items %}{% if name == 'text' %}{{ name }}{% endif %}{% endfor %}",
            "text",
        ),
        (
            "{% set first = item.text|first %}{{ first|upper }}{{ item['entityId']|replace('twitter:', '') }}",
            "<1:2",
        ),
    ] {
        assert_eq!(rendered(text, fields.clone()).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn missing_values_are_empty() {
    for name in template_names() {
        let text = format!("[{{% if {name} %}}{{{{ {name} }}}}{{% endif %}}]");
        let expected = match name.as_str() {
            "item.text" | "text" => "[t]",
            "event_kind" => "[other]",
            "event" | "event.name" => "[e]",
            "label" => "[CreateCase]",
            "route" => "[label]",
            _ => "[]",
        };
        assert_eq!(rendered(&text, json!({"text": "t", "link": null})).as_deref(), Ok(expected), "{name}");
    }
}

#[test]
fn the_sample_has_every_field() {
    let sample = samples::post("8424");
    let cause = Cause {
        reference: "7".to_owned(),
        number: "7".to_owned(),
        url: "https://example.com/7".to_owned(),
        action: "created".to_owned(),
    };
    let context =
        context(&sample, "Label", "route").with_cause(&cause).with_changes(true, true, &sample.notes);
    for name in template_names() {
        let template = Template::new("T", &format!("{{{{ {name} }}}}")).unwrap();
        assert!(!template.render(&context).unwrap().trim_matches(['[', ']']).is_empty(), "{name}");
    }
}

#[test]
fn numbers_keep_their_digits() {
    let digits = "123456789012345678901234567890";
    let json = format!(r#"{{"data":{{"items":[{{"text":"t","authorIcon":{digits},"contentType":1.50}}]}}}}"#);
    let item = crate::source::item(&json).unwrap();
    let template = Template::new("T", "{{ item.authorIcon }} {{ item.contentType }}").unwrap();
    let rendered = template.render(&context(&item, "l", "r")).unwrap();
    assert_eq!(rendered, format!("{digits} 1.50"));
}

#[test]
fn mistakes_are_found_at_once() {
    for (text, expected) in [
        ("{{ item.text", "syntax error in line 1"),
        ("a\n{% if %}", "syntax error in line 2"),
        ("{% include 'x' %}", "syntax error in line 1"),
        (
            "{{ item.entityID }}",
            "unknown names: `item.entityID`; known names: item.sfEntityType, item.entityId,",
        ),
        ("{{ author.screenName }}", "unknown names: `author.screenName`; known names:"),
        ("{{ a }}{{ b.c }}", "unknown names: `a`, `b.c`; known names:"),
        ("{% if false %}{{ ticket.id }}{% endif %}", "unknown names: `ticket.id`"),
        ("{{ item['entityID'] }}", "undefined value in line 1"),
        ("{{ label.length }}", "undefined value in line 1"),
        ("\n\n{{ item.text|shout }}", "unknown filter in line 3: filter shout is unknown"),
        ("{{ item.text is loud }}", "unknown test in line 1"),
        ("{% if not item.inReplyTo %}{{ item.text|shout }}{% endif %}", "unknown filter in line 1"),
        ("{% if not item.notes %}{{ item.text.upper() }}{% endif %}", "unknown method in line 1"),
        ("{{ shout(item.text) }}", "unknown names: `shout`"),
        (
            "{{ event.time }}{% if event == 'e' %}{% endif %}",
            "in a template that uses a field of `event`, write `event.name`",
        ),
        (
            "{{ event.time }}{{ event in ['e'] }}",
            "in a template that uses a field of `event`, write `event.name`",
        ),
        (
            "{{ event.time }}{{ 'e' == event }}",
            "in a template that uses a field of `event`, write `event.name`",
        ),
        ("{{ debug() }}", "unknown names: `debug`"),
        ("{{ item.text.upper() }}", "unknown method in line 1"),
        ("{{ '=' * author.followers }}", "invalid operation in line 1: repeated string is too large"),
        ("{{ item.text|indent(item.followerCount) }}", "invalid operation in line 1: a width is larger"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "too many steps"),
    ] {
        let error = Template::new("T", text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn an_event_is_its_name_and_has_fields() {
    for text in [
        "{{ event }} {{ event.name }}",
        "{{ event ~ ' ' ~ event.name }}",
        "{% if event == 'e' %}e e{% endif %}",
    ] {
        assert_eq!(rendered(text, json!({"text": "t"})).as_deref(), Ok("e e"), "{text}");
    }
}

#[test]
fn a_failure_reveals_nothing_of_the_item() {
    let error = rendered("{{ item.text|int if item.text != 'Text' }}", json!({"text": "zebra"})).unwrap_err();
    assert_eq!(error, "invalid operation in line 1");
}

#[test]
fn a_template_takes_no_more_memory_than_its_bounds() {
    let text = "a\n".repeat(1 << 20);
    let fields = json!({"text": text, "author": text, "notes": vec![json!({"text": &text[..1000]}); 2000]});
    for template in [
        "{{ item.text|replace('a', item.text) }}",
        "{{ item.notes|map(attribute='text')|join(item.text) }}",
        "{{ author.name|indent(1000) }}",
        "{% for note in item.notes %}{{ item.text|replace('a', note.text) }}{% endfor %}",
    ] {
        let made = rendered(template, fields.clone()).unwrap();
        assert!((900..=OUTPUT_BYTES).contains(&made.len()), "{template}: {}", made.len());
    }
}

#[test]
fn no_template_makes_more_than_a_ticket_takes() {
    let text = "é".repeat(OUTPUT_BYTES);
    let all =
        rendered("x{% for n in range(500) %}{{ item.text }}{% endfor %}", json!({"text": text})).unwrap();
    assert!((OUTPUT_BYTES - 2..=OUTPUT_BYTES).contains(&all.len()));
    assert!(all.starts_with("xé") && all.ends_with('é'));
}
