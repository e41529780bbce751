//! `casebridge status`: `GET /status` for people.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use casebridge::config::Partial;
use casebridge::inbox::Inbox;
use casebridge::notify::notice::title;
use casebridge::text::printable;
use casebridge::{connect, status};

use super::health::{LIMIT, url};

const EVERY: Duration = Duration::from_secs(2);
/// Moves the cursor to the first line, and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the service; with `watch`, again and again until `stop`.
///
/// # Errors
/// Neither the service nor its database answers.
pub async fn status(config: &Partial, watch: bool, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let screen = screen(config).await;
        let clear = if watch && std::io::stdout().is_terminal() { CLEAR } else { "" };
        let text = match (&screen, watch) {
            (Ok(text), _) => text.clone(),
            (Err(error), true) => format!("{error:#}\n"),
            (Err(_), false) => return screen.map(drop),
        };
        std::io::stdout().lock().write_all(format!("{clear}{text}").as_bytes())?;
        if !watch || stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return Ok(());
        }
    }
}

async fn screen(config: &Partial) -> anyhow::Result<String> {
    let reason = match of_service(config).await {
        Ok(status) => return Ok(render(&status, None)),
        Err(reason) => format!("{reason:#}"),
    };
    let stored = of_database(config).await.with_context(|| reason.clone())?;
    Ok(render(&stored, Some(&reason)))
}

async fn of_service(config: &Partial) -> anyhow::Result<Value> {
    let url = url(&config.general, "/status")?;
    let Some(token) = &config.general.admin_token else { bail!("ADMIN_TOKEN is not set") };
    let request = connect::http_client(true)?.get(&url).bearer_auth(token.expose_secret()).timeout(LIMIT);
    let response = request.send().await.map_err(|error| anyhow::anyhow!(connect::reason(&error)))?;
    match response.status().as_u16() {
        200 => response.json().await.context("the answer did not come from casebridge"),
        401 => bail!("the service has a different ADMIN_TOKEN"),
        404 => bail!("the service has no ADMIN_TOKEN"),
        status => bail!("it answered {status}"),
    }
}

async fn of_database(config: &Partial) -> anyhow::Result<Value> {
    let Some(database) = &config.database else { bail!("DATABASE_URL is wrong: {}", config.problems) };
    let inbox = Inbox::open_beside(database).await?;
    let routes: Vec<String> = config.general.routes.iter().map(|route| route.name.clone()).collect();
    let stored = status::stored(&inbox, routes).await;
    inbox.close().await;
    Ok(stored)
}

/// The screen. `away`: why there is no status from the service, so that it comes from its database.
fn render(status: &Value, away: Option<&str>) -> String {
    let mut lines = vec![match away {
        None => {
            let up = span(status["uptime_s"].as_u64().unwrap_or(0));
            format!(
                "casebridge {}, up for {up}, {} {}",
                word(&status["version"]),
                word(&status["storage"]["kind"]),
                if status["storage"]["ready"] == true { "ready" } else { "not ready" }
            )
        }
        Some(reason) => format!("no status from the service ({reason}); the database shows:"),
    }];
    lines.push(String::new());
    lines.extend(alerts(&status["alerts"]));
    lines.push(String::new());
    for (name, destination) in members(&status["destinations"]) {
        let state = if away.is_some() { "-" } else { destination["state"].as_str().unwrap_or("-") };
        lines.push(format!("{name:<12} {state:<14} {}", counts(destination)));
        lines.extend(destination["reason"].as_str().map(|reason| format!("{:<12} {reason}", "")));
        for (limit, waiting) in members(&destination["held"]) {
            lines.push(format!("{:<12} {waiting} held by {limit}", ""));
        }
    }
    lines.push(String::new());
    for (name, route) in members(&status["routes"]) {
        let subscription = status["subscriptions"][name]["state"].as_str().unwrap_or("-");
        let last = match route["last_event_s"].as_u64() {
            Some(age) => format!("last event {} ago", span(age)),
            None => "no event yet".to_owned(),
        };
        lines.push(format!("route {name:<12} {subscription:<14} {last}"));
        lines.extend(
            status["subscriptions"][name]["reason"].as_str().map(|reason| format!("{:<18} {reason}", "")),
        );
    }
    if away.is_none() {
        let reason = status["pull_reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        lines.push(format!("feeds {}{reason}", word(&status["pull"])));
    }
    if let Some(done) = status["deliveries"]["done_24h"].as_i64() {
        lines.push(String::new());
        lines.push(format!("{done} deliveries done in 24 h"));
    }
    lines.iter().map(|line| printable(line).trim_end().to_owned() + "\n").collect()
}

fn alerts(alerts: &Value) -> Vec<String> {
    let Some(alerts) = alerts.as_array() else {
        return vec!["alerts: the database does not answer".to_owned()];
    };
    let line = |alert: &Value| {
        let title = title(word(&alert["alert"]), alert["subject"].as_str().unwrap_or_default());
        format!("✗ {title} since {} {}", word(&alert["since"]), word(&alert["detail"]))
    };
    match alerts.as_slice() {
        [] => vec!["no alert is firing".to_owned()],
        alerts => alerts.iter().map(line).collect(),
    }
}

fn counts(destination: &Value) -> String {
    let number = |name: &str| destination[name].as_i64().unwrap_or(0);
    let oldest = destination["oldest_waiting_s"].as_u64();
    let oldest = oldest.map(|age| format!(", the oldest for {}", span(age))).unwrap_or_default();
    format!("{} waiting{oldest}, {} dead", number("waiting"), number("dead"))
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A time span in suitable units.
fn span(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
