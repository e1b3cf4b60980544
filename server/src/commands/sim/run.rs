//! `sim run` and `sim replay`.

use std::process::ExitCode;

use serde_json::{Value, json};
use steadfast_sim::capsule::Capsule;
use steadfast_sim::page::Page;
use steadfast_sim::sweep::Report;

use super::super::Out;
use super::{Replay, Run, What, violation_json};
use crate::failure::{Exit, Failure};

pub(super) fn run(args: &Run, out: Out) -> Result<ExitCode, Failure> {
    if args.what.list {
        return What::names(out);
    }
    let mut broken = false;
    for setup in args.what.setups()? {
        let report = setup.run_with(args.what.strategy(), args.seed);
        broken |= show(report, !args.what.no_shrink, out)?;
    }
    Ok(ExitCode::from(if broken { Exit::Failed as u8 } else { 0 }))
}

pub(super) fn replay(args: &Replay, out: Out) -> Result<ExitCode, Failure> {
    let path = args.capsule.display();
    let text = std::fs::read_to_string(&args.capsule).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, format!("{path} can't be read: {error}"))
            .help("give a failure page, or a file with the line of JSON at its end")
    })?;
    let capsule = Capsule::from_text(&text)?;
    let report = capsule.replay()?;
    if let Some(decision) = report.unapplied.first() {
        super::super::note(format_args!(
            "{} of {} decisions are no longer met, first {decision}: the program has changed there",
            report.unapplied.len(),
            capsule.decisions.len()
        ));
    }
    let broken = show(report, false, out)?;
    Ok(ExitCode::from(if broken { Exit::Failed as u8 } else { 0 }))
}

/// Shows a run; says whether it broke something.
fn show(report: Report, shrinks: bool, out: Out) -> Result<bool, Failure> {
    let json = if out.json { report_json(&report) } else { Value::Null };
    let Some(violation) = report.headline() else {
        out.write(&json, |out| writeln!(out, "{report}"))?;
        return Ok(false);
    };
    let property = violation.property;
    // Machines are given the run as it was; only people wait for it to be made smaller.
    out.write(&json, |out| {
        let page = if shrinks { Page::of(&report, property) } else { Page::as_it_is(report, property) };
        write!(out, "{page}")
    })?;
    Ok(true)
}

fn report_json(report: &Report) -> Value {
    let violations: Vec<Value> = report.violations.iter().map(violation_json).collect();
    json!({
        "seed": report.seed,
        "scenario": report.setup.scenario.name,
        "profile": report.setup.profile.as_str(),
        "hash": format!("{:016x}", report.hash()),
        "steps": report.steps,
        "virtual_s": report.virtual_time.as_secs_f64(),
        "violations": violations,
        "runs": report.runs,
        "given_up": report.is_given_up,
        "decisions": report.decisions.len(),
    })
}
