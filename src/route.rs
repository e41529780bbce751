//! Routes: which events casebridge receives, and which destinations they go to.

use std::borrow::Cow;

use crate::item::Kind;

/// The name of the route that the tutorial's variables make.
pub const LABEL: &str = "label";

/// One kind of event that casebridge receives, and the destinations of its items.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Lower-case letters and digits.
    pub name: String,
    /// The prefix of its variables: `ROUTE_<NAME>_`. Empty for the tutorial's route, unless a `ROUTE_LABEL_…` is set.
    pub prefix: String,
    /// The name of its event at the source.
    pub event: String,
    pub kind: Kind,
    /// A regular expression by which the source selects among these events.
    pub query: Option<String>,
    /// The label of its events, which the events themselves may lack.
    pub label: Option<String>,
    /// The name of its subscription at the source.
    pub external_id: String,
    /// The destinations of its items. Never empty.
    pub to: Vec<&'static str>,
    /// The destinations that follow once the first of them is done.
    pub then: Vec<&'static str>,
}

impl Route {
    /// Returns the route of this name; one that was removed from the configuration has only its name.
    pub fn named<'a>(routes: &'a [Route], name: &str) -> Cow<'a, Route> {
        match routes.iter().find(|route| route.name == name) {
            Some(route) => Cow::Borrowed(route),
            None => Cow::Owned(Route { name: name.to_owned(), ..Route::default() }),
        }
    }

    pub fn goes_to(&self, destination: &str) -> bool {
        self.to.iter().chain(&self.then).any(|name| *name == destination)
    }

    /// The destinations that follow once `destination` is done.
    pub fn followers(&self, destination: &str) -> &[&'static str] {
        if self.to.first() == Some(&destination) { &self.then } else { &[] }
    }
}
