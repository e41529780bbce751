//! The alerts of Khoros.

use crate::alert::codes;

codes! {
    /// Khoros refuses the token.
    TOKEN = "khoros_token";
    /// There is no Khoros API at `SPREDFAST_API_URL`.
    ADDRESS = "khoros_address";
    /// Khoros has not accepted the subscription for minutes.
    DOWN = "khoros_down";
    /// Another deployment keeps taking over the subscription.
    SUBSCRIPTION_CONTESTED = "subscription_contested";
    /// The feeds, the only source of events, cannot be read; or an event in a feed can never be read.
    PULL = "khoros_pull";
    /// The public address is unknown, so casebridge cannot subscribe.
    PUBLIC_URL = "public_url";
    /// A busy route has stopped receiving events.
    ROUTE_SILENT = "route_silent";
}
