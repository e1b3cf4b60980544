//! Commands as real processes: what goes in, what comes out, and how their exits are told.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast::subprocess::{
    Command, Environment, Exit, Finished, GuardExe, LINE_BYTES_MAX, Line, LineSink, Output,
    PAYLOAD_BYTES_MAX, Running, SpawnError, Stream, spawn,
};

/// Longer than any test may take.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// The lines that have come so far.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<OwnedLine>>>);

pub(crate) type OwnedLine = (Stream, Vec<u8>);

impl Lines {
    pub(crate) fn sink(&self) -> impl LineSink + use<> {
        let lines = Arc::clone(&self.0);
        move |line: Line<'_>| lines.lock().unwrap().push((line.stream, line.bytes.to_vec()))
    }

    pub(crate) fn of(&self, stream: Stream) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let of_stream = lines.iter().filter(|(from, _)| *from == stream);
        of_stream.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

pub(crate) fn guard() -> GuardExe {
    GuardExe::at(env!("CARGO_BIN_EXE_steadfast-guard"))
}

pub(crate) fn command(program: impl Into<OsString>, args: &[&str]) -> Command {
    let mut command = Command::new(program, LONG);
    command.args = args.iter().map(OsString::from).collect();
    command.guard = guard();
    command
}

pub(crate) fn shell(script: &str) -> Command {
    command("sh", &["-c", script])
}

pub(crate) async fn run(command: Command) -> (Finished, Lines) {
    let lines = Lines::default();
    let running = spawn(command, lines.sink()).unwrap();
    (ended(running).await, lines)
}

/// `wait` with a time limit, so that a hang is a failure.
pub(crate) async fn ended(running: Running) -> Finished {
    tokio::time::timeout(LONG, running.wait()).await.expect("the attempt ends")
}

#[track_caller]
fn text_in(exit: &Exit, parts: &[&str]) {
    let text = exit.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text:?} lacks one of {parts:?}");
}

#[tokio::test]
async fn lines_of_both_streams_arrive_and_exit_zero_succeeds() {
    let (finished, lines) = run(shell("echo 42; echo oh >&2; printf 'no newline'")).await;
    assert_eq!(finished.exit, Exit::Code(0));
    assert_eq!(finished.output, Output::None);
    assert!(!finished.escaped);
    assert_eq!(lines.of(Stream::Stdout), ["42", "no newline"]);
    assert_eq!(lines.of(Stream::Stderr), ["oh"]);
}

#[tokio::test]
async fn exit_codes_are_told() {
    for code in [0, 1, 65, 75, 126, 127, 255] {
        let (finished, _) = run(shell(&format!("exit {code}"))).await;
        assert_eq!(finished.exit, Exit::Code(code));
    }
}

#[tokio::test]
async fn signals_are_told_by_name() {
    for (name, run_code) in [("KILL", 137), ("SEGV", 139), ("TERM", 143), ("ABRT", 134)] {
        let (finished, _) = run(shell(&format!("ulimit -c 0; kill -{name} $$"))).await;
        let Exit::Signal(signal) = &finished.exit else { panic!("{:?}", finished.exit) };
        assert_eq!(signal.name, format!("SIG{name}"));
        assert_eq!(finished.exit.run_code(), run_code);
    }
}

#[tokio::test]
async fn a_command_that_signals_its_whole_group_doesnt_hit_the_guard() {
    let (finished, _) = run(shell("kill -9 0")).await;
    assert_eq!(finished.exit.to_string(), "ended by SIGKILL");
    let (finished, _) = run(shell("trap 'exit 3' TERM; kill 0; sleep 100")).await;
    assert_eq!(finished.exit, Exit::Code(3));
}

#[tokio::test]
async fn the_payload_arrives_byte_for_byte() {
    let mut command = command("cat", &[]);
    command.stdin = (0..=255).filter(|byte| *byte != b'\n').cycle().take(5_000_000).collect();
    let expected = command.stdin.clone();
    let got = Arc::new(Mutex::new(Vec::new()));
    let pieces = Arc::clone(&got);
    let sink = move |line: Line<'_>| pieces.lock().unwrap().extend_from_slice(line.bytes);
    let finished = ended(spawn(command, sink).unwrap()).await;
    assert_eq!(finished.exit, Exit::Code(0));
    assert!(*got.lock().unwrap() == expected);
}

#[tokio::test]
async fn a_payload_that_nobody_reads_holds_up_nothing() {
    let mut command = shell("echo ready; kill -STOP $$");
    command.stdin = vec![0; 5_000_000];
    let lines = Lines::default();
    let (ready, mut is_ready) = tokio::sync::mpsc::channel(1);
    let running = spawn(command, ready).unwrap();
    assert_eq!(is_ready.recv().await, Some((Stream::Stdout, b"ready".to_vec())));
    // The guard still obeys, although the payload was never taken.
    running.control().stop(LONG);
    assert_eq!(ended(running).await.exit.to_string(), "ended by SIGTERM");

    let mut command = shell("exit 0");
    command.stdin = vec![0; 5_000_000];
    assert_eq!(ended(spawn(command, lines.sink()).unwrap()).await.exit, Exit::Code(0));
}

#[tokio::test]
async fn a_payload_beyond_the_limit_is_refused() {
    let mut command = command("cat", &[]);
    command.stdin = vec![0; PAYLOAD_BYTES_MAX + 1];
    let refused = spawn(command, Lines::default().sink());
    assert!(matches!(refused, Err(SpawnError::TooLarge { bytes }) if bytes == PAYLOAD_BYTES_MAX + 1));
}

#[tokio::test]
async fn a_missing_program_is_not_found() {
    for program in ["steadfast-no-such-program", "/nowhere/at/all"] {
        let lines = Lines::default();
        let running = spawn(command(program, &[]), lines.sink()).unwrap();
        assert_eq!(running.control().started().await, None);
        let exit = ended(running).await.exit;
        assert!(matches!(exit, Exit::NotFound(_)), "{exit:?}");
        text_in(&exit, &[program, "install it", "PATH"]);
        assert_eq!(exit.run_code(), 127);
    }
}

#[tokio::test]
async fn a_file_that_cant_be_executed_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    let exit = run(command(&plain, &[])).await.0.exit;
    assert!(matches!(exit, Exit::NotExecutable(_)), "{exit:?}");
    text_in(&exit, &["plain", "chmod +x"]);
    assert_eq!(exit.run_code(), 126);

    let orphan = script(directory.path(), "orphan", "#!/no/such/interpreter\n");
    let exit = run(command(&orphan, &[])).await.0.exit;
    assert!(matches!(exit, Exit::NotExecutable(_)), "{exit:?}");
    text_in(&exit, &["orphan", "interpreter"]);

    let mut elsewhere = shell("true");
    elsewhere.cwd = Some(directory.path().join("gone"));
    let exit = run(elsewhere).await.0.exit;
    assert!(matches!(exit, Exit::StartFailed(_)), "{exit:?}");
    text_in(&exit, &["working directory", "gone"]);
}

fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn the_environment_is_as_told() {
    let mut exact = command("/usr/bin/env", &[]);
    exact.environment = Environment::Exact;
    exact.env = vec![("A".into(), "old".into()), ("B".into(), "two words".into()), ("A".into(), "1".into())];
    let mut seen = run(exact).await.1.of(Stream::Stdout);
    seen.sort();
    assert_eq!(seen, ["A=1", "B=two words"]);

    let mut inherited = shell("echo \"${PATH:+path} $MORE ${STEADFAST_GUARD-unset}\"");
    inherited.env = vec![("MORE".into(), "more".into())];
    assert_eq!(run(inherited).await.1.of(Stream::Stdout), ["path more unset"]);
}

#[tokio::test]
async fn the_program_is_looked_for_where_the_command_is_told() {
    let directory = tempfile::tempdir().unwrap();
    script(directory.path(), "hello-there", "#!/bin/sh\npwd\n");
    let mut by_path = command("hello-there", &[]);
    by_path.env = vec![("PATH".into(), directory.path().into())];
    assert_eq!(run(by_path).await.0.exit, Exit::Code(0));
    let mut by_cwd = command("./hello-there", &[]);
    by_cwd.cwd = Some(directory.path().into());
    let (finished, lines) = run(by_cwd).await;
    assert_eq!(finished.exit, Exit::Code(0));
    assert_eq!(lines.of(Stream::Stdout), [directory.path().canonicalize().unwrap().display().to_string()]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_has_three_files_open_default_signals_and_no_terminal() {
    // The fourth is the directory that ls reads.
    let (_, lines) = run(command("ls", &["/proc/self/fd"])).await;
    assert_eq!(lines.of(Stream::Stdout), ["0", "1", "2", "3"]);
    let (_, lines) = run(command("grep", &["-E", "^Sig(Ign|Blk)", "/proc/self/status"])).await;
    let masks = lines.of(Stream::Stdout);
    assert_eq!(masks.len(), 2);
    for mask in masks {
        let bits = u64::from_str_radix(mask.split_whitespace().last().unwrap(), 16).unwrap();
        // The standard signals; what this process's own parent ignored beyond them isn't ours.
        assert_eq!(bits & 0x7fff_ffff, 0, "{mask}");
    }
    let (finished, _) = run(shell("exec 2>/dev/null; : </dev/tty")).await;
    assert_ne!(finished.exit, Exit::Code(0));
}

#[tokio::test]
async fn lines_may_be_long_or_hold_any_byte() {
    let script = r"printf 'a\000b\n\377\376\n\n'; head -c 3000000 /dev/zero | tr '\0' x; echo; echo last";
    let got = Arc::new(Mutex::new(Vec::new()));
    let pieces = Arc::clone(&got);
    let sink = move |line: Line<'_>| {
        let short = line.bytes[..line.bytes.len().min(8)].to_vec();
        pieces.lock().unwrap().push((short, line.bytes.len(), line.continues, line.cut));
    };
    assert_eq!(ended(spawn(shell(script), sink).unwrap()).await.exit, Exit::Code(0));
    let xs = || b"xxxxxxxx".to_vec();
    let expected = [
        (b"a\0b".to_vec(), 3, false, false),
        (b"\xff\xfe".to_vec(), 2, false, false),
        (vec![], 0, false, false),
        (xs(), LINE_BYTES_MAX, false, true),
        (xs(), LINE_BYTES_MAX, true, true),
        (xs(), 3_000_000 - 2 * LINE_BYTES_MAX, true, false),
        (b"last".to_vec(), 4, false, false),
    ];
    assert_eq!(*got.lock().unwrap(), expected);
}

/// A sink that counts, and takes its time: now and then it waits for a turn of the clock.
struct Slow(Arc<Mutex<u64>>);

impl LineSink for Slow {
    async fn line(&mut self, line: Line<'_>) {
        assert_eq!(line.bytes.len(), FLOOD_LINE.len());
        let number = {
            let mut lines = self.0.lock().unwrap();
            *lines += 1;
            *lines
        };
        if number.is_multiple_of(10_000) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

const FLOOD_LINE: &str =
    "about a hundred bytes of nothing in particular, written as fast as a pipe and its reader take them";

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_of_lines_arrives_whole_in_bounded_memory() {
    const LINES: u64 = 2_000_000;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let lines = Arc::new(Mutex::new(0));
    let flood = shell(&format!("yes '{FLOOD_LINE}' | head -n {LINES}"));
    let running = spawn(flood, Slow(Arc::clone(&lines))).unwrap();
    assert_eq!(ended(running).await.exit, Exit::Code(0));
    assert_eq!(*lines.lock().unwrap(), LINES);
    // Twice as much went through. The measure is coarse: other tests run in this process, too.
    let grown = resident().saturating_sub(before);
    assert!(grown < LINES * 50, "{grown} bytes more than before");
}

#[tokio::test]
async fn the_last_lines_arrive_however_slow_the_sink_is() {
    struct Slower(Lines);
    impl LineSink for Slower {
        async fn line(&mut self, line: Line<'_>) {
            // Longer than the time that output is waited for after the end.
            tokio::time::sleep(Duration::from_millis(700)).await;
            self.0.sink().line(line).await;
        }
    }
    let lines = Lines::default();
    let finished =
        ended(spawn(shell("echo 1; echo 2 >&2; echo 3; echo 4 >&2"), Slower(lines.clone())).unwrap());
    let finished = finished.await;
    assert!(!finished.escaped);
    assert_eq!(
        (lines.of(Stream::Stdout), lines.of(Stream::Stderr)),
        (vec!["1".into(), "3".into()], vec!["2".into(), "4".into()])
    );
}

#[tokio::test]
async fn the_output_file_is_read_whole_or_not_at_all() {
    let with_output = |script: &str, bytes_max| {
        let mut command = shell(script);
        command.output_bytes_max = Some(bytes_max);
        command
    };
    let (finished, lines) =
        run(with_output("printf '{}' > $STEADFAST_OUTPUT; echo $STEADFAST_OUTPUT", 100)).await;
    assert_eq!(finished.output, Output::Bytes(b"{}".to_vec()));
    let path = PathBuf::from(lines.of(Stream::Stdout).remove(0));
    assert!(!path.parent().unwrap().exists());

    let (finished, _) = run(with_output("head -c 101 /dev/zero > $STEADFAST_OUTPUT", 100)).await;
    assert_eq!(finished.output, Output::TooLarge { bytes: 101, bytes_max: 100 });
    let (finished, _) = run(with_output("exit 1", 100)).await;
    assert_eq!((finished.exit, finished.output), (Exit::Code(1), Output::None));
}

#[tokio::test]
async fn files_for_the_command_are_named_by_variables() {
    let mut command = shell("cat \"$STEADFAST_CHECKPOINTS\" \"$OTHER\"");
    command.files =
        vec![("STEADFAST_CHECKPOINTS".into(), b"{\"a\":1}\n".to_vec()), ("OTHER".into(), b"x".to_vec())];
    assert_eq!(run(command).await.1.of(Stream::Stdout), ["{\"a\":1}", "x"]);
}
