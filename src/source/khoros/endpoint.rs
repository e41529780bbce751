//! The endpoints of routes: where Khoros sends its notifications.

use url::Url;

use crate::exchange;
use crate::item::Kind;
use crate::route::Route;

/// The paths of the 2017 example, in upper or lower case: its subscription works until casebridge replaces it.
pub const OLD_PATHS: [&str; 2] = ["/createTicket", "/createticket"];

/// The path of a route's endpoint.
pub fn path(route: &str) -> String {
    format!("/khoros/{route}")
}

/// Where Khoros reaches the endpoint of a route.
pub fn url(public_url: &Url, route: &str) -> Url {
    exchange::address(public_url, &path(route))
}

/// The route that the paths of the 2017 example serve: the first one of labels.
pub fn of_old_paths(routes: &[Route]) -> Option<&Route> {
    routes.iter().find(|route| route.kind == Kind::Label)
}
