//! What to run: plain data, filled in by the caller, read once by `spawn`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::guard::GUARD_ARGUMENT;

/// The largest payload that a command is given on stdin, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A program to run as one attempt.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program: a path, or a name to look up in the `PATH` of the command's own environment. A relative
    /// path is taken from `cwd`.
    pub program: OsString,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Variables set on top of `environment`; of two with the same name the later counts.
    pub env: Vec<(OsString, OsString)>,
    /// What `env` is laid over.
    pub environment: Environment,
    /// The working directory; the worker's own where `None`.
    pub cwd: Option<PathBuf>,
    /// The payload, written to the command's stdin, which is then closed. At most [`PAYLOAD_BYTES_MAX`].
    pub stdin: Vec<u8>,
    /// Files made for the command in a private directory, each named by the variable: `(variable, contents)`.
    /// This is how `STEADFAST_CHECKPOINTS` reaches it. They are removed after the attempt.
    pub files: Vec<(OsString, Vec<u8>)>,
    /// Where given, `STEADFAST_OUTPUT` names a file that the command may write, of at most so many bytes.
    pub output_bytes_max: Option<u64>,
    /// How long the attempt's lease still lasts when `spawn` is called; see [`Control::renewed`].
    ///
    /// [`Control::renewed`]: super::Control::renewed
    pub lease: Duration,
    /// The executable that acts as the guard.
    pub guard: GuardExe,
}

/// What a command's environment starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The worker's own environment as it is when `spawn` is called.
    Inherited,
    /// Nothing: the command sees `Command::env` and the files' variables, and no other.
    Exact,
}

/// Which executable is started as the guard, and with which arguments.
#[derive(Debug, Clone)]
pub struct GuardExe {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Command {
    /// `program` without arguments, with the worker's environment and directory, an empty stdin, no output
    /// file, and this same executable as the guard. `lease` is how long the attempt's lease still lasts.
    pub fn new(program: impl Into<OsString>, lease: Duration) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            environment: Environment::Inherited,
            cwd: None,
            stdin: Vec::new(),
            files: Vec::new(),
            output_bytes_max: None,
            lease,
            guard: GuardExe::this_executable(),
        }
    }
}

impl GuardExe {
    /// This same executable with [`GUARD_ARGUMENT`]; its `main` must call `guard_main_if_asked` first.
    ///
    /// On Linux it is named by `/proc/self/exe`, which is the file that runs even after a deploy has put
    /// another at its path: worker and guard are always of one build.
    pub fn this_executable() -> Self {
        let program = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe().unwrap_or_default()
        };
        Self { program, args: vec![GUARD_ARGUMENT.into()] }
    }

    /// Another executable, for programs whose `main` isn't theirs to change.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new() }
    }
}
