-- One row, which `/readyz` writes: a server that a failover has made read-only still answers questions.
create table readiness (
    id bigint not null primary key,
    written_at bigint not null
);
