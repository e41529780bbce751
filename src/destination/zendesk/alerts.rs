//! The alerts of Zendesk.

use crate::alert::codes;

codes! {
    /// Zendesk refuses the credential.
    CREDENTIAL = "zendesk_credential";
    /// Zendesk accepts the credential, but refuses a permission that casebridge needs.
    FORBIDDEN = "zendesk_forbidden";
    /// There is no Zendesk at `ZENDESK_API_URL`.
    ADDRESS = "zendesk_address";
    /// Zendesk refuses one ticket after another for the same reason.
    REFUSES = "zendesk_refuses";
    /// Zendesk refuses fields that `TICKET_…` sets, and tickets are created without them.
    FIELDS = "zendesk_fields";
    /// Zendesk neither finds a ticket nor lists it as deleted.
    TICKET_HIDDEN = "zendesk_ticket_hidden";
    /// The first comment of a ticket is public and should be private, or the other way round.
    PRIVACY = "zendesk_privacy";
    /// A route has reached `TICKET_MAX_PER_HOUR`, and further tickets wait.
    STORM = "ticket_storm";
    /// Zendesk has not been usable for minutes.
    DOWN = "zendesk_down";
}
