//! One attempt at a delivery: posts the first message of its case, or edits it and posts a reply.
//!
//! An edit can be repeated, so it comes first, and shows whether the first message is still there. The reply, or a new
//! first message, is the delivery itself: it is looked up if it may have been posted.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::answer::{Failure, Kind};
use super::api::Found;
use super::message::{Mark, Message, Place, hash};
use super::settings::{IfUnreadable, Mention, Target};
use super::{Slack, check};
use crate::delivery::{Action, Claim, Doubt, History, Latest, Origin, Outcome, Reason};
use crate::destination::Job;
use crate::destination::channels::Exclusive;
use crate::item::Note;
use crate::ledger::{Ledger, Stopped};

/// Clocks may differ by this much.
const CLOCKS: SignedDuration = SignedDuration::from_mins(10);
/// How far back casebridge looks for messages of earlier deliveries.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(24);
/// The most forms of a message that are tried: the full one, then without blocks, without metadata, outside its thread.
const FORMS: usize = 4;

/// The memo of the latest delivery of the case: the first message in each channel.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Case {
    roots: BTreeMap<String, Root>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Root {
    ts: String,
    /// The mark of the delivery that posted it.
    id: String,
    replies: usize,
    /// The notes that messages of the case have shown, as short hashes.
    notes: Vec<String>,
}

/// The memo of a frozen message: where it goes, and when it was first sent.
#[derive(Clone, Serialize, Deserialize)]
struct Frozen {
    channel: String,
    root: Option<String>,
    /// Milliseconds since 1970, UTC.
    at: i64,
}

struct Attempt<'a> {
    slack: &'a Slack,
    job: &'a Job<'a>,
    ledger: &'a Ledger<'a>,
    target: &'a Target,
    turn: Exclusive<'a>,
    mark: Mark,
    history: History,
    case: Case,
    /// The mark of this delivery, if its message may have been posted.
    frozen: Option<Frozen>,
    root: Option<Root>,
    revision: i64,
    is_plain: bool,
    has_no_metadata: bool,
    /// The first message of the case that this one replaces.
    replaced: Option<String>,
    may_be_duplicate: bool,
}

impl Slack {
    pub(super) async fn attempt_in<'a>(
        &'a self,
        target: &'a Target,
        turn: Exclusive<'a>,
        job: &'a Job<'a>,
        ledger: &'a Ledger<'a>,
    ) -> Result<Outcome, Stopped> {
        let (claim, history) = (job.claim, ledger.history().await?);
        let case: Case = match &history.latest {
            Latest::Done { memo, .. } => serde_json::from_str(memo).unwrap_or_default(),
            Latest::None | Latest::Unknown => Case::default(),
        };
        let memo = claim.request_memo.as_deref().filter(|_| claim.in_doubt && claim.request.is_some());
        let attempt = Attempt {
            slack: self,
            root: case.roots.get(&target.channel).cloned(),
            mark: Mark::new(&claim.identity, &claim.case_key),
            frozen: memo.and_then(|memo| serde_json::from_str(memo).ok()),
            revision: claim.revision + i64::from(claim.request.is_some()),
            is_plain: false,
            has_no_metadata: false,
            replaced: None,
            may_be_duplicate: false,
            job,
            ledger,
            target,
            turn,
            history,
            case,
        };
        attempt.run().await
    }
}

impl Attempt<'_> {
    async fn run(mut self) -> Result<Outcome, Stopped> {
        let claim = self.job.claim;
        let may_be_posted = claim.in_doubt
            || claim.origin == Origin::Feed
            || self.history.may_be_restored
            || self.history.latest == Latest::Unknown;
        let found = match may_be_posted {
            true => {
                let found = self.look_up().await?;
                self.recorded(found)
            }
            false => Found::Nothing,
        };
        self.may_be_duplicate = self.frozen.is_some() && matches!(found, Found::Unreadable);
        match found {
            Found::Message(ts, _) => {
                let channel = self.frozen.as_ref().map_or(&self.target.channel, |frozen| &frozen.channel);
                return Ok(self.done(channel, ts));
            }
            Found::Unreadable if self.may_be_duplicate && self.slack.settings.doubt == IfUnreadable::Hold => {
                let reason =
                    "may have been sent, and the channel cannot be read: `casebridge replay` sends it again";
                return Ok(Outcome::Dead { reason: Reason::new(reason) });
            }
            Found::Nothing | Found::Unreadable => {}
        }
        let is_same = |frozen: &Frozen| {
            frozen.channel == self.target.channel
                && frozen.root.as_ref() == self.root.as_ref().map(|root| &root.ts)
        };
        let body = match &claim.request {
            Some(bytes) if !self.may_be_duplicate && self.frozen.as_ref().is_some_and(is_same) => {
                bytes.clone()
            }
            _ => {
                self.edit().await?;
                if self.root.is_none() {
                    let (memos, is_first) = (self.ledger.memos(), claim.attempts == 1);
                    let channel = &self.target.channel;
                    if let Some(held) =
                        self.slack.hold_new(&memos, channel, &claim.identity, is_first).await?
                    {
                        return Ok(held);
                    }
                }
                self.freeze().await?
            }
        };
        self.post(body).await
    }

    /// Looks for the message of this delivery, and for the first message of the case unless it is known.
    async fn look_up(&mut self) -> Result<Found, Stopped> {
        let (channel, since) = match &self.frozen {
            Some(frozen) => (frozen.channel.clone(), Timestamp::from_millisecond(frozen.at).ok()),
            None => {
                let received = Timestamp::from_millisecond(self.job.claim.received_at).ok();
                let first = self.job.item.event_made.into_iter().chain(received).min();
                (
                    self.target.channel.clone(),
                    first.map(|first| first.saturating_sub(LOOK_BACK).unwrap_or(first)),
                )
            }
        };
        let since = since.unwrap_or_default().saturating_sub(CLOCKS).unwrap_or_default();
        let known = match &self.frozen {
            Some(frozen) => frozen.root.clone(),
            None => self.root.as_ref().map(|root| root.ts.clone()),
        };
        let thread = match known {
            Some(thread) => thread,
            None => match self.search(&channel, None, since, |mark| mark.case == self.mark.case).await? {
                Found::Message(ts, mark) if mark.id != self.mark.id => {
                    if channel == self.target.channel {
                        self.root = Some(Root { ts: ts.clone(), id: mark.id, ..Root::default() });
                    }
                    ts
                }
                found => return Ok(found),
            },
        };
        if let Some(root) = self.root.as_ref().filter(|root| root.id == self.mark.id) {
            return Ok(Found::Message(root.ts.clone(), self.mark.clone()));
        }
        self.search(&channel, Some(&thread), since, |mark| mark.id == self.mark.id).await
    }

    /// Puts the result of a lookup on record, if it has one.
    fn recorded(&self, found: Found) -> Found {
        match found {
            Found::Message(..) => self.ledger.looked_up(true),
            Found::Nothing => self.ledger.looked_up(false),
            Found::Unreadable => {}
        }
        found
    }

    async fn search(
        &self,
        channel: &str,
        root: Option<&str>,
        since: Timestamp,
        is_it: impl Fn(&Mark) -> bool,
    ) -> Result<Found, Stopped> {
        match self.slack.search(channel, root, since, is_it).await {
            // This channel is from earlier settings.
            Err(Failure { kind: Kind::Channel, .. }) if channel != self.target.channel => {
                Ok(Found::Unreadable)
            }
            found => found.map_err(|failure| self.failed(&failure, Doubt::None).into()),
        }
    }

    /// Shows the current state in the first message of the case, unless a later delivery will. If that message is
    /// gone, this delivery posts another one.
    async fn edit(&mut self) -> Result<(), Stopped> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let as_of = match self.history.latest {
            Latest::Done { as_of, .. } => as_of,
            Latest::None | Latest::Unknown => 0,
        };
        if self.job.claim.received_at < as_of || self.ledger.is_superseded().await? {
            return Ok(());
        }
        let mark = Mark { id: root.id.clone(), case: self.mark.case.clone() };
        let place = Place::Edit { ts: &root.ts, editor: &self.mark.id, replies: root.replies + 1 };
        let (body, _) = self.message(&mark, place, &[], Vec::new()).body();
        self.ledger.sending().await?;
        let edited = self.slack.write("chat.update", &body.to_string(), Some(self.ledger)).await;
        let Err(failure) = edited else { return Ok(()) };
        match failure.kind {
            Kind::Thread => self.replaced = self.root.take().map(|root| root.ts),
            Kind::Markup | Kind::Metadata | Kind::Invalid | Kind::Unknown => {
                let (case, word) = (&self.job.claim.case_key, failure.word);
                warn!(
                    event = "slack_edit_refused",
                    case, "Slack refused an edit, posting only the reply: {word}"
                );
            }
            _ => return Err(self.failed(&failure, Doubt::None).into()),
        }
        Ok(())
    }

    /// Renders the message, and stores its bytes.
    async fn freeze(&mut self) -> Result<String, Stopped> {
        let (claim, item) = (self.job.claim, self.job.item);
        let known = self.root.as_ref().map(|root| &root.notes[..]).unwrap_or_default();
        let notes: Vec<&Note> = item.notes.iter().filter(|note| !known.contains(&hash_of(note))).collect();
        let place = match &self.root {
            Some(root) => Place::Reply { root: &root.ts, notes: &notes },
            None => Place::Root,
        };
        let (mentions, mut notices) = self.mentions();
        if self.may_be_duplicate {
            notices.push("This may be a duplicate: the answer to the first one was lost".to_owned());
        }
        if self.replaced.is_some() {
            notices.push("Continues an earlier message that no longer accepts replies".to_owned());
        }
        let (body, failure) = self.message(&self.mark, place, mentions, notices).body();
        if let Some(failure) = failure {
            let Claim { case_key: case, identity: delivery, .. } = claim;
            warn!(
                event = "template_failed",
                case, delivery, "SLACK_TEXT failed, using the built-in text; correct the template: {failure}"
            );
        }
        let frozen = Frozen {
            channel: self.target.channel.clone(),
            root: self.root.as_ref().map(|root| root.ts.clone()),
            at: Timestamp::now().as_millisecond(),
        };
        let revised = Claim { revision: self.revision, ..claim.clone() };
        let body = body.to_string();
        self.ledger.freeze(&revised, &body, &serde_json::to_string(&frozen).unwrap_or_default()).await?;
        self.revision += 1;
        Ok(body)
    }

    /// Posts the message, and once more in each simpler form that Slack demands.
    async fn post(mut self, mut body: String) -> Result<Outcome, Stopped> {
        for _ in 0..FORMS {
            tokio::time::sleep(self.turn.pace(Instant::now())).await;
            self.ledger.sending().await?;
            let failure = match self.slack.post(&self.target.channel, &body, self.ledger).await {
                Ok(ts) => return Ok(self.done(&self.target.channel, ts)),
                Err(failure) => failure,
            };
            match failure.kind {
                Kind::Thread if self.root.is_some() => self.replaced = self.root.take().map(|root| root.ts),
                Kind::Markup if !self.is_plain => {
                    self.is_plain = true;
                    let (case, word) = (&self.job.claim.case_key, &failure.word);
                    warn!(
                        event = "slack_plain",
                        case, "Slack refused the blocks, posting plain text: {word}"
                    );
                }
                Kind::Metadata if !self.has_no_metadata => self.has_no_metadata = true,
                Kind::Unknown => return self.settle_unknown(&failure).await,
                _ => return Ok(self.failed(&failure, Doubt::Unanswered)),
            }
            body = self.freeze().await?;
        }
        Ok(Outcome::Refused { reason: Reason::new("Slack refuses every form of the message") })
    }

    /// After an error that Slack does not document, looks for the message once.
    async fn settle_unknown(self, failure: &Failure) -> Result<Outcome, Stopped> {
        let (root, since) = (self.root.as_ref().map(|root| root.ts.as_str()), Timestamp::now());
        let since = since.saturating_sub(CLOCKS).unwrap_or(since);
        let found =
            self.slack.search(&self.target.channel, root, since, |mark| mark.id == self.mark.id).await;
        match found.map(|found| self.recorded(found)) {
            Ok(Found::Message(ts, _)) => Ok(self.done(&self.target.channel, ts)),
            Ok(Found::Nothing | Found::Unreadable) => Ok(failure.outcome(Doubt::None)),
            Err(_) => Ok(Failure { kind: Kind::Doubt, ..failure.clone() }.outcome(Doubt::Unanswered)),
        }
    }

    /// The outcome of a message that is in this channel, which may be from earlier settings.
    fn done(&self, channel: &str, ts: String) -> Outcome {
        self.turn.resume();
        let new = || Root { ts: ts.clone(), id: self.mark.id.clone(), ..Root::default() };
        let known = match channel == self.target.channel {
            true => self.root.clone(),
            false => self.case.roots.get(channel).cloned(),
        };
        let mut root = known.unwrap_or_else(new);
        root.replies += usize::from(root.ts != ts);
        let notes = self.job.item.notes.iter().map(hash_of).filter(|note| !root.notes.contains(note));
        root.notes.extend(notes.collect::<Vec<_>>());
        let mut case = self.case.clone();
        case.roots.insert(channel.to_owned(), root);
        let memo = serde_json::to_string(&case).unwrap_or_default();
        Outcome::sent_as(Action::Sent, format!("{channel}/{ts}"), memo)
    }

    /// The outcome of a failure. A failure of a channel pauses only that channel.
    fn failed(&self, failure: &Failure, doubt: Doubt) -> Outcome {
        let (channel, word) = (&self.target.channel, &failure.word);
        let (reason, needs_action) = match failure.kind {
            Kind::Throttled => (format!("Slack throttles messages to {channel}: {word}"), false),
            Kind::Channel => (format!("{word} ({channel}): {}", check::advice(word)), true),
            _ => return failure.outcome(doubt),
        };
        self.turn.pause(&reason, failure.wait(), needs_action, Instant::now(), self.ledger.alerts());
        self.slack.hold_by_pause(&reason)
    }

    /// The people whom the message mentions, or a notice why it mentions nobody.
    fn mentions(&self) -> (&[Mention], Vec<String>) {
        let (item, target, settings) = (self.job.item, self.target, &self.slack.settings);
        let action = self.job.claim.cause().map(|cause| cause.action).unwrap_or_default();
        let calls =
            self.root.is_none() || item.is_urgent() || ["reopened", "followed_up"].contains(&action.as_str());
        let is_low = item.priority(target.priority) < settings.mention_priority;
        if !calls || is_low || target.mentions.is_empty() {
            return (&[], Vec::new());
        }
        match settings.quiet_hours.as_ref().filter(|hours| hours.is_quiet(Timestamp::now())) {
            Some(hours) => (&[], vec![format!("Mentions are off during the quiet hours ({hours})")]),
            None => (&target.mentions, Vec::new()),
        }
    }

    fn message<'a>(
        &'a self,
        mark: &'a Mark,
        place: Place<'a>,
        mentions: &'a [Mention],
        notices: Vec<String>,
    ) -> Message<'a> {
        let Attempt { job, target, is_plain, has_no_metadata, .. } = *self;
        Message { job, target, mark, place, mentions, notices, is_plain, has_no_metadata }
    }
}

/// A short hash that distinguishes the notes of a case.
fn hash_of(note: &Note) -> String {
    format!("{:.8}", hash(&note.text))
}
