//! Ways in which Zendesk may differ from what its documentation says.

use std::sync::LazyLock;

use regex::Regex;

use super::Model;
use super::text::fill_placeholders;

/// Makes one list into the closed set of quirks.
macro_rules! quirks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One difference from the documented behaviour.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Quirk {
            $($(#[$doc])* $name,)*
        }

        impl Quirk {
            /// All of them.
            pub const ALL: &[Quirk] = &[$(Quirk::$name),*];
        }
    };
}

quirks! {
    /// No answer has `ratelimit-reset`.
    NoRateReset,
    /// A user needs an e-mail address.
    EmailRequired,
    /// `show_many` finds no users.
    UsersNotFound,
    /// Quotations lose their tags.
    QuotesLost,
    /// Addresses in a comment become links.
    LinksMade,
    /// An invisible character does not protect a placeholder.
    PlaceholdersFilled,
    /// Every comment is public.
    PublicComments,
    /// The requester is the author of the first comment.
    RequesterComments,
    /// Audits have no metadata of requests.
    MetadataLost,
    /// A search by `external_id` finds nothing.
    LookUpBlind,
    /// A repeated request creates another ticket.
    RepeatCreates,
    /// Other bytes under a known key create another ticket.
    OtherBytesCreate,
    /// `safe_update` has no effect.
    UnsafeUpdates,
    /// No answer has the limit of updates.
    NoUpdateLimit,
    /// Tags replace those that a ticket has.
    TagsReplaced,
    /// A closed ticket takes updates.
    ClosedUpdates,
    /// A follow-up has no `external_id`.
    FollowUpUnnamed,
    /// A merged ticket has no tag.
    MergeUntagged,
    /// The target's audits do not show a merge.
    MergeUnnamed,
    /// A deleted ticket is shown as before.
    DeletedShown,
    /// The list of deleted tickets is empty.
    DeletedUnlisted,
}

impl Model {
    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.quirk == Some(quirk)
    }

    /// The HTML of a comment as it is stored.
    pub(super) fn stored_html(&self, html: String) -> String {
        static ADDRESS: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"([ ;>])(https?://[^\s<&]+)").ok());
        match (self.quirk, ADDRESS.as_ref()) {
            (Some(Quirk::QuotesLost), _) => {
                html.replace("<blockquote>", "<p>").replace("</blockquote>", "</p>")
            }
            (Some(Quirk::LinksMade), Some(address)) => {
                address.replace_all(&html, "$1<a href=\"$2\">$2</a>").into_owned()
            }
            (Some(Quirk::PlaceholdersFilled), _) => fill_placeholders(&html.replace('\u{2060}', "")),
            _ => html,
        }
    }
}
