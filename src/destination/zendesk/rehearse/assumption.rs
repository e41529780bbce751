//! What casebridge assumes about Zendesk: the one list, which `docs/vendor-assumptions.md` repeats.

use serde::Serialize;

/// Makes one list into the closed set of assumptions.
macro_rules! assumptions {
    ($($name:ident: $id:literal, $text:literal, $used_in:literal;)*) => {
        /// Something about Zendesk that only its documentation says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Assumption {
            $(#[doc = $text] $name,)*
        }

        impl Assumption {
            /// All of them, in the order of the report.
            pub const ALL: &[Assumption] = &[$(Assumption::$name),*];

            /// The name in the report, which stays the same.
            pub fn id(self) -> &'static str {
                match self {
                    $(Assumption::$name => $id,)*
                }
            }

            /// The assumption in a sentence.
            pub fn text(self) -> &'static str {
                match self {
                    $(Assumption::$name => $text,)*
                }
            }

            /// The file in `src` that relies on it.
            pub fn used_in(self) -> &'static str {
                match self {
                    $(Assumption::$name => $used_in,)*
                }
            }
        }
    };
}

assumptions! {
    RateHeaders: "rate_headers",
        "Every answer has `x-rate-limit`, `x-rate-limit-remaining` and `ratelimit-reset`.",
        "destination/zendesk/budget.rs";
    TooManyRequests: "too_many_requests",
        "A 429 answer has `Retry-After`, and Zendesk has not carried out the request.",
        "destination/zendesk/outcome.rs";
    UserWithoutEmail: "user_without_email",
        "The service user can create a user from a name and an `external_id`, without an e-mail address.",
        "destination/zendesk/author.rs";
    UserLookUp: "user_look_up",
        "`users/show_many` finds a user by `external_id`.",
        "destination/zendesk/author.rs";
    HtmlBody: "html_body",
        "A comment shows its `html_body` as it was sent: the tags stay, and escaped text is shown as text.",
        "destination/html.rs";
    NoLinks: "no_links",
        "An address in the text of an `html_body` does not become a link.",
        "destination/html.rs";
    Placeholders: "placeholders",
        "Zendesk does not expand a placeholder with a word joiner between its braces.",
        "text.rs";
    PrivateComment: "private_comment",
        "A first comment with `public: false` is internal, and so is the ticket.",
        "destination/zendesk/ticket.rs";
    CommentAuthor: "comment_author",
        "`submitter_id` makes the service user the author of the first comment, for any requester.",
        "destination/zendesk/ticket.rs";
    Metadata: "metadata",
        "The ticket's audits show the `metadata` of the request as `metadata.custom`.",
        "destination/zendesk/update.rs";
    LookUp: "look_up",
        "`GET tickets?external_id=` finds a ticket before the lease of its delivery ends (`LEASE_SECONDS`).",
        "destination/zendesk.rs";
    IdempotencyHit: "idempotency_hit",
        "A repeated create with the same `Idempotency-Key` and the same bytes returns the same ticket and \
         creates no other.",
        "destination/zendesk.rs";
    IdempotencyMismatch: "idempotency_mismatch",
        "Zendesk refuses the same `Idempotency-Key` with other bytes: 400 `IdempotentRequestError`.",
        "destination/zendesk.rs";
    SafeUpdate: "safe_update",
        "With `safe_update`, Zendesk refuses an update with an outdated `updated_stamp` (409) and accepts \
         one with the current stamp.",
        "destination/zendesk/update.rs";
    UpdateHeader: "update_header",
        "The answer to an update shows the limit of updates in `zendesk-ratelimit-tickets-update`.",
        "destination/zendesk/budget.rs";
    TagsAdded: "tags_added",
        "`PUT tickets/{id}/tags` adds tags and keeps the others.",
        "destination/zendesk/update.rs";
    ClosedTicket: "closed_ticket",
        "A closed ticket shows the status `closed` and refuses updates with 422.",
        "destination/zendesk/update.rs";
    FollowUp: "follow_up",
        "`via_followup_source_id` creates a follow-up of a closed ticket, with the `external_id` and tags as sent.",
        "destination/zendesk/attempt.rs";
    MergedTicket: "merged_ticket",
        "A merged ticket is closed and has the tag `closed_by_merge`.",
        "destination/zendesk/merge.rs";
    MergeTarget: "merge_target",
        "The merged ticket names its target, whose audits show the merge as `via.source.rel`.",
        "destination/zendesk/merge.rs";
    DeletedTicket: "deleted_ticket",
        "Reading a deleted ticket returns 404 `RecordNotFound` or the status `deleted`.",
        "destination/zendesk/update.rs";
    DeletedList: "deleted_list",
        "`GET deleted_tickets` lists a deleted ticket.",
        "destination/zendesk/deleted.rs";
    HiddenTicket: "hidden_ticket",
        "Reading a ticket that the service user may not see returns 404 `RecordNotFound`, and the list of \
         deleted tickets does not contain it.",
        "destination/zendesk/deleted.rs";
}

/// What a rehearsal found about an assumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Confirmed,
    Refuted,
    NotTestable,
}

/// The result for one assumption.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub id: &'static str,
    pub assumption: &'static str,
    pub used_in: &'static str,
    pub state: State,
    /// What Zendesk did, or why that could not be seen.
    pub seen: String,
}
