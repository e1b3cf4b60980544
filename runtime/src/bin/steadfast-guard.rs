//! The guard as an executable of its own, for programs whose `main` isn't theirs to change, and for tests.

fn main() {
    #[cfg(unix)]
    steadfast::subprocess::guard_main();
}
