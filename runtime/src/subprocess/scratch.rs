//! An attempt's private directory: the files handed to the command, and the result that it hands back.
//!
//! What the command leaves there is bytes from outside: it is opened without following links or waiting on a
//! FIFO, and read to a limit.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::command::Command;

const OUTPUT_VARIABLE: &str = "STEADFAST_OUTPUT";
const OUTPUT_FILE: &str = "output";

/// What the command wrote to the file that `STEADFAST_OUTPUT` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nothing: there was no such file at the end.
    None,
    /// The whole file.
    Bytes(Vec<u8>),
    /// More than the limit; nothing of it is given, because a part of a result isn't a result.
    TooLarge {
        /// The file's length, in bytes.
        bytes: u64,
        /// The limit that was set in `Command::output_bytes_max`.
        bytes_max: u64,
    },
    /// It couldn't be read, or wasn't a file; the text says why.
    Unreadable(String),
}

/// The directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: TempDir,
    /// The variables that name what is in it.
    pub(super) variables: Vec<(OsString, OsString)>,
    output_bytes_max: Option<u64>,
}

impl Scratch {
    /// Makes the directory if the command needs one.
    pub(super) fn new(command: &Command) -> io::Result<Option<Self>> {
        if command.files.is_empty() && command.output_bytes_max.is_none() {
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("steadfast-").tempdir()?;
        let mut variables = Vec::new();
        for (number, (variable, contents)) in command.files.iter().enumerate() {
            let path = directory.path().join(format!("file-{number}"));
            std::fs::write(&path, contents)?;
            variables.push((variable.clone(), path.into()));
        }
        if command.output_bytes_max.is_some() {
            variables.push((OUTPUT_VARIABLE.into(), directory.path().join(OUTPUT_FILE).into()));
        }
        Ok(Some(Self { directory, variables, output_bytes_max: command.output_bytes_max }))
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Reads the result and removes the directory. Blocks on the file system.
    pub(super) fn collect(self) -> Output {
        match self.output_bytes_max {
            None => Output::None,
            Some(bytes_max) => read(&self.directory.path().join(OUTPUT_FILE), bytes_max)
                .unwrap_or_else(|error| Output::Unreadable(error.to_string())),
        }
    }
}

fn read(path: &Path, bytes_max: u64) -> io::Result<Output> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(Output::None),
        Err(rustix::io::Errno::LOOP) => return Ok(Output::Unreadable("it is a symbolic link".into())),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Output::Unreadable("it is no regular file".into()));
    }
    let mut bytes = Vec::new();
    if metadata.len() <= bytes_max {
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    // The length is asked before reading and the bytes are counted after: an escaped process may write on.
    let length = metadata.len().max(bytes.len() as u64);
    if length > bytes_max {
        return Ok(Output::TooLarge { bytes: length, bytes_max });
    }
    Ok(Output::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn scratch(bytes_max: u64) -> (Scratch, std::path::PathBuf) {
        let mut command = Command::new("true", Duration::ZERO);
        command.output_bytes_max = Some(bytes_max);
        let scratch = Scratch::new(&command).unwrap().unwrap();
        let path = scratch.path().join(OUTPUT_FILE);
        assert_eq!(scratch.variables, [(OUTPUT_VARIABLE.into(), path.clone().into())]);
        (scratch, path)
    }

    #[test]
    fn only_a_whole_regular_file_is_a_result() {
        let (none, path) = scratch(4);
        assert_eq!(none.collect(), Output::None);
        assert!(!path.parent().unwrap().exists());

        let (empty, path) = scratch(4);
        std::fs::write(path, "").unwrap();
        assert_eq!(empty.collect(), Output::Bytes(vec![]));

        let (full, path) = scratch(4);
        std::fs::write(path, "1234").unwrap();
        assert_eq!(full.collect(), Output::Bytes(b"1234".to_vec()));

        let (over, path) = scratch(4);
        std::fs::write(path, "12345").unwrap();
        assert_eq!(over.collect(), Output::TooLarge { bytes: 5, bytes_max: 4 });

        let (link, path) = scratch(4);
        std::os::unix::fs::symlink("/dev/null", path).unwrap();
        assert_eq!(link.collect(), Output::Unreadable("it is a symbolic link".into()));

        let (folder, path) = scratch(4);
        std::fs::create_dir(path).unwrap();
        assert_eq!(folder.collect(), Output::Unreadable("it is no regular file".into()));
    }

    #[test]
    fn a_fifo_in_the_results_place_blocks_nobody() {
        let (fifo, path) = scratch(4);
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
        assert_eq!(fifo.collect(), Output::Unreadable("it is no regular file".into()));
    }
}
