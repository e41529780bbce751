//! The rows of the destinations in `casebridge check`.

use super::settings::DestinationSettings;
use super::{flow, webhook, zendesk};
use crate::report::{Finding, INCOMPLETE, Row};
use crate::route::Route;

/// Checks all destinations that are configured, or that a route goes to.
pub async fn rows(settings: &DestinationSettings, routes: &[Route], http: &reqwest::Client) -> Vec<Row> {
    let is_used = |name| routes.is_empty() || routes.iter().any(|route| route.goes_to(name));
    let incomplete = || vec![Finding::not_checked(INCOMPLETE)];
    let zendesk = async {
        match &settings.zendesk {
            Some(zendesk) => Some(zendesk::check::findings(zendesk, http.clone()).await),
            None => is_used(zendesk::NAME).then(|| std::array::from_fn(|_| incomplete())),
        }
    };
    let webhook = async {
        match &settings.webhook {
            Some(webhook) => Some(vec![webhook::finding(webhook).await]),
            None => (!routes.is_empty() && is_used(webhook::NAME)).then(incomplete),
        }
    };
    let flow = match &settings.flow {
        Some(flow) => Some(vec![flow::finding(flow)]),
        None => (!routes.is_empty() && is_used(flow::NAME)).then(incomplete),
    };
    let (zendesk, webhook) = tokio::join!(zendesk, webhook);
    let mut rows = Vec::new();
    if let Some([credential, fields]) = zendesk {
        rows.extend([Row::of("zendesk credential", credential), Row::of("zendesk fields", fields)]);
    }
    rows.extend(webhook.map(|findings| Row::of("webhook", findings)));
    rows.extend(flow.map(|findings| Row::of("flow", findings)));
    rows
}
