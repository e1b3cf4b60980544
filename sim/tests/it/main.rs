//! The simulator's tests that are written with it as its users would.

mod embedded;
mod environment;
mod kept;
mod scripts;
mod sessions;
mod two_databases;
