//! A stand-in for Zendesk Support: credentials with scopes, users, tickets and their audits,
//! `external_id`, `Idempotency-Key`, limits on requests, strictness about fields, and faults that a test
//! can queue. A logical clock gives every change of a ticket a different time.

mod answer;
mod audits;
mod auth;
mod faults;
mod limits;
mod model;
mod page;
mod quirks;
mod search;
mod setup;
#[cfg(test)]
mod tests;
mod text;
mod tickets;
mod users;
mod validate;

use std::collections::BTreeSet;
use std::io;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Router, middleware};

use crate::server::date;
use crate::stand_in::StandIn;
pub use faults::{Chaos, Fault};
pub use model::{Known, Model};
pub use page::{Comment, ticket_page};
pub use quirks::Quirk;

/// The only OAuth client that it knows.
pub const CLIENT_ID: &str = "casebridge";
/// The secret of the OAuth client.
pub const CLIENT_SECRET: &str = "sandbox-client-secret";
/// The user of the API token.
pub const USER_EMAIL: &str = "bridge@acme.example";
/// The only API token that it knows.
pub const API_TOKEN: &str = "sandbox-api-token";
const ACCESS_TOKEN: &str = "sandbox-access-token";

/// The service user, as whom both credentials act; not in [`Model::users`].
pub const SERVICE_USER: u64 = 4000;
/// The agent who acts in methods such as [`Model::set_status`].
pub const AGENT: u64 = 20;

/// The stand-in; clones share its state.
pub type Zendesk = StandIn<Model>;

impl StandIn<Model> {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Zendesk> {
        let model = Model {
            limit: 700,
            update_limit: 100,
            scopes: BTreeSet::from(["tickets:write", "tickets:read", "users:write", "read"]),
            ..Model::default()
        };
        StandIn::serve(model, router).await
    }

    /// Its address, for `ZENDESK_API_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forgets every `Idempotency-Key`, as Zendesk does after two hours.
    pub fn forget_keys(&self) {
        self.model().idempotency.clear();
    }

    /// Queues faults of the next creates.
    pub fn queue(&self, faults: impl IntoIterator<Item = Fault>) {
        self.model().faults.extend(faults);
    }

    /// Queues faults of the next updates of tickets.
    pub fn queue_updates(&self, faults: impl IntoIterator<Item = Fault>) {
        self.model().update_faults.extend(faults);
    }
}

type Shared = crate::state::Shared<Model>;

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/oauth/tokens", post(auth::mint))
        .route("/api/v2/tickets", post(tickets::create).get(search::list))
        .route("/api/v2/tickets/count", get(search::count))
        .route("/api/v2/search", get(search::search))
        .route("/api/v2/search/export", get(search::export))
        .route("/api/v2/deleted_tickets", get(search::deleted))
        .route("/api/v2/tickets/{id}", get(search::show).put(tickets::update).delete(tickets::delete))
        .route("/api/v2/tickets/{id}/merge", post(tickets::merge))
        .route("/api/v2/tickets/{id}/tags", put(tickets::add_tags))
        .route("/api/v2/tickets/{id}/audits", get(audits::audits))
        .route("/api/v2/account/settings", get(setup::account))
        .route("/api/v2/users/me", get(users::me))
        .route("/api/v2/users/show_many", get(users::show_many))
        .route("/api/v2/users/create_or_update", post(users::create_or_update))
        .route("/api/v2/users/{id}", get(setup::user))
        .route("/api/v2/groups/{id}", get(setup::group))
        .route("/api/v2/ticket_forms/{id}", get(setup::form))
        .route("/api/v2/brands/{id}", get(setup::brand))
        .route("/api/v2/ticket_fields/{id}", get(setup::field))
        .route("/agent/tickets", get(page::tickets))
        .route("/agent/tickets/{id}", get(page::ticket))
        .route("/refuse", post(page::refuse))
        .fallback(|| async { answer::refusal(StatusCode::NOT_FOUND, "InvalidEndpoint", "Not found") })
        .layer(middleware::map_response_with_state(shared.clone(), set_date))
        .with_state(shared)
}

async fn set_date(State(shared): State<Shared>, response: Response) -> Response {
    let ahead = shared.model().clock_ahead;
    date(response, ahead)
}
