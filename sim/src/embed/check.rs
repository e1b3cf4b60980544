//! A check: a test in many worlds. Runs that failed once come first, then the one without faults, then seeds.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::choices::Choices;
use crate::determinism::Divergence;
use crate::page::Page;
use crate::scenario::{Goals, Scenario};
use crate::strategy::Strategy;
use crate::sweep::{News, Report, Setup, Sweep};
use crate::world::Profile;

use super::failed::Failed;
use super::regressions::{self, Regressions, RegressionsError, Stale};
use super::settings::{Package, Settings};
use super::stage::{self, Test, TestWorld};

/// How many seeds each store gets, where nothing else is said.
pub const SEEDS: u64 = 100;
/// From so many seeds on, all cores work.
const SEEDS_FOR_THREADS: u64 = 1_000;

/// A test in many worlds; [`check`](super::check) is [`Check::from_env`] with every default, and [`passes`](Check::passes).
#[derive(Debug, Clone)]
pub struct Check {
    name: &'static str,
    place: &'static Location<'static>,
    settings: Settings,
    profiles: Vec<Profile>,
    regressions: Regressions,
    may_panic: bool,
    is_script: bool,
}

/// What a check came to that held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// How many runs there were.
    pub runs: u64,
    /// Kept runs some of whose decisions no longer apply.
    pub stale: Vec<Stale>,
}

/// What a check found. Its `Debug` is the page as well, for `unwrap`.
#[non_exhaustive]
pub enum Failure {
    /// A run broke a property, or the test's own assertion: its page.
    Broken(Box<Page>),
    /// The same choices weren't the same run: the test, its handlers or its fakes read what isn't drawn from the seed.
    Parted {
        /// Where two runs part.
        divergence: Box<Divergence>,
        /// What makes both again.
        command: String,
    },
    /// What is kept can't be replayed.
    Regressions(RegressionsError),
}

impl Failure {
    /// The page of a run that broke something.
    pub fn page(&self) -> Option<&Page> {
        match self {
            Failure::Broken(page) => Some(page),
            Failure::Parted { .. } | Failure::Regressions(_) => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Broken(page) => page.fmt(f),
            Failure::Parted { divergence, command } => write!(f, "{divergence}\nAgain:\n  {command}"),
            Failure::Regressions(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

impl From<RegressionsError> for Failure {
    fn from(error: RegressionsError) -> Self {
        Failure::Regressions(error)
    }
}

impl Check {
    /// A check of this name, which is that of the test function: the command on a failure page names it. 100 seeds on
    /// each of both stores, all faults; failing runs are kept nowhere, and the environment says nothing.
    #[track_caller]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            place: Location::caller(),
            settings: Settings::default(),
            profiles: Profile::ALL.to_vec(),
            regressions: Regressions::Nowhere,
            may_panic: false,
            is_script: false,
        }
    }

    /// The same as the environment wants it, by the variables that [`Settings`] names; and failing runs are kept in a file
    /// beside the test.
    ///
    /// # Panics
    /// A variable makes no sense.
    #[track_caller]
    pub fn from_env(name: &'static str) -> Self {
        match Settings::from_env() {
            Ok(settings) => Self::new(name).settings(settings).regressions(Regressions::BesideTheTest),
            Err(invalid) => panic!("{invalid}"),
        }
    }

    /// So many seeds on each store.
    #[must_use]
    pub fn seeds(mut self, seeds: u64) -> Self {
        self.settings.seeds = Some(seeds);
        self
    }

    /// Only on these stores.
    #[must_use]
    pub fn profiles(self, profiles: impl IntoIterator<Item = Profile>) -> Self {
        Self { profiles: profiles.into_iter().collect(), ..self }
    }

    /// Where failing runs are kept and looked for.
    #[must_use]
    pub fn regressions(self, regressions: Regressions) -> Self {
        Self { regressions, ..self }
    }

    /// What the environment asks for, or the same in its words.
    #[must_use]
    pub fn settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// Leaves it to Steadfast what becomes of a handler that panics: the attempt fails, and is tried again. Otherwise a
    /// handler's panic fails the test, because it is mostly an assertion in a fake.
    #[must_use]
    pub fn handlers_may_panic(self) -> Self {
        Self { may_panic: true, ..self }
    }

    /// One run on each store, in which nothing goes wrong but what the test itself does: a script.
    #[must_use]
    pub fn script(self) -> Self {
        Self { is_script: true, ..self }
    }

    /// Runs the test, and says on its output what is worth knowing.
    ///
    /// # Panics
    /// Something failed: with its page.
    #[track_caller]
    #[expect(clippy::print_stderr, reason = "the output of the test that runs")]
    pub fn passes<F, T>(&self, test: F)
    where
        F: Fn(TestWorld) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        match self.run(test) {
            Ok(passed) => passed.stale.iter().for_each(|stale| eprintln!("{stale}")),
            Err(failure) => panic!("{failure}"),
        }
    }

    /// Runs the test until something fails, for who wants to know what, or demands that something does.
    ///
    /// # Errors
    /// [`Failure`] has the page of what failed.
    pub fn run<F, T>(&self, test: F) -> Result<Passed, Failure>
    where
        F: Fn(TestWorld) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let test: Test = Arc::new(move |world| Box::pin(test(world)));
        let run = Run { check: self, package: Package::of_this_process(), scenario: self.scenario(test) };
        run.all()
    }

    /// The closure lives as long as the program, like the name of the test: there is one for each check.
    fn scenario(&self, test: Test) -> Scenario {
        let may_panic = self.may_panic;
        let run = Box::leak(Box::new(move |world| {
            let playing: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(stage::play(world, test.clone(), may_panic));
            playing
        }));
        Scenario { name: self.name, about: "a service's test", goals: Goals::NONE, run }
    }
}

struct Run<'a> {
    check: &'a Check,
    package: Package,
    scenario: Scenario,
}

impl Run<'_> {
    fn all(&self) -> Result<Passed, Failure> {
        let Check { settings, place, is_script, .. } = self.check;
        let mut passed = Passed::default();
        if let Some(path) = &settings.replay {
            self.replay(path, &mut passed)?;
            return Ok(passed);
        }
        if let Some(seed) = settings.seed.filter(|_| !is_script) {
            for setup in self.setups() {
                let report = setup.run_twice(seed).map_err(|divergence| self.parted(divergence))?;
                self.judge(report, &mut passed)?;
            }
            return Ok(passed);
        }
        if let Some(path) = self.check.regressions.file(place, &self.package) {
            self.replay_kept(&path, &mut passed)?;
        }
        for setup in self.setups() {
            self.judge(setup.run_choices(Choices::from_decisions([])), &mut passed)?;
        }
        if !is_script {
            self.sweep(&mut passed)?;
        }
        Ok(passed)
    }

    fn setup(&self, profile: Profile) -> Setup {
        Setup { scenario: self.scenario, profile, flaws: Vec::new() }
    }

    fn setups(&self) -> Vec<Setup> {
        let asked = self.check.settings.profile;
        let profiles = self.check.profiles.iter().copied();
        profiles
            .filter(|profile| asked.is_none_or(|asked| asked == *profile))
            .map(|p| self.setup(p))
            .collect()
    }

    /// The runs in the file that `STEADFAST_REPLAY` names.
    fn replay(&self, path: &Path, passed: &mut Passed) -> Result<(), Failure> {
        for entry in regressions::given(path, self.check.name, &self.package)? {
            let report = entry.replay(&self.setup(entry.profile()?))?;
            passed.runs += 1;
            passed.stale.extend(entry.stale(&report));
            if let Some(property) = report.headline().map(|violation| violation.property) {
                let page = Page::as_it_is(report, property);
                let command = format!("STEADFAST_REPLAY={} {}", path.display(), self.command());
                return Err(Failure::Broken(Box::new(page.ending_with(ending(None, None, &command)))));
            }
        }
        Ok(())
    }

    fn replay_kept(&self, path: &Path, passed: &mut Passed) -> Result<(), Failure> {
        for entry in regressions::kept(path)? {
            if entry.test() != self.check.name {
                continue;
            }
            let report = entry.replay(&self.setup(entry.profile()?))?;
            passed.runs += 1;
            passed.stale.extend(entry.stale(&report));
            if let Some(property) = report.headline().map(|violation| violation.property) {
                let page = Page::as_it_is(report, property);
                let kept = format!("It is kept in {}, line {}.", path.display(), entry.line);
                let page = page.ending_with(ending(Some(&kept), None, &self.command()));
                return Err(Failure::Broken(Box::new(page)));
            }
        }
        Ok(())
    }

    /// Seeds in order; of those that fail the smallest is told.
    fn sweep(&self, passed: &mut Passed) -> Result<(), Failure> {
        let Settings { seeds, time, .. } = self.check.settings;
        let count = seeds.unwrap_or(if time.is_some() { u64::MAX } else { SEEDS });
        let jobs = if count < SEEDS_FOR_THREADS { NonZeroUsize::MIN } else { cores() };
        let sweep = Sweep { setups: self.setups(), seeds: 0..count, strategy: Strategy::Random, jobs };
        let is_over = AtomicBool::new(false);
        let budget = Budget::of(time);
        let mut found: Option<(u64, News)> = None;
        let swept = sweep.run(
            || !is_over.load(Ordering::Relaxed) && !budget.is_spent(),
            |news| {
                let seed = match &news {
                    News::Held => return,
                    News::Broke(report) => report.seed,
                    News::Parted(divergence) => divergence.seed,
                };
                is_over.store(true, Ordering::Relaxed);
                let seed = seed.expect("a sweep is of seeds");
                if found.as_ref().is_none_or(|(smallest, _)| seed < *smallest) {
                    found = Some((seed, news));
                }
            },
        );
        passed.runs += swept.runs;
        match found {
            Some((_, News::Broke(report))) => self.judge(*report, passed),
            Some((_, News::Parted(divergence))) => Err(self.parted(divergence)),
            Some((_, News::Held)) | None => Ok(()),
        }
    }

    /// Shrinks and keeps a run that failed.
    fn judge(&self, report: Report, passed: &mut Passed) -> Result<(), Failure> {
        passed.runs += 1;
        let Some(property) = report.headline().map(|violation| violation.property) else { return Ok(()) };
        let again = report.setup.run_choices(Choices::from_decisions(report.decisions.iter().cloned()));
        if let Some(divergence) = report.divergence(&again).filter(|_| !again.breaks(property)) {
            return Err(self.parted(divergence));
        }
        let page = Page::of(&report, property);
        let capsule = page.capsule();
        let kept = (!self.check.is_script)
            .then(|| self.check.regressions.file(self.check.place, &self.package))
            .flatten()
            .map(|path| match regressions::keep(&path, &capsule) {
                Ok(true) => format!("Kept in {}: it is replayed before any seed.", path.display()),
                Ok(false) => format!("It was kept before, in {}.", path.display()),
                Err(why) => format!("It could not be kept: {why}."),
            });
        let command = self.command_of(report.seed, Some(report.setup.profile));
        let line = (!self.check.is_script).then(|| capsule.to_json());
        let ending = ending(kept.as_deref(), line.as_deref(), &command);
        Err(Failure::Broken(Box::new(page.ending_with(ending))))
    }

    fn parted(&self, divergence: Box<Divergence>) -> Failure {
        let profile = divergence.setup.as_ref().map(|setup| setup.profile);
        Failure::Parted { command: self.command_of(divergence.seed, profile), divergence }
    }

    /// What makes a run of this test again.
    fn command_of(&self, seed: Option<u64>, profile: Option<Profile>) -> String {
        let seed = seed.map(|seed| format!("STEADFAST_SEED={seed:#x} ")).unwrap_or_default();
        let of_seed = profile.filter(|_| !seed.is_empty());
        let profile = of_seed.map(|profile| format!("STEADFAST_PROFILE={} ", profile.as_str()));
        format!("{seed}{}{}", profile.unwrap_or_default(), self.command())
    }

    /// What runs this test again.
    fn command(&self) -> String {
        let package = self.package.name.as_deref().map(|name| format!(" -p {name}")).unwrap_or_default();
        format!("cargo test{package} {}", self.check.name)
    }
}

/// The last lines of a page: the last of them is the command.
fn ending(kept: Option<&str>, line: Option<&str>, command: &str) -> String {
    let mut lines: Vec<String> = kept.map(str::to_owned).into_iter().collect();
    if let Some(line) = line {
        lines.push("The run, for STEADFAST_REPLAY=FILE:".to_owned());
        lines.push(line.to_owned());
    }
    lines.push("Again:".to_owned());
    lines.push(format!("  {command}"));
    lines.join("\n")
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Real time, of which no run knows: only how many runs there are depends on it.
#[expect(clippy::disallowed_types, reason = "outside of every run")]
struct Budget(Option<(std::time::Instant, Duration)>);

impl Budget {
    #[expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "outside of every run")]
    fn of(time: Option<Duration>) -> Self {
        Self(time.map(|time| (std::time::Instant::now(), time)))
    }

    fn is_spent(&self) -> bool {
        self.0.is_some_and(|(start, time)| start.elapsed() > time)
    }
}

/// Where a check of the environment keeps what fails, for those who ask.
impl Check {
    /// The file in which failing runs of this check are kept, if there is one.
    pub fn regressions_file(&self) -> Option<PathBuf> {
        self.regressions.file(self.place, &Package::of_this_process())
    }
}
