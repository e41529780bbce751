//! `casebridge check`: whether everything that the service needs is there, before it is needed. It asks
//! and changes nothing, neither here nor at the neighbours.
//!
//! Of two rows that depend on each other the later one is not checked if the earlier one failed, so
//! that each thing that is broken is one ✗.

mod clock;
mod khoros;
mod report;
mod zendesk;

use std::time::Duration;

use crate::app;
use crate::config::{Config, Database};
use crate::inbox::survey::{self, Migrations, Survey, Unfit};
use crate::public_url::{Address, Instance, Probe};
pub use report::{Mark, Report, Row};

pub const CONFIGURATION: &str = "configuration";
pub const STORAGE: &str = "storage";
pub const KHOROS_TOKEN: &str = "khoros token";
pub const KHOROS_LABEL: &str = "khoros label";
pub const KHOROS_SUBSCRIPTION: &str = "khoros subscription";
pub const KHOROS_PULL: &str = "khoros pull";
pub const ZENDESK_CREDENTIAL: &str = "zendesk credential";
pub const ZENDESK_FIELDS: &str = "zendesk fields";
pub const PUBLIC_URL: &str = "public url";
pub const CLOCK: &str = "clock";

/// All but the configuration, in the order of the screen.
const OTHERS: [&str; 9] = [
    STORAGE,
    KHOROS_TOKEN,
    KHOROS_LABEL,
    KHOROS_SUBSCRIPTION,
    KHOROS_PULL,
    ZENDESK_CREDENTIAL,
    ZENDESK_FIELDS,
    PUBLIC_URL,
    CLOCK,
];

/// The longest wait for one step. No row takes more than three, one after the other.
const STEP: Duration = Duration::from_secs(9);

/// Looks at everything, with the settings that `casebridge serve` would have.
pub async fn run() -> Report {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(problems) => {
            let wrong = problems.iter().collect::<Vec<_>>().join("\n");
            let remedy = "set these variables as the README's table says: `casebridge serve` would end with \
                          exit code 2";
            let wrong = Row::failed(CONFIGURATION, wrong, remedy);
            let others = OTHERS.map(|name| Row::not_checked(name, "the configuration is wrong"));
            return Report::of([wrong].into_iter().chain(others));
        }
    };
    let client = match app::http_client(config.is_local()) {
        Ok(client) => client,
        Err(error) => {
            let storage = storage(&look_at(&config.database).await);
            let remedy = "install the system's CA certificates (Debian: the package ca-certificates)";
            let broken = Row::failed(CONFIGURATION, format!("{error:#}"), remedy);
            let others = OTHERS.iter().skip(1).map(|name| Row::not_checked(name, "there is no HTTPS client"));
            return Report::of([broken, storage].into_iter().chain(others));
        }
    };
    look(config, client).await
}

async fn look(config: Config, client: reqwest::Client) -> Report {
    let configuration = configuration(&config);
    let own = async {
        let survey = look_at(&config.database).await;
        (storage(&survey), public_url(&config, client.clone(), &survey).await)
    };
    let ((storage, public_url), khoros, [credential, fields], clock) = tokio::join!(
        own,
        khoros::Seen::ask(&config, client.clone()),
        zendesk::rows(&config.zendesk, &config.routes, &config.references, client.clone()),
        clock::row(&config, &client),
    );
    let [token, label, subscription, pull] = khoros.rows(&config, public_url.mark == Mark::Ok);
    Report::of([
        configuration,
        storage,
        token,
        label,
        subscription,
        pull,
        credential,
        fields,
        public_url,
        clock,
    ])
}

/// Waits for one step; `None` if it takes too long.
async fn within<T>(step: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(STEP, step).await.ok()
}

fn configuration(config: &Config) -> Row {
    let names: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
    let routes = if names.len() == 1 { "route" } else { "routes" };
    let text = format!("{} {routes}: {}", names.len(), names.join(", "));
    match config.warnings.is_empty() {
        true => Row::ok(CONFIGURATION, text),
        false => Row::warning(CONFIGURATION, config.warnings.join("\n"), None),
    }
}

/// What there is of the storage; `None` if it does not answer in time.
type Surveyed = Option<Result<Survey, Unfit>>;

async fn look_at(database: &Database) -> Surveyed {
    within(survey::survey(database)).await
}

fn storage(survey: &Surveyed) -> Row {
    let (what, path, served, migrations) = match survey {
        None => {
            let remedy = "see whether this host reaches the server of DATABASE_URL (network, firewall)";
            return Row::failed(STORAGE, "the database does not answer in time", remedy);
        }
        Some(Err(unfit)) => return Row::failed(STORAGE, unfit.to_string(), remedy_of(unfit)),
        Some(Ok(Survey::Absent { path })) => {
            let text = format!("{} does not exist yet", path.display());
            return Row::warning(STORAGE, text, Some("the first `casebridge serve` makes it".to_owned()));
        }
        Some(Ok(Survey::Present { what, path, served, migrations, .. })) => (what, path, served, migrations),
    };
    let path = path.as_ref().map(|path| format!(", {}", path.display())).unwrap_or_default();
    let served = if *served { "; a service is running" } else { "" };
    let Migrations { applied, pending, unknown } = migrations;
    let newer = match unknown {
        0 => String::new(),
        _ => format!("; {unknown} of a later version, which this one lets be"),
    };
    let text = format!("{what}{path}; {applied} migrations applied{newer}{served}");
    match pending {
        0 => Row::ok(STORAGE, text),
        _ => {
            let remedy = "the next start of `casebridge serve` applies them".to_owned();
            Row::warning(STORAGE, format!("{text}; {pending} pending"), Some(remedy))
        }
    }
}

fn remedy_of(unfit: &Unfit) -> &'static str {
    match unfit {
        Unfit::File(_) => {
            "name a file in DATABASE_URL whose folder exists, and give both to the user of the service \
             (run this check as that user)"
        }
        Unfit::Wrong(_) => "see what DATABASE_URL names; to begin anew, name a file or a database of its own",
        Unfit::Server(_) => {
            "see that DATABASE_URL is right, that its server runs and that this host reaches it"
        }
        Unfit::ReadOnly(_) => {
            "name the primary server in DATABASE_URL, and a user who may create tables in its schema, \
             and select, insert, update and delete in those that are there"
        }
    }
}

/// Whether Khoros would reach us, as far as we reach ourselves by the same way.
async fn public_url(config: &Config, client: reqwest::Client, survey: &Surveyed) -> Row {
    if !config.khoros.mode.pushes() {
        return Row::ok(PUBLIC_URL, "not needed: SPREDFAST_MODE is poll");
    }
    let Some(url) = config.public_url.as_ref() else {
        return Row::failed(
            PUBLIC_URL,
            "not known",
            format!("set it and restart: {}", config.public_url_remedy()),
        );
    };
    let variable = config.public_url_variable;
    let address = Address { url: url.clone(), variable, remedy: config.public_url_remedy() };
    let instance = match survey {
        Some(Ok(Survey::Present { deployment: Some(id), .. })) => Instance::new(id),
        // No service has answered with an id yet, so no answer is ours.
        Some(Ok(_)) => Instance::new("none"),
        _ => return Row::not_checked(PUBLIC_URL, "the storage says by which id the service would be known"),
    };
    let Err(seen) = Probe::new(client, address, instance).attempt().await else {
        return Row::ok(PUBLIC_URL, format!("{url} leads to the running service"));
    };
    let text = format!("{url}, which {variable} gives, does not lead to a running service: {seen}");
    let remedy = format!(
        "start the service if it is not running; if it is, see that the proxy and the firewall let it \
         through, or set the address and restart: {}",
        config.public_url_remedy()
    );
    Row::failed(PUBLIC_URL, text, remedy)
}
