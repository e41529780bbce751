-- Some destinations deliver an item to several targets, such as phone numbers. Each target is a row of its own, whose
-- identity ends in `~` and 12 digits of the target's SHA-256. Empty for all other deliveries.
alter table delivery add column target text not null default '';
-- What became of a delivery after it was done, in the words of its destination.
alter table delivery add column note text;

-- Each target of a case is claimed once at a time; one that fails holds up no other.
drop index delivery_in_hand;
create unique index delivery_in_hand on delivery (destination, case_key) where leased and target = '';
create unique index delivery_in_hand_of_target on delivery (destination, target, case_key)
    where leased and target <> '';
-- The identities of the items of these deliveries, which rows without a target have anyway.
create index delivery_item on delivery (substr(identity, 1, length(identity) - 13)) where target <> '';
-- What was found at a destination belongs to one delivery.
create unique index delivery_reference_of_target on delivery (destination, reference, target)
    where target <> '' and reference <> '';
