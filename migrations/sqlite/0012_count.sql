-- How many deliveries were ever received, and how many are in each state now, kept by triggers. `received` only grows,
-- so a delivery that is deleted leaves received - waiting - done - dead greater than 0. Triggers and table differ
-- between the databases; the columns do not.
create table delivery_count (
    route       text   not null,
    destination text   not null,
    -- Deliveries that became done in this hour since 1970; 0 for everything else, and for what was done long ago.
    hour        bigint not null,
    received    bigint not null,
    waiting     bigint not null,
    -- Waiting, and in doubt.
    in_doubt    bigint not null,
    done        bigint not null,
    dead        bigint not null,
    -- When the last one was received.
    last_at     bigint,
    primary key (route, destination, hour)
) without rowid;

create trigger delivery_inserted after insert on delivery begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    values (new.route, new.destination, 0, 1, new.state = 'waiting', new.state = 'waiting' and new.in_doubt,
            new.state = 'done', new.state = 'dead', new.received_at)
    on conflict (route, destination, hour) do update
       set received = received + 1, waiting = waiting + excluded.waiting, in_doubt = in_doubt + excluded.in_doubt,
           done = done + excluded.done, dead = dead + excluded.dead,
           last_at = max(coalesce(last_at, 0), excluded.last_at);
end;

create trigger delivery_updated after update of state, in_doubt on delivery
  when new.route = old.route and new.destination = old.destination
   and (new.state <> old.state or (new.state = 'waiting' and new.in_doubt <> old.in_doubt)) begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead)
    values (new.route, new.destination,
            case when new.state = 'done' and old.state <> 'done' then coalesce(new.settled_at, 0) / 3600000 else 0 end,
            0, (new.state = 'waiting') - (old.state = 'waiting'),
            (new.state = 'waiting' and new.in_doubt) - (old.state = 'waiting' and old.in_doubt),
            (new.state = 'done') - (old.state = 'done'), (new.state = 'dead') - (old.state = 'dead'))
    on conflict (route, destination, hour) do update
       set waiting = waiting + excluded.waiting, in_doubt = in_doubt + excluded.in_doubt,
           done = done + excluded.done, dead = dead + excluded.dead;
end;

-- A row that moves is received there, and no longer here.
create trigger delivery_moved after update of route, destination on delivery
  when new.route <> old.route or new.destination <> old.destination begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    values (old.route, old.destination, 0, -1, -(old.state = 'waiting'), -(old.state = 'waiting' and old.in_doubt),
            -(old.state = 'done'), -(old.state = 'dead'), null),
           (new.route, new.destination, 0, 1, new.state = 'waiting', new.state = 'waiting' and new.in_doubt,
            new.state = 'done', new.state = 'dead', new.received_at)
    on conflict (route, destination, hour) do update
       set received = received + excluded.received, waiting = waiting + excluded.waiting,
           in_doubt = in_doubt + excluded.in_doubt, done = done + excluded.done, dead = dead + excluded.dead,
           last_at = coalesce(max(last_at, excluded.last_at), last_at, excluded.last_at);
end;

create trigger delivery_deleted after delete on delivery begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead)
    values (old.route, old.destination, 0, 0, -(old.state = 'waiting'), -(old.state = 'waiting' and old.in_doubt),
            -(old.state = 'done'), -(old.state = 'dead'))
    on conflict (route, destination, hour) do update
       set waiting = waiting + excluded.waiting, in_doubt = in_doubt + excluded.in_doubt,
           done = done + excluded.done, dead = dead + excluded.dead;
    delete from attempt where identity = old.identity and destination = old.destination;
end;

-- Whoever erases the texts of a delivery, whether a version that does not know these columns or a person: what may
-- repeat them, or name a person, goes with them. Of a target (migration 0014), the last
-- four characters stay.
create trigger delivery_erased after update of payload on delivery
  when new.payload = '' and old.payload <> '' begin
    delete from attempt where identity = new.identity and destination = new.destination;
    update delivery
       set link = null, target = case target when '' then '' else '…' || substr(target, -4) end
     where identity = new.identity and destination = new.destination;
end;

insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    select route, destination, case when state = 'done' then coalesce(settled_at, 0) / 3600000 else 0 end as hour,
           count(*), sum(state = 'waiting'), sum(state = 'waiting' and in_doubt), sum(state = 'done'),
           sum(state = 'dead'), max(received_at)
      from delivery group by 1, 2, 3;
