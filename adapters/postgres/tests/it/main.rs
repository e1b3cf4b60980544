//! What is PostgreSQL's own. What every storage must do is in the conformance suite.

mod bench;
mod connections;
mod locks;
mod pruning;
mod schema;
mod statements;
mod submit;
