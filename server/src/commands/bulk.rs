//! `submit --bulk`: many tasks, each a line of JSON as `POST /v1/tasks` takes it, stored in sets.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Out, Target, blocking, tell};
use crate::api::BULK_BYTES_MAX;
use crate::backend::{Backend, Missing};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::request::TaskRequest;
use crate::service::invalid_field;
use crate::wire::{ItemAnswer, ItemJson, Problem};

/// Tasks of one set: enough that a commit costs each of them little.
const SET_TASKS_MAX: usize = 500;
/// The bytes of one set's lines, but for one that is larger by itself: with what base64 adds, a server takes so many.
const SET_BYTES_MAX: usize = BULK_BYTES_MAX / 2;
/// The longest line.
const LINE_BYTES_MAX: usize = 128 << 20;

/// Lines: the number of each, and what it asks for or why not.
type Set = Vec<(usize, Result<TaskRequest, ItemJson>)>;

/// What became of a line.
#[derive(Serialize)]
struct LineJson {
    line: usize,
    #[serde(flatten)]
    item: ItemJson,
}

/// How many lines ended how.
#[derive(Default)]
struct Tally {
    new: u64,
    known: u64,
    refused: u64,
    last_failure: Option<Exit>,
}

pub(super) async fn submit(
    file: &Path,
    config: &Config,
    target: &Target,
    out: Out,
) -> Result<ExitCode, Failure> {
    let path = file.to_owned();
    let mut input = blocking(move || Input::open(&path)).await?;
    let backend = target.backend(Missing::Create).await?;
    let mut tally = Tally::default();
    loop {
        let set;
        (input, set) = input.read_on().await;
        let Some(set) = set? else { break };
        let first = set.first().map_or(0, |(line, _)| *line);
        let bytes = input.bytes;
        let is_alone = set.len() == 1;
        let answers = match answers(&backend, set, config).await {
            Ok(answers) => answers,
            Err(failure) if is_alone && failure.exit == Exit::Usage => vec![too_large(first, &failure)],
            Err(failure) => {
                let what = format!(
                    "{} (at line {first} of {}; those before it are stored)",
                    failure.what,
                    file.display()
                );
                let failure = Failure { what, ..failure };
                return Err(
                    failure.more_help("submit the file again: lines with a key or an id are stored once")
                );
            }
        };
        input.bar.set_position(bytes);
        for line in answers {
            tally.count(&line, &input.bar, out)?;
        }
    }
    input.bar.finish_and_clear();
    let Tally { new, known, refused, last_failure } = tally;
    if !out.json {
        out.write(&(), |out| writeln!(out, "{new} submitted, {known} known already, {refused} refused"))?;
    }
    Ok(last_failure.map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit as u8)))
}

/// What becomes of a line that makes a request larger than a server takes, all by itself.
fn too_large(line: usize, failure: &Failure) -> LineJson {
    let problem = Problem::new(413, "too_large", "too large", failure.what.clone());
    LineJson { line, item: ItemJson { status: problem.status, answer: ItemAnswer::Problem { problem } } }
}

/// Submits a set; the answers are in the order of its lines.
async fn answers(backend: &Backend, set: Set, config: &Config) -> Result<Vec<LineJson>, Failure> {
    let mut lines = Vec::with_capacity(set.len());
    let mut requests = Vec::with_capacity(set.len());
    let mut places = Vec::with_capacity(set.len());
    for (line, read) in set {
        match read {
            Ok(request) => {
                requests.push(request);
                places.push(line);
            }
            Err(item) => lines.push(LineJson { line, item }),
        }
    }
    let sent = requests.len();
    let items = backend.submit_all(requests, config).await?;
    if items.len() != sent {
        let what = format!("the server answered {} of {sent} tasks", items.len());
        return Err(Failure::new(Exit::Unreachable, what));
    }
    lines.extend(places.into_iter().zip(items).map(|(line, item)| LineJson { line, item }));
    lines.sort_by_key(|line| line.line);
    Ok(lines)
}

impl Tally {
    fn count(&mut self, line: &LineJson, bar: &ProgressBar, out: Out) -> Result<(), Failure> {
        if out.json {
            bar.suspend(|| out.write(line, |_| Ok(())))?;
        }
        match &line.item.answer {
            ItemAnswer::Submitted(submitted) if submitted.new => self.new += 1,
            ItemAnswer::Submitted(_) => self.known += 1,
            ItemAnswer::Problem { problem } => {
                self.refused += 1;
                let failure = Failure::from(problem.clone());
                self.last_failure = Some(failure.exit);
                if !out.json {
                    let what = format!("line {}: {}", line.line, failure.what);
                    bar.suspend(|| tell(&Failure { what, ..failure }, false));
                }
            }
        }
        Ok(())
    }
}

/// The file, line by line.
struct Input {
    lines: Box<dyn BufRead + Send>,
    name: String,
    line: usize,
    /// A line that didn't fit into the last set.
    held: Option<Vec<u8>>,
    bytes: u64,
    bar: ProgressBar,
}

impl Input {
    fn open(file: &Path) -> Result<Self, Failure> {
        let name = file.display().to_string();
        let (lines, length): (Box<dyn BufRead + Send>, Option<u64>) = if file == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let open = |error| Failure::new(Exit::Usage, format!("--bulk: {name}: {error}"));
            let opened = File::open(file).map_err(open)?;
            let length = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|data| data.len());
            (Box::new(BufReader::new(opened)), length)
        };
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("the template is a constant of the right form")
        };
        // On stderr, and only where that is a terminal.
        let bar = match length {
            Some(length) => ProgressBar::new(length)
                .with_style(style("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {bytes_per_sec}")),
        };
        Ok(Self { lines, name, line: 0, held: None, bytes: 0, bar })
    }

    /// The next set. Whoever writes the lines may take their time.
    async fn read_on(mut self) -> (Self, Result<Option<Set>, Failure>) {
        blocking(move || {
            let set = self.next_set();
            (self, set)
        })
        .await
    }

    /// The next lines that aren't empty; none at the end.
    fn next_set(&mut self) -> Result<Option<Set>, Failure> {
        let mut set = Vec::new();
        let mut bytes = 0;
        while set.len() < SET_TASKS_MAX {
            let Some(line) = self.next_line()? else { break };
            if line.trim_ascii().is_empty() {
                continue;
            }
            bytes += line.len();
            if bytes > SET_BYTES_MAX && !set.is_empty() {
                self.held = Some(line);
                break;
            }
            let read = TaskRequest::from_json(&line).map_err(|error| {
                let problem = invalid_field(error);
                ItemJson { status: problem.status, answer: ItemAnswer::Problem { problem } }
            });
            set.push((self.line, read));
        }
        Ok(if set.is_empty() { None } else { Some(set) })
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).expect("it is small") + 1;
        let read = io::Read::take(&mut self.lines, limit).read_until(b'\n', &mut line);
        let wrong = |line: usize, why: String| {
            Failure::new(Exit::Usage, format!("--bulk: {}, line {line}: {why}", self.name))
        };
        let read = read.map_err(|error| wrong(self.line + 1, error.to_string()))?;
        if read > LINE_BYTES_MAX {
            return Err(wrong(self.line + 1, format!("is longer than {LINE_BYTES_MAX} bytes")));
        }
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.bytes += u64::try_from(read).expect("it is small");
        Ok(Some(line))
    }
}
