//! The simulator's tests that are written with it as its users would.

mod cancellation;
mod scripts;
mod wrapped;
