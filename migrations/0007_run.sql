-- One row for each start of the service. A delivery that was received before the run that sends it may have
-- been delivered after a backup that this database was restored from; so it is looked up first.
create table run (
    id       text   not null primary key,
    began_at bigint not null,
    -- A stamp of its clock, renewed while it runs: a clock that ran ahead is known by it.
    seen_at  bigint not null
);
