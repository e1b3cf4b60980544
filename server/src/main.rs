//! The `steadfast` command.

use std::process::ExitCode;

/// Tasks are many small allocations, in the engine as in the simulator. Measured: docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First, before there is a thread: this process may be the guard of a command.
    steadfast::subprocess::guard_main_if_asked();
    // What whoever started us left open is neither ours nor our commands' to hold.
    close_fds::set_fds_cloexec(3, &[]);
    steadfast_server::main()
}
