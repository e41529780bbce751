//! When texts may be sent: the quiet hours of each day, and a limit for each hour, for every destination that sends
//! texts to phones. Both delay texts, and lose none.
//!
//! A route sends at most `TEXT_MAX_PER_HOUR` texts in any hour by each destination, in all processes on the database
//! together. The limit counts in the database, as that of tickets does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{error, info};

use super::held::{Held, hold};
use super::quiet_hours::QuietHours;
use super::template::{Context, Subject, Template};
use crate::delivery::{Cause, Claim, Outcome};
use crate::env::doc::{Group, Section};
use crate::env::{Reader, parse, variables};
use crate::item::Item;
use crate::ledger::{Ledger, Memos, Stopped, StorageError};
use crate::route::Route;

const PREFIX: &str = "TEXT_";
const MAX_PER_HOUR: u32 = 60;
const HOUR: Duration = Duration::from_secs(3600);
/// When quiet hours end, the worker wakes the oldest deliveries first. The others are due after this time anyway.
const AFTER_QUIET: Duration = Duration::from_secs(60);
variables! {
    /// The variables of texts: `TEXT_…`, and `ROUTE_<NAME>_TEXT_…` for one route.
    Variables:
    /// The hours of each day, and their time zone, in which casebridge sends no text by Twilio or Flow. The texts wait
    /// until these hours end.
    quiet_hours = unset().example("'22:00-07:00 Europe/Berlin'");
    /// The most texts that a route sends in any hour, counted separately for Twilio and Flow; further ones wait. A
    /// broadcast of Flow counts as one. `0`: no limit.
    max_per_hour = default("60");
}

pub const SECTION: Section = Section {
    title: "Texts",
    intro: "These settings apply to [Twilio](twilio.md) and to [Flow](destinations.md#flow-broadcasts).",
    groups: &[Group::per_route(PREFIX, Variables::DOCS)],
    prefixes: &["TEXT_QUIET", "TEXT_MAX"],
};

/// When the texts of one route may be sent.
#[derive(Clone, Debug)]
pub struct Texting {
    /// `TEXT_QUIET_HOURS`
    pub quiet_hours: Option<QuietHours>,
    /// `TEXT_MAX_PER_HOUR`; 0: no limit.
    pub max_per_hour: u32,
}

impl Default for Texting {
    fn default() -> Texting {
        Texting { quiet_hours: None, max_per_hour: MAX_PER_HOUR }
    }
}

/// By route.
pub type Texts = BTreeMap<String, Texting>;

/// Reads the settings of each route. Wrong ones become problems, once, however many destinations read them.
pub fn read(reader: &mut Reader, routes: &[Route]) -> Texts {
    let of_route = |route: &Route| {
        let variables = Variables::read_for(reader, route, PREFIX);
        let quiet_hours = reader.optional(variables.quiet_hours(), QuietHours::parse);
        let max_per_hour = reader.or(variables.max_per_hour(), MAX_PER_HOUR, parse::number(0..=1_000_000));
        (route.name.clone(), Texting { quiet_hours, max_per_hour })
    };
    let texts = routes.iter().map(of_route).collect();
    reader.drop_repeated();
    texts
}

/// Parses a phone number in the form E.164, with spaces and punctuation as people write them.
pub fn phone_number(text: &str) -> Option<String> {
    let number: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '(' | ')' | '.')).collect();
    let digits = number.strip_prefix('+')?;
    let is_number = (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !digits.starts_with('0')).then_some(number)
}

/// Renders a template of plain text about an item.
///
/// # Errors
/// The kind of the failure, without a word of the item.
pub fn render(template: &Template, item: &Item, route: &Route, cause: &Cause) -> Result<String, String> {
    template.render(
        &Context::new(&Subject {
            item,
            label: route.label.as_deref().unwrap_or_default(),
            route: &route.name,
            is_public: false,
            notes: &item.notes,
            more_notes: 0,
            time_zone: &TimeZone::UTC,
        })
        .with_cause(cause),
    )
}

/// Decides when the texts of one destination go out.
pub struct Schedule {
    texts: Texts,
    /// The code of its alert about the limit.
    alert: &'static str,
    held: Held,
}

/// The limits that hold texts back: the first words of the reasons.
pub const LIMITS: &[&str] = &["quiet_hours", "text_limit"];

impl Schedule {
    pub fn new(texts: Texts, alert: &'static str) -> Schedule {
        Schedule { texts, alert, held: Held::new(alert) }
    }

    /// Holds a text back in quiet hours. Call it before each request that sends one.
    ///
    /// # Errors
    /// The outcome of a delivery that waits.
    pub fn check_quiet_hours(&self, claim: &Claim, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        let now = Timestamp::now();
        let Some(hours) = self.texting(&claim.route).quiet_hours else { return Ok(()) };
        let Some(end) = hours.end_after(now) else { return Ok(()) };
        self.held.begin(&claim.route, ledger.alerts());
        let wait = Duration::try_from(end.duration_since(now)).unwrap_or_default() + AFTER_QUIET;
        Err(Outcome::held(&format!("quiet hours {hours}"), wait).into())
    }

    /// The same, and holds the text back at the limit of its route; otherwise takes its place there. Call it before the
    /// bytes of the text are frozen.
    ///
    /// # Errors
    /// The outcome of a delivery that waits, or [`Stopped::Storage`].
    pub async fn take_place(&self, claim: &Claim, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        self.check_quiet_hours(claim, ledger)?;
        let (route, most) = (&claim.route, self.texting(&claim.route).max_per_hour);
        // Deliveries that are held already go first.
        let is_last = claim.attempts == 1 && self.held.has(route);
        let scope = places(route);
        if most == 0 || !is_last && ledger.memos().take_place(&scope, &claim.identity, most, HOUR).await? {
            return Ok(());
        }
        self.held.begin(route, ledger.alerts());
        Err(hold(&format!("text limit of {most} texts an hour for route {route}")).into())
    }

    /// Wakes as many held deliveries of each route as may be sent now, the oldest first, and reports the others.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        let started = Instant::now();
        if !self.held.is_due(started) {
            return Ok(());
        }
        let held = memos.held().await?;
        for (route, waiting) in &held {
            let Texting { quiet_hours, max_per_hour: most } = self.texting(route);
            if quiet_hours.is_some_and(|hours| hours.is_quiet(Timestamp::now())) {
                continue;
            }
            let free = match most {
                0 => i64::MAX,
                most => memos.free_places(&places(route), "", most, HOUR).await?,
            };
            if free > 0 {
                memos.wake_held(route, free).await?;
            }
            if *waiting > free {
                self.report(memos, route, *waiting - free, most);
            }
        }
        let destination = memos.destination();
        for route in self.held.checked(held.keys().map(String::as_str), started) {
            info!(
                event = "text_limit_over",
                destination, route, "route {route} is below its limit again; no text is held back"
            );
        }
        Ok(())
    }

    fn texting(&self, route: &str) -> Texting {
        self.texts.get(route).cloned().unwrap_or_default()
    }

    fn report(&self, memos: &Memos, route: &str, waiting: i64, most: u32) {
        let (alert, destination) = (self.alert, memos.destination());
        let detail = format!("{waiting} texts wait at the limit of {most} an hour");
        if self.held.raise(route, alert, detail, memos.alerts()) {
            error!(
                event = "text_limit",
                alert,
                destination,
                route,
                waiting,
                "{waiting} texts wait at the limit of {most} an hour. Raise TEXT_MAX_PER_HOUR, or use casebridge discard"
            );
        }
    }
}

/// The scope of memos with the texts of a route in the last hour, one place for each.
fn places(route: &str) -> String {
    format!("sent.{route}")
}
