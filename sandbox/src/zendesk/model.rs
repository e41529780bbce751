//! The state of the account.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use axum::body::Bytes;
use jiff::SignedDuration;
use serde_json::Value;

use super::AGENT;
use super::faults::{Chaos, Fault};
use super::limits::{Minute, Recent};
use super::quirks::Quirk;

/// What an administrator of the account has set up; other ids are refused.
#[derive(Clone, Debug)]
pub struct Known {
    /// Groups that a ticket can be assigned to.
    pub groups: BTreeSet<u64>,
    /// Agents.
    pub assignees: BTreeSet<u64>,
    /// Brands.
    pub brands: BTreeSet<u64>,
    /// Ticket forms.
    pub forms: BTreeSet<u64>,
    /// Custom fields of tickets.
    pub fields: BTreeSet<u64>,
    /// Those that an administrator has deactivated, or suspended if it is an agent. Their own endpoints say
    /// so; tickets may still name them.
    pub inactive: BTreeSet<u64>,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            groups: BTreeSet::from([10]),
            assignees: BTreeSet::from([AGENT]),
            brands: BTreeSet::from([30]),
            forms: BTreeSet::from([40]),
            fields: BTreeSet::from([50, 51]),
            inactive: BTreeSet::new(),
        }
    }
}

/// The state of the account, and what a test changes in its behaviour.
#[derive(Default)]
pub struct Model {
    /// The tickets as they are now, with the first comment and the metadata, which no answer contains.
    pub tickets: Vec<Value>,
    /// Deleted tickets, which no search finds.
    pub deleted: Vec<Value>,
    /// Deleted tickets that the list of deleted tickets does not contain either.
    pub purged: BTreeSet<u64>,
    /// Tickets that were closed long ago: lists leave them out, and the search finds them.
    pub archived: BTreeSet<u64>,
    /// The tickets as the search index has them, if it lags behind.
    pub outdated_index: Option<Vec<Value>>,
    /// Tickets that the service user may not see. The answer is 404, as if they did not exist.
    pub hidden: BTreeSet<u64>,
    /// The firewall in front of Zendesk answers creates that contain this text with 403 and an HTML page.
    pub firewall: Option<String>,
    /// The status that answers reads of these users, by `external_id`.
    pub refused_authors: BTreeMap<String, u16>,
    /// The audits of all tickets, the oldest first.
    pub audits: Vec<Value>,
    /// End users; deleted ones have `active: false`.
    pub users: Vec<Value>,
    /// What the administrator has set up.
    pub known: Known,
    /// Seconds of the logical clock since the beginning of 2026.
    pub(super) seconds: u64,
    /// Audits and their events so far; they share their numbers.
    pub(super) events: u64,
    /// The first body and its answer, by idempotency key.
    pub(super) idempotency: HashMap<String, (Bytes, Value)>,
    /// Faults of the next creates, one for each.
    pub faults: VecDeque<Fault>,
    /// Faults of the next `PUT /api/v2/tickets/{id}`, one for each.
    pub update_faults: VecDeque<Fault>,
    /// How the account differs from what is documented.
    pub quirk: Option<Quirk>,
    /// Faults of the next searches, one for each.
    pub search_faults: VecDeque<Fault>,
    /// The fault of every request, reads included, until it is cleared.
    pub outage: Option<Fault>,
    /// Faults by chance.
    pub chaos: Option<Chaos>,
    /// Requests per minute that the account allows, as the headers say.
    pub limit: u32,
    /// Requests that other integrations use at the start of each minute.
    pub used_by_others: u32,
    pub(super) minute: Option<Minute>,
    /// Requests that were refused because there were too many.
    pub too_many: u32,
    /// Scopes that the OAuth client may ask for.
    pub scopes: BTreeSet<&'static str>,
    /// Scopes that no token gets, although the client asks for them.
    pub withheld: BTreeSet<&'static str>,
    /// How far the `Date` of its answers is ahead of the real time.
    pub clock_ahead: SignedDuration,
    /// The scopes of each minted token.
    pub(super) granted: Vec<String>,
    /// Tokens minted so far; the number is part of the token.
    pub minted: u32,
    /// Tokens up to this number are no longer valid.
    pub(super) void: u32,
    /// Calls to create, failed ones included.
    pub creates: u32,
    /// Lists by `external_id`.
    pub look_ups: u32,
    /// Calls of `GET /api/v2/search`, failed ones included.
    pub searches: u32,
    /// Creates without a key: a defect of the caller.
    pub keyless: u32,
    /// Creates whose key was known with other bytes: a defect of the caller.
    pub key_mismatches: u32,
    /// Makes every comment private, as an account's settings can.
    pub private_only: bool,
    /// Calls of `PUT /api/v2/tickets/{id}`, failed ones included.
    pub updates: u32,
    /// Updates per minute that the account allows, those of tags included.
    pub update_limit: u32,
    /// Updates that agents use at the start of each minute.
    pub updates_by_agents: u32,
    pub(super) update_minute: Option<Minute>,
    /// When each ticket was updated recently.
    pub(super) ticket_updates: HashMap<u64, Recent>,
    /// Updates that were refused because there were too many.
    pub too_many_updates: u32,
    /// Whether the role of the service user denies access to other users.
    pub forbid_users: bool,
    /// No address of a picture is accepted.
    pub refuse_photos: bool,
    /// Whether the role of the service user denies merging and deleting tickets.
    pub forbid_deletions: bool,
    /// The status that the endpoints of users answer, while those of tickets work.
    pub user_outage: Option<u16>,
    /// Calls of `GET /api/v2/users/show_many`.
    pub user_reads: u32,
    /// Calls of `POST /api/v2/users/create_or_update`, failed ones included.
    pub user_writes: u32,
    pub(super) last_user_write: Option<Instant>,
    /// Whether other integrations use up the one user that Zendesk creates a second.
    pub users_are_made_by_others: bool,
    /// When each user was written recently, by `external_id` in lower case.
    pub(super) recent_user_writes: HashMap<String, Recent>,
    /// Writes of users that the limits of their endpoint refused.
    pub too_many_user_writes: u32,
}

impl Model {
    /// Moves the logical clock on by one second, and returns its time.
    pub(super) fn tick(&mut self) -> String {
        const START: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z
        self.seconds += 1;
        let now = jiff::Timestamp::from_second(START.saturating_add_unsigned(self.seconds));
        now.unwrap_or_default().to_string()
    }
}
