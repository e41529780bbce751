-- What a process of the version before has stored since: it may have run beside this one, or after a rollback.
update delivery set origin = 'feed'
 where state = 'waiting' and in_doubt and attempts = 0 and revision = 0 and origin <> 'feed';
update delivery set anew = true where state = 'waiting' and ticket_gone and not anew;
insert into memo (scope, key, value, at)
    select destination || '.requester', ticket, identity, due_at from pending_requester where true
    on conflict (scope, key) do nothing;
delete from pending_requester;
update run set taken_over_at = seen_at where taken_over_at is null or seen_at > taken_over_at;
