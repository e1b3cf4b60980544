//! The simulator's tests that are written with it as its users would.

mod embedded;
mod kept;
mod scripts;
