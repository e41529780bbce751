//! The plan of a ticket: its requester, whether it has the configured fields, and what to leave out after a
//! refusal. Pure.

use serde::{Deserialize, Serialize};

use super::memory::CaseMemory;
use super::settings::ticket::Ticket;
use crate::delivery::Action;

/// What was decided when the bytes of a create were frozen, stored as their memo.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub plan: Plan,
    /// The first comment is public.
    pub public: bool,
    /// What the ticket contains once it is created.
    pub memory: CaseMemory,
}

impl Decision {
    pub fn to_memo(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The parts of a ticket that a refusal can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub requester: RequesterUser,
    pub fields: Fields,
    /// The closed ticket that this one follows up.
    pub follow_up: Option<u64>,
}

/// The user who is the ticket's requester.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequesterUser {
    Author(u64),
    /// The user of the credential.
    #[default]
    Service,
    /// The user of the credential until the author has a user: the ticket has the tag [`NO_AUTHOR_TAG`](super::settings::ticket::NO_AUTHOR_TAG).
    Pending,
}

impl RequesterUser {
    pub fn author(self) -> Option<u64> {
        match self {
            RequesterUser::Author(id) => Some(id),
            RequesterUser::Service | RequesterUser::Pending => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fields {
    #[default]
    Configured,
    /// Nothing that an account may refuse, and the tag [`FALLBACK_TAG`](super::settings::ticket::FALLBACK_TAG).
    Plain,
}

impl Plan {
    /// Returns the action of creating this ticket.
    pub fn action(self) -> Action {
        self.follow_up.map_or(Action::Created, |_| Action::FollowedUp)
    }

    /// Returns the plan after Zendesk refused these fields; `None` if there is nothing to leave out. Some refusals
    /// name `base` or nothing: then it can be any field except those that every ticket has.
    pub fn simpler(self, settings: &Ticket, fields: &[String]) -> Option<Plan> {
        let blames =
            |starts: &[&str]| fields.iter().any(|field| starts.iter().any(|start| field.starts_with(start)));
        let author = self.requester.author();
        let without_author = author.map(|_| Plan { requester: RequesterUser::Service, ..self });
        let is_full = self.fields == Fields::Configured && settings.may_be_refused();
        let plain = is_full.then_some(Plan { fields: Fields::Plain, ..self });
        let unlinked = self.follow_up.map(|_| Plan { follow_up: None, ..self });
        if unlinked.is_some() && blames(&["via"]) {
            return unlinked;
        }
        if blames(&["requester", "submitter", "author"]) || settings.public && blames(&["comment"]) {
            return without_author.or(plain);
        }
        match blames(&["subject", "comment", "tags", "external_id", "metadata", "description"]) {
            true => None,
            false => plain.or(without_author).or(unlinked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::ticket::{CustomField, CustomValue, TicketStatus, TicketType};
    use super::*;
    use crate::item::Priority;

    fn names(fields: &[&str]) -> Vec<String> {
        fields.iter().map(|field| (*field).to_owned()).collect()
    }

    #[test]
    fn refused_fields_are_left_out() {
        let bare = Ticket::default();
        let field = CustomField { id: 1, value: CustomValue::Bool(true) };
        let own = [
            Ticket { group_id: Some(1), ..Ticket::default() },
            Ticket { assignee_id: Some(1), ..Ticket::default() },
            Ticket { brand_id: Some(1), ..Ticket::default() },
            Ticket { form_id: Some(1), ..Ticket::default() },
            Ticket { custom_fields: vec![field], ..Ticket::default() },
            Ticket { status: Some(TicketStatus::Hold), ..Ticket::default() },
            Ticket { kind: Some(TicketType::Task), ..Ticket::default() },
            Ticket { priority: Priority::Low, ..Ticket::default() },
        ];
        let full = Plan { requester: RequesterUser::Author(1), fields: Fields::Configured, follow_up: None };
        let no_author = Plan { requester: RequesterUser::Service, ..full };
        let plain = Plan { fields: Fields::Plain, ..full };
        for (fields, of_bare, of_own) in [
            (&["requester"][..], Some(no_author), Some(no_author)),
            (&["submitter_id", "base"], Some(no_author), Some(no_author)),
            (&["group"], Some(no_author), Some(plain)),
            (&["base"], Some(no_author), Some(plain)),
            (&[], Some(no_author), Some(plain)),
            (&["subject"], None, None),
            (&["comment"], None, None),
        ] {
            let fields = names(fields);
            assert_eq!(full.simpler(&bare, &fields), of_bare, "{fields:?}");
            for own in &own {
                assert_eq!(full.simpler(own, &fields), of_own, "{fields:?}");
            }
            // It ends after any refusals.
            for settings in own.iter().chain([&bare]) {
                let mut plan = Some(Plan { follow_up: Some(1), ..full });
                let steps = std::iter::from_fn(|| {
                    plan = plan?.simpler(settings, &fields);
                    plan
                });
                assert!(steps.count() <= 4);
            }
        }
        let closed = Plan { follow_up: Some(1), ..full };
        assert_eq!(closed.simpler(&bare, &names(&["via_followup_source_id"])), Some(full));
        let public = Ticket { public: true, ..Ticket::default() };
        assert_eq!(full.simpler(&public, &names(&["comment"])), Some(no_author));
    }
}
