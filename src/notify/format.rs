//! The bodies of notices, in the formats of their receivers.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::notice::{Notice, REMEDIES, Status};
use crate::destination::slack::escape;
use crate::json::hex;

/// The limit of PagerDuty's `summary`, in characters.
const PAGERDUTY_SUMMARY: usize = 1024;

/// A message of a Slack incoming webhook
/// (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>).
pub fn slack(notice: &Notice) -> Value {
    let sign = match notice.status {
        Status::Firing => ":red_circle:",
        Status::Resolved => ":white_check_mark:",
    };
    let (summary, description) = (escape(&notice.summary()), escape(&notice.description()));
    let remedy = match notice.status {
        Status::Firing => format!("\nWhat to do: {} in {REMEDIES}", notice.code),
        Status::Resolved => String::new(),
    };
    // Without mrkdwn, no character of a reason changes how the text looks.
    json!({ "text": format!("{sign} {summary}\n{description}{remedy}"), "mrkdwn": false })
}

/// A payload of Standard Webhooks: `type`, `timestamp`, `data`.
pub fn standard(notice: &Notice) -> Value {
    json!({
        "type": format!("casebridge.alert.{}", notice.status.name()),
        "timestamp": notice.until.unwrap_or(notice.since).to_string(),
        "data": {
            "id": notice.id,
            "alert": notice.code,
            "subject": notice.subject,
            "severity": notice.severity,
            "summary": notice.summary(),
            "detail": notice.detail,
            "since": notice.since.to_string(),
            "until": notice.until.map(|until| until.to_string()),
            "remedy": REMEDIES,
            "deployment": notice.deployment,
        },
    })
}

/// What Alertmanager sends to a webhook receiver, version 4
/// (<https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>).
pub fn alertmanager(notice: &Notice) -> Value {
    let labels = json!({
        "alertname": notice.code,
        "severity": notice.severity,
        "service": "casebridge",
        "instance": notice.deployment,
        "subject": notice.subject,
    });
    let annotations = json!({
        "summary": notice.summary(),
        "description": notice.description(),
    });
    // Alertmanager's zero time: it has not ended.
    let ends = notice.until.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |until| until.to_string());
    let fingerprint = hex(Sha256::digest(key(notice)));
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname=\"{}\", subject=\"{}\"}}", notice.code, notice.subject),
        "truncatedAlerts": 0,
        "status": notice.status.name(),
        "receiver": "casebridge",
        "groupLabels": { "alertname": notice.code, "subject": notice.subject },
        "commonLabels": labels,
        "commonAnnotations": annotations,
        // A receiver expects these; no page of ours has an address that everybody can open.
        "externalURL": "",
        "alerts": [{
            "status": notice.status.name(),
            "labels": labels,
            "annotations": annotations,
            "startsAt": notice.since.to_string(),
            "endsAt": ends,
            "generatorURL": "",
            "fingerprint": format!("{fingerprint:.16}"),
        }],
    })
}

/// An event of PagerDuty's Events API v2
/// (<https://developer.pagerduty.com/docs/send-alert-event>). With the same `dedup_key`, a repeated trigger changes
/// nothing, and the resolve finds its incident.
pub fn pagerduty(notice: &Notice, routing_key: &str) -> Value {
    let action = match notice.status {
        Status::Firing => "trigger",
        Status::Resolved => "resolve",
    };
    let summary: String = notice.summary().chars().take(PAGERDUTY_SUMMARY).collect();
    let timestamp: Timestamp = notice.since;
    json!({
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": key(notice),
        "payload": {
            "summary": summary,
            "source": format!("casebridge {}", notice.deployment),
            "severity": notice.severity,
            "timestamp": timestamp.to_string(),
            "component": notice.subject,
            "class": notice.code,
            "custom_details": { "detail": notice.detail, "since": timestamp.to_string(), "remedy": REMEDIES },
        },
        "client": "casebridge",
    })
}

/// Identifies an alert in all its notices. PagerDuty allows 255 characters.
fn key(notice: &Notice) -> String {
    let Notice { deployment, code, subject, .. } = notice;
    let key = format!("casebridge/{deployment}/{code}/{subject}");
    match key.len() {
        ..=255 => key,
        _ => format!("casebridge/{}", hex(Sha256::digest(key))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn notice() -> Notice {
        Notice {
            id: "alert_1".to_owned(),
            status: Status::Firing,
            code: "ticket_storm".to_owned(),
            subject: "vip".to_owned(),
            severity: "error".to_owned(),
            meaning: "A route has made as many tickets in an hour as it may.".to_owned(),
            detail: "<!channel> & more".to_owned(),
            since: "2026-11-26T10:00:00Z".parse().unwrap(),
            until: None,
            deployment: "0123456789abcdef0123456789abcdef".to_owned(),
        }
    }

    fn over() -> Notice {
        Notice { status: Status::Resolved, until: "2026-11-26T10:05:00Z".parse().ok(), ..notice() }
    }

    fn names(json: &Value) -> BTreeSet<&str> {
        json.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn slack_mentions_nobody() {
        let text = slack(&notice())["text"].as_str().unwrap_or_default().to_owned();
        assert!(text.contains("&lt;!channel&gt; &amp; more"), "{text}");
        assert!(!text.contains('<'), "{text}");
    }

    /// The example in Alertmanager's documentation, with all fields of version 4.
    #[test]
    fn alertmanager_has_the_fields_of_the_published_example() {
        let example: Value =
            serde_json::from_str(include_str!("../../tests/fixtures/alerts/alertmanager.json")).unwrap();
        for notice in [notice(), over()] {
            let ours = alertmanager(&notice);
            assert_eq!(names(&ours), names(&example));
            assert_eq!(names(&ours["alerts"][0]), names(&example["alerts"][0]));
            assert_eq!(ours["version"], example["version"]);
        }
        assert_eq!(alertmanager(&notice())["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
        assert_eq!(alertmanager(&over())["status"], "resolved");
    }

    /// The example in PagerDuty's documentation: we may leave out optional fields, and add none.
    #[test]
    fn pagerduty_has_fields_of_the_published_example() {
        let example: Value =
            serde_json::from_str(include_str!("../../tests/fixtures/alerts/pagerduty.json")).unwrap();
        let ours = pagerduty(&notice(), "R");
        assert!(names(&ours).is_subset(&names(&example)), "{ours}");
        assert!(names(&ours["payload"]).is_subset(&names(&example["payload"])), "{ours}");
        let resolve = pagerduty(&over(), "R");
        assert_eq!(
            (&resolve["event_action"], &resolve["dedup_key"]),
            (&json!("resolve"), &ours["dedup_key"])
        );
        let long = Notice { subject: "x".repeat(300), ..notice() };
        assert!(key(&long).len() <= 255);
    }

    #[test]
    fn standard_webhooks_have_type_timestamp_and_data() {
        assert_eq!(names(&standard(&notice())), BTreeSet::from(["data", "timestamp", "type"]));
        assert_eq!(standard(&over())["type"], "casebridge.alert.resolved");
        assert_eq!(standard(&over())["timestamp"], "2026-11-26T10:05:00Z");
    }
}
