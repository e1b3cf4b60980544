//! `sim specimens`.

use std::process::ExitCode;

use serde_json::json;
use steadfast_sim::capsule::{CapsuleError, find};
use steadfast_sim::detection::{Source, Subject};
use steadfast_sim::page::Page;
use steadfast_sim::strategy::Strategy;
use steadfast_sim::world::Profile;

use super::super::Out;
use super::Specimens;
use crate::failure::{Exit, Failure};

/// Where they are searched: all of them exist there, while SQLite's only writer needs no row locks.
pub(super) const PROFILE: Profile = Profile::Postgres;

pub(super) fn specimens(args: &Specimens, out: Out) -> Result<ExitCode, Failure> {
    match &args.name {
        Some(name) => show(subject(name)?, args.seeds_max.get(), out),
        None => list(out),
    }
}

/// The specimen or flaw of this name.
pub(super) fn subject(name: &str) -> Result<Subject, Failure> {
    let all: Vec<Subject> = Subject::all().collect();
    find("specimen", name, &all, |subject| subject.name).map_err(|error: CapsuleError| {
        Failure::new(Exit::NotFound, error.to_string()).help("`steadfast sim specimens` names what there is")
    })
}

fn list(out: Out) -> Result<ExitCode, Failure> {
    for subject in Subject::all() {
        let (Subject { name, source, property, scenario }, about) = (subject, subject.about());
        let source = match source {
            Source::Incident(number) => format!("incident {number}"),
            Source::Flaw(_) => "flaw".to_owned(),
        };
        let json = json!({
            "name": name, "source": source, "property": property, "scenario": scenario.name, "about": about,
        });
        out.write(&json, |out| writeln!(out, "{name:<30} {source:<10} {property:<4} {about}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds it and shows its page. What must be found and is found is no failure.
fn show(subject: Subject, seeds_max: u64, out: Out) -> Result<ExitCode, Failure> {
    let Some(report) = subject.find(PROFILE, Strategy::Random, 0..seeds_max) else {
        let Subject { name, property, .. } = subject;
        let message = format!("{name} goes unfound: none of {seeds_max} seeds breaks {property}");
        return Err(Failure::new(Exit::Failed, message).help(
            "try more seeds with --seeds-max; if it was found before, the simulator has become blind",
        ));
    };
    let page = Page::of(&report, subject.property);
    let json = json!({
        "name": subject.name, "property": subject.property, "profile": PROFILE.as_str(), "seed": report.seed,
        "decisions": report.decisions.len(), "shrunk": page.report().decisions.len(), "capsule": page.capsule(),
    });
    out.write(&json, |out| write!(out, "{page}"))?;
    Ok(ExitCode::SUCCESS)
}
