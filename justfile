# Each recipe is one plain line; the logic lives in tests and subcommands.

# Formats nothing, changes nothing: says what is wrong.
check:
    cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings

# All tests; PostgreSQL is started by them where it is installed.
test:
    cargo test

# Many seeds of the simulation, in release.
sim seeds="20000":
    STEADFAST_SEEDS={{seeds}} cargo test --release -p steadfast-tests simulation -- --nocapture

# This machine against raw SQL on the same store.
bench:
    cargo run --release -- bench --floor

# What a submission must pass.
ci:
    bash .ci/run

# The only recipe that writes.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty && cargo fmt --all

# A night's new seeds and fuzzing; small with SEEDS=20000 TIME=60s FUZZ_SECONDS=5. What failed is kept in nightly/.
nightly:
    bash .ci/nightly

# Fuzzes every target, or these, for FUZZ_SECONDS each.
fuzz *targets:
    fuzz/run {{targets}}
