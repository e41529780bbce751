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
    /// Events come only from the feeds, and cannot be read; or one event never can be.
    PULL = "khoros_pull";
    /// The public address is unknown, so casebridge cannot subscribe.
    PUBLIC_URL = "public_url";
    /// A busy route has no events any longer.
    ROUTE_SILENT = "route_silent";
}
