//! The experiments. Each judges some assumptions; if one fails, the next ones go on.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::comment;
use super::tickets::{Left, Request, created};
use super::{Assumption, Interrupted, POLL, Rehearsal, TAG};
use crate::destination::html::Html;
use crate::destination::zendesk::audits::{Audit, Search};
use crate::destination::zendesk::author::NOT_NOW;
use crate::destination::zendesk::merge::MERGED_TAG;
use crate::destination::zendesk::reply::Reply;
use crate::destination::zendesk::update::{COLLISIONS, guarded_comment, shown};
use crate::destination::zendesk::{AuthorLookup, Call, Ticket, ticket};

/// The tag that is added to a ticket.
const ADDED_TAG: &str = "casebridge_rehearsal_added";
/// The time between two requests for the list of deleted tickets: Zendesk answers ten of them a minute.
const DELETED_POLL: Duration = Duration::from_secs(7);

/// The ticket on which most is tried.
struct First {
    ticket: u64,
    request: Request,
    /// When its create was answered.
    answered: Instant,
}

impl Rehearsal {
    /// Runs all experiments.
    ///
    /// # Errors
    /// No further experiment is possible.
    pub(super) async fn experiments(&mut self) -> Result<(), Interrupted> {
        use Assumption::*;
        self.cannot_test(&[TooManyRequests], "a rehearsal must not use up the account's requests");
        self.cannot_test(&[HiddenTicket], "it needs a ticket that the service user may not see");
        let result = self.limits().await;
        self.settle(result, &[RateHeaders])?;
        let result = self.author().await;
        self.settle(result, &[UserWithoutEmail, UserLookUp])?;
        let result = self.first().await;
        if let Some(first) = self.settle(result, &[])? {
            let result = self.look_up(&first).await;
            self.settle(result, &[LookUp])?;
            let result = self.rendering(&first).await;
            self.settle(result, &[HtmlBody, NoLinks, Placeholders, PrivateComment, CommentAuthor, Metadata])?;
            let result = self.idempotency(&first).await;
            self.settle(result, &[IdempotencyHit, IdempotencyMismatch])?;
            let result = self.updates(first.ticket).await;
            self.settle(result, &[SafeUpdate, UpdateHeader])?;
            let result = self.tags(first.ticket).await;
            self.settle(result, &[TagsAdded])?;
            let result = self.closing(first.ticket).await;
            self.settle(result, &[ClosedTicket, FollowUp])?;
        }
        let result = self.pair().await;
        if let Some((merged, target)) = self.settle(result, &[])? {
            let result = self.merge(merged, target).await;
            self.settle(result, &[MergedTicket, MergeTarget])?;
            let result = self.deletion(target).await;
            self.settle(result, &[DeletedTicket, DeletedList])?;
        }
        Ok(())
    }

    async fn limits(&mut self) -> Result<(), Interrupted> {
        let request = || self.zendesk.request(Method::GET, "/api/v2/tickets/count");
        let rate = self.ask(Call::Check, request).await?.rate;
        let headers = [
            ("x-rate-limit", rate.limit.is_none()),
            ("x-rate-limit-remaining", rate.remaining.is_none()),
            ("ratelimit-reset", rate.reset.is_none()),
        ];
        let missing = headers.into_iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| name);
        let missing: Vec<&str> = missing.collect();
        let seen = match missing.is_empty() {
            true => format!("{} requests a minute", rate.limit.unwrap_or_default()),
            false => format!("an answer without {}", missing.join(", ")),
        };
        self.judge(Assumption::RateHeaders, missing.is_empty(), seen);
        Ok(())
    }

    async fn author(&mut self) -> Result<(), Interrupted> {
        let Some(profile) = ticket::author_profile(&self.item()) else { return Ok(()) };
        // Zendesk creates one user a second, for all integrations of an account.
        let find_or_create =
            async || match self.patiently(async || self.zendesk.author(&profile).await).await? {
                AuthorLookup::User(id) => Ok(Some(Ok(id))),
                AuthorLookup::Refused(reason) => Ok(Some(Err(reason))),
                AuthorLookup::Later(_) => Ok(None),
            };
        let id = match self.poll(POLL, find_or_create).await? {
            Some(Ok(id)) => id,
            Some(Err(reason)) => {
                if self.show_user(&profile.key).await?.is_success() {
                    self.judge(Assumption::UserWithoutEmail, false, reason.clone());
                }
                let all = [Assumption::UserWithoutEmail, Assumption::UserLookUp, Assumption::CommentAuthor];
                self.cannot_test(&all, &reason);
                return Ok(());
            }
            None => return Err(Interrupted::Failed(NOT_NOW.to_owned())),
        };
        self.user = Some(id);
        self.judge(Assumption::UserWithoutEmail, true, format!("user {id}"));
        let created = Instant::now();
        let find = async || {
            let body: Value = self.show_user(&profile.key).await?.json().unwrap_or_default();
            let mut users = body["users"].as_array().into_iter().flatten();
            Ok(users.any(|user| user["id"].as_u64() == Some(id)).then(|| created.elapsed()))
        };
        let found = self.poll(POLL, find).await?;
        self.judge(Assumption::UserLookUp, found.is_some(), self.delay(found));
        Ok(())
    }

    async fn show_user(&self, external_id: &str) -> Result<Reply, Interrupted> {
        let query = [("external_ids", external_id)];
        let request = || self.zendesk.request(Method::GET, "/api/v2/users/show_many").query(&query);
        self.ask(Call::Author, request).await
    }

    async fn first(&mut self) -> Result<First, Interrupted> {
        let request = self.render("first", "first", None);
        let ticket = self.must_create(&request).await?.id;
        Ok(First { ticket, request, answered: Instant::now() })
    }

    async fn look_up(&mut self, first: &First) -> Result<(), Interrupted> {
        let number = first.ticket.to_string();
        let find = async || {
            let found = self.patiently(async || self.zendesk.look_up(&first.request.case_key).await).await?;
            Ok((found.open == Some(number.clone())).then(|| first.answered.elapsed()))
        };
        let found = self.poll(POLL, find).await?;
        self.judge(Assumption::LookUp, found.is_some(), self.delay(found));
        Ok(())
    }

    fn delay(&self, found: Option<Duration>) -> String {
        match found {
            Some(delay) => format!("found after {} ms", delay.as_millis()),
            None => format!("not found within {} s", self.lease.as_secs()),
        }
    }

    async fn rendering(&mut self, first: &First) -> Result<(), Interrupted> {
        let number = first.ticket.to_string();
        let create = |audit: &Audit| {
            let comment = audit.comment().filter(|_| audit.is_create())?.clone();
            Some((comment, audit.metadata["custom"]["delivery"].clone()))
        };
        let find = async || match self
            .patiently(async || self.zendesk.search_audits(&number, 1, create).await)
            .await?
        {
            Search::Found(found) => Ok(Some(found)),
            Search::Absent => Ok(None),
            Search::Forbidden(outcome) => Err(Interrupted::Failed(outcome.log().to_owned())),
        };
        let Some((comment, delivery)) = self.poll(POLL, find).await? else {
            return Err(Interrupted::Failed(format!(
                "the audits of ticket {number} do not show its creation"
            )));
        };
        let is_ours = delivery == first.request.delivery.as_str();
        self.judge(Assumption::Metadata, is_ours, if is_ours { "shown" } else { "not shown" });
        let sent = &first.request.body["ticket"];
        self.compare_html(
            sent["comment"]["html_body"].as_str().unwrap_or_default(),
            comment["html_body"].as_str().unwrap_or_default(),
        );
        let ticket = self.read(first.ticket).await?;
        let is_internal = comment["public"] == false && ticket.is_public != Some(true);
        let of_ticket =
            ticket.is_public.map_or_else(|| "missing".to_owned(), |is_public| is_public.to_string());
        let seen = format!("public: {}; is_public of the ticket: {of_ticket}", comment["public"]);
        self.judge(Assumption::PrivateComment, is_internal, seen);
        if let Some(user) = self.user {
            let service_user = self.account.service_user.id;
            let (author, requester) = (comment["author_id"].as_u64(), ticket.requester_id);
            let holds = author == Some(service_user) && requester == Some(user);
            let number = |id: Option<u64>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
            let seen = format!("author {}, requester {}", number(author), number(requester));
            self.judge(Assumption::CommentAuthor, holds, seen);
        }
        Ok(())
    }

    fn compare_html(&mut self, sent: &str, stored: &str) {
        let difference = comment::difference(sent, stored);
        let is_equal = difference.is_none();
        self.judge(Assumption::HtmlBody, is_equal, difference.unwrap_or_else(|| "shown as sent".to_owned()));
        let (expected, links) = (comment::links(sent), comment::links(stored));
        self.judge(Assumption::NoLinks, links <= expected, format!("links: {expected} sent, {links} shown"));
        let placeholder = comment::placeholder(stored);
        let holds = placeholder.is_some() && placeholder == comment::placeholder(sent);
        let seen = placeholder.map_or_else(|| "not shown".to_owned(), |text| format!("shown as `{text}`"));
        self.judge(Assumption::Placeholders, holds, seen);
    }

    async fn idempotency(&mut self, first: &First) -> Result<(), Interrupted> {
        let reply = self.create(&first.request).await?;
        let (ticket, lookup) = (created(&reply).map(|ticket| ticket.id), reply.idempotency_lookup.clone());
        let lookup = lookup.unwrap_or_else(|| "missing".to_owned());
        let seen = format!("{}; x-idempotency-lookup: {lookup}", answer(&reply, "the same create"));
        self.judge(Assumption::IdempotencyHit, ticket == Some(first.ticket), seen);
        let mut other = first.request.clone();
        other.body["ticket"]["subject"] = json!(format!("{} (other bytes)", self.name()));
        let reply = self.create(&other).await?;
        let is_refused = reply.status == 400 && reply.has_error("IdempotentRequestError");
        self.judge(Assumption::IdempotencyMismatch, is_refused, answer(&reply, "the other create"));
        Ok(())
    }

    async fn updates(&mut self, number: u64) -> Result<(), Interrupted> {
        let comment = Html::quote(&format!("{}: a comment", self.name()), 1000);
        let delivery = format!("{} (comment)", self.name());
        let before = self.read(number).await?;
        let change = |ticket: &Ticket| guarded_comment(&comment, &delivery, ticket);
        let mut is_changed = false;
        for _ in 0..COLLISIONS {
            let reply = self.put(number, &change(&self.read(number).await?)).await?;
            let has_limit = reply.updates.limit.is_some();
            let seen =
                reply.updates.limit.map_or("no such header".to_owned(), |limit| format!("{limit} a minute"));
            self.judge(Assumption::UpdateHeader, has_limit, seen);
            match shown(&reply, &number.to_string()) {
                // Times have a precision of a second.
                Some(after) if after.updated_at != before.updated_at => {
                    is_changed = true;
                    break;
                }
                Some(_) => self.pause(POLL).await?,
                // A trigger may have changed the ticket in between.
                None if reply.status == 409 => {}
                None => return Err(Interrupted::Failed(reply.reason(Call::Comment.name()).log)),
            }
        }
        if !is_changed {
            self.judge(Assumption::SafeUpdate, false, "updates with the current updated_stamp are refused");
            return Ok(());
        }
        let reply = self.put(number, &change(&before)).await?;
        self.judge(Assumption::SafeUpdate, reply.status == 409, answer(&reply, "the outdated update"));
        Ok(())
    }

    async fn tags(&mut self, number: u64) -> Result<(), Interrupted> {
        let (path, body) = (format!("/api/v2/tickets/{number}/tags"), json!({ "tags": [ADDED_TAG] }));
        let reply = self.ask(Call::Tags, || self.zendesk.request(Method::PUT, &path).json(&body)).await?;
        let ticket = self.read(number).await?;
        let holds = reply.is_success() && ticket.has_tag(TAG) && ticket.has_tag(ADDED_TAG);
        let seen =
            format!("{}; tags: {}", answer(&reply, "the tag"), ticket.tags.unwrap_or_default().join(" "));
        self.judge(Assumption::TagsAdded, holds, seen);
        Ok(())
    }

    async fn closing(&mut self, number: u64) -> Result<(), Interrupted> {
        let reply = self.set_status(number, "closed").await?;
        if !reply.is_success() {
            return self.refused(
                &reply,
                "the status closed",
                &[Assumption::ClosedTicket, Assumption::FollowUp],
            );
        }
        let ticket = self.read(number).await?;
        if ticket.is_closed() {
            self.set_state(number, Left::Closed);
        }
        let comment = Html::quote(&format!("{}: a late comment", self.name()), 1000);
        let reply = self.put(number, &guarded_comment(&comment, "late", &ticket)).await?;
        let status = ticket.status.as_deref().unwrap_or("none");
        let seen = format!("status {status}; {}", answer(&reply, "a late comment"));
        self.judge(Assumption::ClosedTicket, ticket.is_closed() && reply.status == 422, seen);
        let request = self.render("first", "follow-up", Some(number));
        let reply = self.create(&request).await?;
        let follow_up = created(&reply);
        // A trigger may have added others, but the closed ticket's tag must not be there.
        let is_as_sent = |ticket: &Ticket| {
            let has_tags = ticket.has_tag(TAG) && !ticket.has_tag(ADDED_TAG);
            has_tags && ticket.external_id.as_ref() == Some(&request.case_key)
        };
        let holds = follow_up.as_ref().is_some_and(is_as_sent);
        let changed = if follow_up.is_some() && !holds { ", but its external_id or tags differ" } else { "" };
        self.judge(Assumption::FollowUp, holds, format!("{}{changed}", answer(&reply, "the follow-up")));
        Ok(())
    }

    /// Creates a ticket to be merged, and the one into which it is merged.
    async fn pair(&mut self) -> Result<(u64, u64), Interrupted> {
        let merged = self.must_create(&self.render("merged", "to be merged", None)).await?.id;
        let target = self.must_create(&self.render("deleted", "to be deleted", None)).await?.id;
        Ok((merged, target))
    }

    /// Merges as agents do: their dialogue suggests these comments.
    async fn merge(&mut self, merged: u64, target: u64) -> Result<(), Interrupted> {
        let path = format!("/api/v2/tickets/{target}/merge");
        let body = json!({
            "ids": [merged],
            "source_comment": format!("This request was closed and merged into request #{target}."),
            "target_comment": format!("Request #{merged} was closed and merged into this request."),
        });
        let reply = self.ask(Call::Show, || self.zendesk.request(Method::POST, &path).json(&body)).await?;
        if !reply.is_success() {
            return self.refused(&reply, "the merge", &[Assumption::MergedTicket, Assumption::MergeTarget]);
        }
        // Zendesk merges in the background.
        let closed = async || Ok(Some(self.read(merged).await?).filter(Ticket::is_closed));
        let Some(ticket) = self.poll(POLL, closed).await? else {
            let reason = format!("the merge did not close ticket {merged} within {} s", self.lease.as_secs());
            return Err(Interrupted::Failed(reason));
        };
        self.set_state(merged, Left::Closed);
        let seen =
            format!("closed, tags: {}", ticket.tags.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
        self.judge(Assumption::MergedTicket, ticket.has_tag(MERGED_TAG), seen);
        let (merged, target) = (merged.to_string(), target.to_string());
        let find = async || {
            let found = self.patiently(async || self.zendesk.merge_target(&merged).await).await?;
            Ok(found.filter(|found| *found == target))
        };
        let found = self.poll(POLL, find).await?;
        let seen = if found.is_some() { "found" } else { "the audits do not show the merge" };
        self.judge(Assumption::MergeTarget, found.is_some(), seen);
        Ok(())
    }

    async fn deletion(&mut self, number: u64) -> Result<(), Interrupted> {
        const BOTH: [Assumption; 2] = [Assumption::DeletedTicket, Assumption::DeletedList];
        let path = format!("/api/v2/tickets/{number}");
        let reply = self.ask(Call::Show, || self.zendesk.request(Method::DELETE, &path)).await?;
        if !reply.is_success() {
            return self.refused(&reply, "the deletion", &BOTH);
        }
        self.set_state(number, Left::Deleted);
        let reply = self.ask(Call::Show, || self.zendesk.request(Method::GET, &path)).await?;
        let is_deleted = shown(&reply, &number.to_string()).is_some_and(|ticket| ticket.is_deleted());
        self.judge(Assumption::DeletedTicket, is_deleted || reply.is_not_found(), answer(&reply, "a read"));
        let first = || self.zendesk.request(Method::GET, "/api/v2/deleted_tickets");
        let reply = self.ask(Call::Deleted, first).await?;
        if !reply.is_success() {
            return self.refused(&reply, Call::Deleted.name(), &BOTH);
        }
        let deleted = Instant::now();
        let find = async || {
            let listed = self.patiently(async || self.zendesk.deleted_tickets().await).await?;
            Ok(listed.contains(&number).then(|| deleted.elapsed()))
        };
        let found = self.poll(DELETED_POLL, find).await?;
        self.judge(Assumption::DeletedList, found.is_some(), self.delay(found));
        Ok(())
    }
}

/// An answer as evidence, without the texts in it.
fn answer(reply: &Reply, what: &str) -> String {
    match created(reply) {
        Some(ticket) => format!("Zendesk answered {} to {what}, with ticket {}", reply.status, ticket.id),
        None => reply.reason(what).log,
    }
}
