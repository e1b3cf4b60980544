//! The corpus, on stable, in every `cargo test`; and whether the targets can fail.

mod corpus;
mod planted;
