//! The alerts of Zendesk.

use crate::alert::codes;

codes! {
    /// Zendesk refuses the credential.
    CREDENTIAL = "zendesk_credential";
    /// Zendesk accepts the credential, but refuses a permission that casebridge needs.
    FORBIDDEN = "zendesk_forbidden";
    /// There is no Zendesk at `ZENDESK_API_URL`.
    ADDRESS = "zendesk_address";
    /// Zendesk refuses ticket after ticket for the same reason.
    REFUSES = "zendesk_refuses";
    /// Zendesk refuses fields that `TICKET_…` sets, and tickets are created without them.
    FIELDS = "zendesk_fields";
    /// A ticket is not found, and not known to be deleted.
    TICKET_HIDDEN = "zendesk_ticket_hidden";
    /// A first comment is public and should be private, or the reverse.
    PRIVACY = "zendesk_privacy";
    /// A route has made as many tickets in an hour as it may.
    STORM = "ticket_storm";
    /// Zendesk has not been usable for minutes.
    DOWN = "zendesk_down";
}
