//! The simulator's tests that are written with it as its users would.

mod cancellation;
mod embedded;
mod environment;
mod kept;
mod scripts;
mod sessions;
mod two_databases;
