//! `casebridge check`: whether everything that the service needs is there, before it is needed. It changes
//! nothing, neither here nor at Khoros or Zendesk.
//!
//! If two rows depend on each other and the earlier one failed, the later one is not checked. So each broken
//! thing is one ✗.

mod clock;

use std::path::Path;

use jiff::Timestamp;

use crate::config::{Database, Partial};
use crate::connect;
use crate::inbox::survey::{self, Migrations, StorageProblem, Survey};
use crate::notify::notice::Notice;
use crate::notify::sink::{Failure, Sink};
use crate::report::{CheckReport, Finding, INCOMPLETE, Mark, Row, within};
use crate::source::khoros;
use crate::source::khoros::public_url::Probe;

/// Whether a service is expected to be running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the first start: nothing fails for the lack of a running service.
    BeforeStart,
    Anytime,
}

/// Checks everything with the settings that `casebridge serve` would have. A wrong setting affects only the
/// rows that need it.
///
/// `send_alerts`: also sends a test to each receiver of notices.
pub async fn run(moment: Moment, send_alerts: bool) -> CheckReport {
    let config = &Partial::from_env();
    let client = match connect::http_client(config.general.is_local) {
        Ok(client) => client,
        Err(error) => {
            let remedy = "install the system's CA certificates (Debian: the package ca-certificates)";
            let finding = Finding::failed(format!("{error:#}"), remedy);
            return CheckReport::of([Row::of("configuration", [finding])]);
        }
    };
    let storage_and_public_url = async {
        let survey = survey_storage(config, moment).await;
        let public_url = public_url(config, client.clone(), survey.as_ref().ok(), moment).await;
        let feed_since = match &survey {
            Ok(Survey::Present { feed_since, .. }) => *feed_since,
            _ => None,
        };
        (survey.map_or_else(|finding| finding, storage), public_url, feed_since)
    };
    let khoros = async {
        let (routes, public_url) = (&config.general.routes, config.general.public_url.as_ref());
        let answers =
            khoros::check::Answers::gather(config.khoros.as_ref()?, routes, public_url, client.clone());
        Some(answers.await)
    };
    let destinations = config.destinations.check(&config.general.routes, &client);
    let notices = async { if send_alerts { alerts(config, &client).await } else { Vec::new() } };
    let clock = clock::findings(config, &client);
    let ((storage, public_url, feed_since), khoros, destinations, clock, notices) =
        tokio::join!(storage_and_public_url, khoros, destinations, clock, notices);
    let incomplete = || vec![Finding::not_checked(INCOMPLETE)];
    let khoros = khoros.map(|answers| answers.findings(public_url.mark == Mark::Ok, feed_since));
    let [token, label, subscription, pull] = khoros.unwrap_or_else(|| std::array::from_fn(|_| incomplete()));
    let mut rows = vec![
        Row::of("configuration", configuration(config)),
        Row::of("storage", [storage]),
        Row::of("khoros token", token),
        Row::of("khoros label", label),
        Row::of("khoros subscription", subscription),
        Row::of("khoros pull", pull),
    ];
    rows.extend(destinations);
    rows.extend([Row::of("public url", [public_url]), Row::of("clock", clock)]);
    rows.extend(notices);
    CheckReport::of(rows)
}

/// Sends a test to each receiver of notices, one after the other.
async fn alerts(config: &Partial, client: &reqwest::Client) -> Vec<Row> {
    let mut rows = Vec::new();
    for settings in config.general.notify.sinks.iter().cloned() {
        let sink = Sink::new(settings, client.clone());
        let detail = "sent by casebridge check --alerts".to_owned();
        let test = Notice::extra("test", "a test, there is nothing to do", detail, "check", Timestamp::now());
        let finding = match within(sink.send_extra(test)).await {
            Some(Ok(())) => Finding::ok("accepted a test notice"),
            Some(Err(Failure { reason, .. })) => Finding::failed(reason, sink.remedy()),
            None => Finding::failed("no answer in time", sink.remedy()),
        };
        rows.push(Row::of(sink.row(), [finding]));
    }
    if rows.is_empty() {
        let remedy = "set ALERT_SLACK_WEBHOOK_URL, ALERT_WEBHOOK_URL or ALERT_PAGERDUTY_KEY";
        rows.push(Row::of("alerts", [Finding::warning("no receiver gets notices of alerts", remedy)]));
    }
    rows
}

fn configuration(config: &Partial) -> Vec<Finding> {
    if config.problems.is_empty() && config.warnings.is_empty() {
        let names: Vec<&str> = config.general.routes.iter().map(|route| route.name.as_str()).collect();
        let routes = if names.len() == 1 { "route" } else { "routes" };
        return vec![Finding::ok(format!("{} {routes}: {}", names.len(), names.join(", ")))];
    }
    let remedy = "set these variables (`casebridge settings` describes them): until then `casebridge serve` ends with exit code 2";
    let problems = config.problems.iter().map(|problem| Finding::failed(problem, remedy));
    problems.chain(config.warnings.iter().map(|warning| Finding::warning(warning, ""))).collect()
}

/// Surveys the storage, or finds why it is unusable.
async fn survey_storage(config: &Partial, moment: Moment) -> Result<Survey, Finding> {
    let Some(database) = &config.database else { return Err(Finding::not_checked(INCOMPLETE)) };
    if let Database::Sqlite(path) = database
        && let Some(folder) = std::path::absolute(path).ok().as_deref().and_then(Path::parent)
        && folder.try_exists().is_ok_and(|exists| !exists)
    {
        let text = format!("the folder {} does not exist", folder.display());
        let remedy = "create it before the start (systemd: StateDirectory), or set DATABASE_URL to a file in \
                      another folder";
        return Err(match moment {
            Moment::BeforeStart => Finding::warning(text, remedy),
            Moment::Anytime => Finding::failed(text, remedy),
        });
    }
    match within(survey::survey(database)).await {
        Some(survey) => survey.map_err(|problem| Finding::failed(problem.to_string(), remedy_of(&problem))),
        None => Err(Finding::failed(
            "the database does not answer in time",
            "see whether this host reaches the server of DATABASE_URL (network, firewall)",
        )),
    }
}

fn storage(survey: Survey) -> Finding {
    let (what, path, served, migrations) = match survey {
        Survey::Absent { path } => {
            let text = format!("{} does not exist yet", path.display());
            return Finding::warning(text, "the first `casebridge serve` creates it");
        }
        Survey::Present { what, path, served, migrations, .. } => (what, path, served, migrations),
    };
    let path = path.map(|path| format!(", {}", path.display())).unwrap_or_default();
    let served = if served { "; a service is running" } else { "" };
    let Migrations { applied, pending, unknown } = migrations;
    let newer = match unknown {
        0 => String::new(),
        _ => format!("; {unknown} of a later version, which this one ignores"),
    };
    let text = format!("{what}{path}; {applied} migrations applied{newer}{served}");
    match pending {
        0 => Finding::ok(text),
        _ => {
            let remedy = "the next start of `casebridge serve` applies them";
            Finding::warning(format!("{text}; {pending} pending"), remedy)
        }
    }
}

fn remedy_of(problem: &StorageProblem) -> &'static str {
    match problem {
        StorageProblem::File(_) => {
            "name a file in DATABASE_URL whose folder exists, and give both to the user of the service \
             (run this check as that user)"
        }
        StorageProblem::Wrong(_) => "check DATABASE_URL; to start anew, use another file or database",
        StorageProblem::Server(_) => {
            "see that DATABASE_URL is right, that its server runs and that this host reaches it"
        }
        StorageProblem::ReadOnly(_) => {
            "name the primary server in DATABASE_URL, and a user who may create tables in its schema, \
             and select, insert, update and delete in those that are there"
        }
    }
}

/// Whether Khoros would reach the service, as far as this host reaches it at the same address.
async fn public_url(
    config: &Partial,
    client: reqwest::Client,
    survey: Option<&Survey>,
    moment: Moment,
) -> Finding {
    if !config.general.mode.pushes() {
        return Finding::ok("not needed: SPREDFAST_MODE is poll");
    }
    let remedy = config.general.public_url_remedy;
    let Some(url) = config.general.public_url.clone() else {
        return match config.problems.is_empty() {
            true => Finding::failed("not known", format!("set it and restart: {remedy}")),
            false => Finding::not_checked("not known"),
        };
    };
    let deployment_id = match survey {
        Some(Survey::Present { deployment: Some(id), .. }) => id.clone(),
        None if moment == Moment::Anytime => {
            return Finding::not_checked("needs the database, which holds the service's id");
        }
        // No service has answered with an id yet, so no answer is ours.
        _ => "none".to_owned(),
    };
    let variable = config.general.public_url_variable;
    let probe = Probe { http: client, url: url.clone(), variable, remedy, deployment_id };
    let Err(answer) = probe.attempt().await else {
        return Finding::ok(format!("{url} leads to the running service"));
    };
    let text = format!("{url} (from {variable}) does not lead to a running service: {answer}");
    match moment {
        Moment::BeforeStart => Finding::warning(text, "check again once the service runs"),
        Moment::Anytime => Finding::failed(
            text,
            format!(
                "start the service if it is not running; if it is, see that the proxy and the firewall let it \
                 through, or set the address and restart: {remedy}"
            ),
        ),
    }
}
