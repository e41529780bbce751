# `just` lists the recipes (https://just.systems). All of them are plain commands.

_default:
    @just --list

# Everything that has to pass before a change lands
ci:
    bash .ci/run

# The whole path of a label on this machine, without accounts
demo:
    cargo run --release -- demo

# The tests, or those whose names contain WORDS
test *WORDS:
    cargo test --workspace -- {{ WORDS }}

# The black-box stories on both databases, PostgreSQL required
stories *WORDS:
    CASEBRIDGE_TEST_POSTGRES=required cargo test --test it -- {{ WORDS }}

lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, bans and sources of all dependencies; advisories need the network
deny:
    cargo deny check bans licenses sources

# The documents that are made of the list of settings
settings-docs:
    cargo run -q -- settings | sed -i -e '/settings:begin/r /dev/stdin' -e '/settings:begin/,/settings:end/{//!d}' docs/configuration.md
    cargo run -q -- settings --format env > .env.example
    jq --argjson env "$(cargo run -q -- settings --format json)" '.env = $env' app.json > app.json.new
    mv app.json.new app.json

# Measurements of this machine, or of the SECTIONS whose names contain the words
bench *SECTIONS:
    cargo bench -- {{ SECTIONS }}
