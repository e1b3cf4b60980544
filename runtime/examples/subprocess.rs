//! Runs a command under a guard, prints its lines and exits as it did:
//! `cargo run --example subprocess -- sh -c 'echo hello; exit 3'`.

use std::process::ExitCode;
use std::time::Duration;

use steadfast::subprocess::{Command, Line, guard_main_if_asked, spawn};

fn main() -> ExitCode {
    // First, before there is a thread or a runtime: this process may be the guard.
    guard_main_if_asked();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => failed(&error),
    }
}

async fn run() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else { return failed(&"name a command") };
    let mut command = Command::new(program, Duration::from_secs(3600));
    command.args = args.collect();
    let print = |line: Line<'_>| println!("{:?}: {}", line.stream, String::from_utf8_lossy(line.bytes));
    let running = match spawn(command, print) {
        Ok(running) => running,
        Err(error) => return failed(&error),
    };
    let finished = running.wait().await;
    println!("{}", finished.exit);
    ExitCode::from(finished.exit.run_code())
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(125)
}
