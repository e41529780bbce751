//! What the documentation says is true.

use super::*;
use crate::env::doc::{Doc, Group, Kind, ROUTE};

fn all() -> impl Iterator<Item = (&'static Group, &'static Doc)> {
    sections()
        .flat_map(|section| section.groups)
        .flat_map(|group| group.settings.iter().map(move |doc| (group, doc)))
}

/// Everything that has a default, as text.
fn defaults_of(config: &Config) -> String {
    let Config { khoros, general, .. } = config;
    let zendesk = zendesk(config);
    let general = (
        (general.port, general.listen, general.http_idle, general.mode, general.public_url_probe),
        (&general.delivery.retry_schedule, general.delivery.lease, general.retention),
    );
    let khoros = (khoros.api_url.as_str(), khoros.check_every, khoros.poll_every);
    let zendesk = (zendesk.budget_percent, zendesk.update_budget_percent, &zendesk.ticket);
    let database = config.database.to_string();
    let route = &config.general.routes[0];
    format!("{general:?} {khoros:?} {zendesk:?} {database} {route:?}")
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let set = all().filter(|(group, _)| group.prefix != ROUTE);
    let set = set.filter_map(|(group, doc)| match doc.kind {
        Kind::Default(value) => Some((group.name(doc), value)),
        _ => None,
    });
    let unused = ["WEBHOOK_PAYLOAD", "FLOW_CHANNEL_NAME", "FLOW_API_URL"];
    let is_used = |name: &str| {
        !unused.contains(&name) && !["SLACK_", "TWILIO_"].iter().any(|prefix| name.starts_with(prefix))
    };
    let set: Vec<(String, &str)> = set.filter(|(name, _)| is_used(name)).collect();
    let set: Vec<(&str, &str)> = set.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert!(set.len() > 20);
    assert_eq!(defaults_of(&accepted(&set)), defaults_of(&accepted(&[])));
}

#[test]
fn the_examples_are_accepted() {
    let examples = all().filter(|(_, doc)| !doc.example.is_empty());
    let examples = examples.map(|(group, doc)| (group.name(doc).replace("<NAME>", "VIP"), doc.example));
    let examples: Vec<(String, &str)> = examples.collect();
    let mut set: Vec<(&str, &str)> = examples.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    // The secrets that they need; secrets have no examples.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    set.extend([("WEBHOOK_SECRET", SECRET), ("ALERT_WEBHOOK_SECRET", SECRET), ("FLOW_API_KEY", "flow-key")]);
    set.extend([
        ("SLACK_BOT_TOKEN", "xoxb-slack-token"),
        ("TWILIO_ACCOUNT_SID", "AC0123456789abcdef0123456789abcdef"),
        ("TWILIO_AUTH_TOKEN", "twilio-token"),
    ]);
    let config = accepted(&set);
    let places: Vec<_> = config.general.routes.iter().map(|route| (&route.to[..], &route.then[..])).collect();
    assert_eq!(places, [(&["zendesk", "webhook"][..], &["flow"][..]), (&["webhook"], &["flow"])]);
}

#[test]
fn every_name_is_listed_once_and_is_plain() {
    let mut names: Vec<String> = all().map(|(group, doc)| group.name(doc)).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    for (group, doc) in all() {
        let text = doc.meaning();
        assert!(text.ends_with('.') && !text.contains('|'), "{}: {text}", group.name(doc));
    }
}
