//! `casebridge demo`: runs the real casebridge between stand-ins, and shows on the terminal what happens.

mod companion;
mod outage;
mod screen;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail};
use futures_util::future::select_all;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use casebridge::config::{self, Config};
use casebridge::destination::zendesk::settings::ticket::Ticket;
use casebridge::{app, connect};
use casebridge_sandbox::khoros::{self, Khoros};
use casebridge_sandbox::zendesk::{self, Known, Zendesk};

use companion::Companion;
pub use companion::With;
use screen::say;

const LABEL: &str = "CreateCase";

#[derive(clap::Args)]
pub struct DemoOptions {
    /// The story to show
    #[arg(long, value_enum, default_value = "label")]
    story: Story,
    /// Show what another destination gets once a ticket is done
    #[arg(long, value_enum, value_name = "DESTINATION")]
    with: Vec<With>,
    /// End after the story instead of staying up
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// A label creates a ticket
    Label,
    /// Zendesk breaks down and recovers
    Outage,
}

impl DemoOptions {
    /// What casebridge logs during the story. The story of an outage already says what the warnings would say.
    pub fn log_filter(&self) -> &'static str {
        match self.story {
            Story::Label => "warn",
            Story::Outage => "error",
        }
    }
}

/// Runs the demo on a temporary SQLite file, until the story ends or a signal comes.
pub async fn demo(options: &DemoOptions, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let mut stage = Stage::set_up(options, address).await?;
    let config = stage.config()?;
    stage.write_settings()?;
    screen::introduce(&stage)?;
    let Some(storage) = app::open_storage(&config.database, &stop).await? else {
        return Ok(());
    };
    let story = async { stop.run_until_cancelled(stage.play(options)).await.unwrap_or(Ok(())) };
    let service = app::start(config, storage, listener, stop.clone())?.run();
    tokio::pin!(story, service);
    tokio::select! {
        played = &mut story => {
            stop.cancel();
            service.await.and(played)
        }
        served = &mut service => served,
    }
}

/// The stand-ins, and casebridge between them.
struct Stage {
    khoros: Khoros,
    zendesk: Zendesk,
    /// The stand-ins of further destinations.
    companions: Vec<Companion>,
    casebridge: String,
    bearer_token: String,
    /// For `GET /status`.
    admin_token: String,
    http: reqwest::Client,
    folder: TempDir,
    /// The number of changes of tickets that are on the screen.
    shown: usize,
}

impl Stage {
    async fn set_up(options: &DemoOptions, casebridge: String) -> anyhow::Result<Stage> {
        let mut companions = Vec::new();
        for with in &options.with {
            companions.push(Companion::start(*with).await?);
        }
        Ok(Stage {
            khoros: Khoros::start().await?,
            zendesk: Zendesk::start().await?,
            companions,
            casebridge,
            bearer_token: random_token(),
            admin_token: random_token(),
            http: connect::http_client(true)?,
            folder: tempfile::tempdir().context("cannot create a temporary folder")?,
            shown: 0,
        })
    }

    /// Writes the settings of the demo into a file for other terminals. Loaded there, `check`, `list` and the other
    /// commands work while the demo runs.
    fn write_settings(&self) -> anyhow::Result<()> {
        let lines = self.variables().into_iter().map(|(name, value)| format!("export {name}='{value}'\n"));
        std::fs::write(self.settings_file(), lines.collect::<String>()).context("cannot write the settings")
    }

    fn settings_file(&self) -> PathBuf {
        self.folder.path().join("demo.env")
    }

    /// Reads the settings of the demo, and of tickets from the environment. Zendesk gets what they name.
    fn config(&self) -> anyhow::Result<Config> {
        let variables = self.variables().into_iter().map(|(name, value)| (name.into(), value.into()));
        let variables = variables.chain(config::ticket_variables());
        let config = Config::from_vars(variables.collect::<Vec<(OsString, OsString)>>().into_iter())?;
        if let Some(settings) = &config.destinations.zendesk {
            let known = &mut self.zendesk.model().known;
            set_up(known, &settings.ticket);
            settings.tickets.values().for_each(|ticket| set_up(known, ticket));
        }
        Ok(config)
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("SPREDFAST_API_URL", self.khoros.api_url()),
            ("SPREDFAST_API_TOKEN", khoros::TOKEN.to_owned()),
            ("SPREDFAST_COMPANY_ID", khoros::COMPANY_ID.to_string()),
            ("SPREDFAST_LABEL_NAME", LABEL.to_owned()),
            ("ZENDESK_API_URL", self.zendesk.url()),
            ("ZENDESK_OAUTH_CLIENT_ID", zendesk::CLIENT_ID.to_owned()),
            ("ZENDESK_OAUTH_CLIENT_SECRET", zendesk::CLIENT_SECRET.to_owned()),
            ("NOTIFICATION_BEARER_TOKEN", self.bearer_token.clone()),
            ("ADMIN_TOKEN", self.admin_token.clone()),
            ("PUBLIC_URL", self.casebridge.clone()),
            ("PORT", self.casebridge.rsplit(':').next().unwrap_or_default().to_owned()),
            // A request without an answer is looked up when its lease ends.
            ("LEASE_SECONDS", "6".to_owned()),
            ("DATABASE_URL", format!("sqlite://{}", self.folder.path().join("casebridge.db").display())),
        ];
        if !self.companions.is_empty() {
            let names: Vec<&str> = self.companions.iter().map(Companion::destination).collect();
            variables.push(("DELIVER_THEN", names.join(",")));
            variables.extend(self.companions.iter().flat_map(Companion::variables));
        }
        variables
    }

    async fn play(&mut self, options: &DemoOptions) -> anyhow::Result<()> {
        self.khoros.wait_until(|model| !model.subscriptions.is_empty()).await;
        say(&format!("\n1. subscribed: Khoros will send the label `{LABEL}` to casebridge"))?;
        match options.story {
            Story::Label => self.apply_one_label().await?,
            Story::Outage => self.break_down_and_recover().await?,
        }
        if options.once {
            return Ok(screen::conclude()?);
        }
        screen::invite(self, options.story)?;
        loop {
            let line = tokio::select! {
                () = self.zendesk.wait_until(|model| model.audits.len() > self.shown) => self.next_change().await,
                line = next_line(&mut self.companions) => line,
            };
            say(&line)?;
        }
    }

    async fn apply_one_label(&mut self) -> anyhow::Result<()> {
        let status = self.label(khoros::EXAMPLE).await?;
        say(&format!("2. label applied: Khoros sent the published example, casebridge answered {status}"))?;
        let ticket = self.next_change().await;
        say(&format!("3. {ticket}"))?;
        for companion in &mut self.companions {
            say(&companion.next_line().await)?;
        }
        Ok(())
    }

    /// Applies the label to the post of a notification, and returns the status that casebridge answered.
    async fn label(&self, notification: &str) -> anyhow::Result<u16> {
        match self.khoros.apply_label(LABEL, notification).await.into_iter().next() {
            Some(Ok(status)) => Ok(status),
            _ => bail!("the notification did not reach casebridge"),
        }
    }

    /// Waits for the next change of a ticket, and describes it.
    async fn next_change(&mut self) -> String {
        self.zendesk.wait_until(|model| model.audits.len() > self.shown).await;
        self.shown += 1;
        screen::change(&self.zendesk.model(), self.shown - 1)
    }
}

/// The next line of any companion.
async fn next_line(companions: &mut [Companion]) -> String {
    if companions.is_empty() {
        return std::future::pending().await;
    }
    select_all(companions.iter_mut().map(|companion| Box::pin(companion.next_line()))).await.0
}

/// Adds to the Zendesk account what the settings of a ticket name.
fn set_up(known: &mut Known, ticket: &Ticket) {
    known.groups.extend(ticket.group_id);
    known.assignees.extend(ticket.assignee_id);
    known.brands.extend(ticket.brand_id);
    known.forms.extend(ticket.form_id);
    known.fields.extend(ticket.custom_fields.iter().map(|field| field.id));
}

fn random_token() -> String {
    format!("demo-{:032x}", fastrand::u128(..))
}
