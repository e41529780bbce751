//! What a post has been through since its ticket was made.

use crate::notification::Note;

/// What an event tells that the ticket of its post does not hold yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// The event came by another route than the one that made the ticket.
    pub other_route: bool,
    pub text_changed: bool,
    /// Those that no earlier event told.
    pub notes: Vec<Note>,
}
