//! `casebridge check`: whether everything that the service needs is there, before it is needed. It asks
//! and changes nothing, neither here nor at the neighbours.
//!
//! Of two rows that depend on each other the later one is not checked if the earlier one failed, so
//! that each thing that is broken is one ✗.

mod clock;
mod khoros;
mod report;
mod zendesk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app;
use crate::config::{Database, General, Partial};
use crate::inbox::survey::{self, Migrations, StorageProblem, Survey};
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

/// Why nothing is asked where a setting is missing; the row `configuration` names it.
const INCOMPLETE: &str = "its settings are missing or wrong";

/// The longest wait for one step. No row takes more than three, one after the other.
const STEP: Duration = Duration::from_secs(9);

/// Whether a service is expected to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the first start: what only a service makes or answers can be no failure.
    BeforeStart,
    Anytime,
}

/// Looks at everything, with the settings that `casebridge serve` would have.
pub async fn run(moment: Moment) -> Report {
    let config = Partial::from_env();
    let client = match app::http_client(config.general.is_local) {
        Ok(client) => client,
        Err(error) => {
            let storage = storage(&look_at(&config).await, moment);
            let remedy = "install the system's CA certificates (Debian: the package ca-certificates)";
            let broken = Row::failed(CONFIGURATION, format!("{error:#}"), remedy);
            let others = OTHERS.iter().skip(1).map(|name| Row::not_checked(name, "there is no HTTPS client"));
            return Report::of([broken, storage].into_iter().chain(others));
        }
    };
    look(&config, client, moment).await
}

/// What is wrong with one setting hides nothing that others are enough for.
async fn look(config: &Partial, client: reqwest::Client, moment: Moment) -> Report {
    let own = async {
        let surveyed = look_at(config).await;
        let public_url = public_url(config, client.clone(), &surveyed, moment).await;
        (storage(&surveyed, moment), public_url)
    };
    let khoros = async {
        let General { routes, public_url, .. } = &config.general;
        let khoros = config.khoros.as_ref()?;
        let settings = khoros::Settings { khoros, routes, public_url: public_url.as_ref() };
        Some((khoros::Seen::ask(settings, client.clone()).await, settings))
    };
    let zendesk = async {
        let zendesk = config.zendesk.as_ref()?;
        Some(zendesk::rows(zendesk, &config.general.routes, &config.general.references, client.clone()).await)
    };
    let ((storage, public_url), khoros, zendesk, clock) =
        tokio::join!(own, khoros, zendesk, clock::row(config, &client));
    let is_reached = public_url.mark == Mark::Ok;
    let khoros = khoros.map(|(seen, settings)| seen.rows(settings, is_reached));
    let [token, label, subscription, pull] = khoros.unwrap_or_else(|| {
        [KHOROS_TOKEN, KHOROS_LABEL, KHOROS_SUBSCRIPTION, KHOROS_PULL]
            .map(|name| Row::not_checked(name, INCOMPLETE))
    });
    let [credential, fields] = zendesk.unwrap_or_else(|| {
        [ZENDESK_CREDENTIAL, ZENDESK_FIELDS].map(|name| Row::not_checked(name, INCOMPLETE))
    });
    Report::of([
        configuration(config),
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

fn configuration(config: &Partial) -> Row {
    if !config.problems.is_empty() {
        let wrong = config.problems.iter().collect::<Vec<_>>().join("\n");
        let remedy = "set these variables as the README's table says: `casebridge serve` would end with \
                      exit code 2";
        return Row::failed(CONFIGURATION, wrong, remedy);
    }
    let names: Vec<&str> = config.general.routes.iter().map(|route| route.name.as_str()).collect();
    let routes = if names.len() == 1 { "route" } else { "routes" };
    let text = format!("{} {routes}: {}", names.len(), names.join(", "));
    match config.warnings.is_empty() {
        true => Row::ok(CONFIGURATION, text),
        false => Row::warning(CONFIGURATION, config.warnings.join("\n"), None),
    }
}

/// What there is of the storage.
enum Surveyed {
    /// Its setting is wrong.
    Unset,
    Late,
    /// The folder of its file is not there.
    NoFolder(PathBuf),
    StorageProblem(StorageProblem),
    Fit(Survey),
}

async fn look_at(config: &Partial) -> Surveyed {
    let Some(database) = &config.database else { return Surveyed::Unset };
    if let Database::Sqlite(path) = database
        && let Some(folder) = std::path::absolute(path).ok().as_deref().and_then(Path::parent)
        && folder.try_exists().is_ok_and(|exists| !exists)
    {
        return Surveyed::NoFolder(folder.to_owned());
    }
    match within(survey::survey(database)).await {
        None => Surveyed::Late,
        Some(Err(unfit)) => Surveyed::StorageProblem(unfit),
        Some(Ok(survey)) => Surveyed::Fit(survey),
    }
}

fn storage(surveyed: &Surveyed, moment: Moment) -> Row {
    let (what, path, served, migrations) = match surveyed {
        Surveyed::Unset => return Row::not_checked(STORAGE, INCOMPLETE),
        Surveyed::Late => {
            let remedy = "see whether this host reaches the server of DATABASE_URL (network, firewall)";
            return Row::failed(STORAGE, "the database does not answer in time", remedy);
        }
        Surveyed::NoFolder(folder) => {
            let text = format!("the folder {} does not exist", folder.display());
            let remedy = "create it before the start (systemd: StateDirectory), or set DATABASE_URL to a file in \
                          another folder";
            return match moment {
                Moment::BeforeStart => Row::warning(STORAGE, text, Some(remedy.to_owned())),
                Moment::Anytime => Row::failed(STORAGE, text, remedy),
            };
        }
        Surveyed::StorageProblem(unfit) => return Row::failed(STORAGE, unfit.to_string(), remedy_of(unfit)),
        Surveyed::Fit(Survey::Absent { path }) => {
            let text = format!("{} does not exist yet", path.display());
            return Row::warning(STORAGE, text, Some("the first `casebridge serve` makes it".to_owned()));
        }
        Surveyed::Fit(Survey::Present { what, path, served, migrations, .. }) => {
            (what, path, served, migrations)
        }
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

fn remedy_of(unfit: &StorageProblem) -> &'static str {
    match unfit {
        StorageProblem::File(_) => {
            "name a file in DATABASE_URL whose folder exists, and give both to the user of the service \
             (run this check as that user)"
        }
        StorageProblem::Wrong(_) => "check DATABASE_URL; to start anew, use a file or database of its own",
        StorageProblem::Server(_) => {
            "see that DATABASE_URL is right, that its server runs and that this host reaches it"
        }
        StorageProblem::ReadOnly(_) => {
            "name the primary server in DATABASE_URL, and a user who may create tables in its schema, \
             and select, insert, update and delete in those that are there"
        }
    }
}

/// Whether Khoros would reach us, as far as we reach ourselves by the same way.
async fn public_url(config: &Partial, client: reqwest::Client, surveyed: &Surveyed, moment: Moment) -> Row {
    if !config.general.mode.pushes() {
        return Row::ok(PUBLIC_URL, "not needed: SPREDFAST_MODE is poll");
    }
    let remedy = config.general.public_url_remedy;
    let Some(url) = config.general.public_url.clone() else {
        return match config.problems.is_empty() {
            true => Row::failed(PUBLIC_URL, "not known", format!("set it and restart: {remedy}")),
            false => Row::not_checked(PUBLIC_URL, "not known"),
        };
    };
    let instance = match surveyed {
        Surveyed::Fit(Survey::Present { deployment: Some(id), .. }) => Instance::new(id),
        // No service has answered with an id yet, so no answer is ours.
        Surveyed::Fit(_) => Instance::new("none"),
        Surveyed::NoFolder(_) if moment == Moment::BeforeStart => Instance::new("none"),
        _ => return Row::not_checked(PUBLIC_URL, "needs the database, which holds the service's id"),
    };
    let variable = config.general.public_url_variable;
    let address = Address { url: url.clone(), variable, remedy };
    let Err(seen) = Probe::new(client, address, instance).attempt().await else {
        return Row::ok(PUBLIC_URL, format!("{url} leads to the running service"));
    };
    let text = format!("{url}, which {variable} gives, does not lead to a running service: {seen}");
    if moment == Moment::BeforeStart {
        return Row::warning(PUBLIC_URL, text, Some("look again once the service runs".to_owned()));
    }
    let remedy = format!(
        "start the service if it is not running; if it is, see that the proxy and the firewall let it \
         through, or set the address and restart: {remedy}"
    );
    Row::failed(PUBLIC_URL, text, remedy)
}
