//! The figures: as one JSON document, and as a table for people.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use serde::Serialize;

/// What was measured. What wasn't is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where.
    pub store: String,
    /// What an acknowledged write survived, in the store's words: with `FULL`, or with fsync on, a power failure.
    pub synchronous: String,
    /// Submits a second by one caller, each after the other's answer.
    pub submit_single_per_s: Option<f64>,
    /// Submits a second by sixteen callers, each as that one.
    pub submit_concurrent16_per_s: Option<f64>,
    /// Submits a second in sets of 500.
    pub submit_bulk_per_s: Option<f64>,
    /// Tasks that waited, claimed, run by a handler that does nothing, and settled, in a second.
    pub process_per_s: Option<f64>,
    /// From submit until the handler is entered, on an idle worker.
    pub latency_ms: Option<Latency>,
    /// The most memory that this process had, in MiB, where the system tells.
    pub rss_mb: Option<f64>,
    /// The least that a table of tasks can cost, in raw SQL.
    pub floor: Option<Floor>,
    /// Our share of the floor.
    pub ratio: Option<Ratio>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the tasks waited no longer.
    pub p50: f64,
    /// 99 in 100 waited no longer.
    pub p99: f64,
}

/// Raw SQL in sets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Floor {
    /// Rows inserted in a second.
    pub submit_per_s: f64,
    /// Rows claimed and completed in a second.
    pub process_per_s: f64,
}

/// Ours over the floor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Submitting in sets.
    pub submit: Option<f64>,
    /// Processing.
    pub process: Option<f64>,
}

impl Latency {
    /// Of all samples of all rounds.
    pub(super) fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        let at = |hundredth: usize| samples.get(samples.len() * hundredth / 100);
        let ms = |sample: &Duration| super::thousandths(sample.as_secs_f64() * 1_000.0);
        Some(Latency { p50: ms(at(50)?), p99: ms(at(99)?) })
    }
}

impl Report {
    /// Writes the figures as a table.
    ///
    /// # Errors
    /// As the writer says.
    pub fn page(&self, out: &mut dyn Write) -> io::Result<()> {
        let bold = Style::new().bold();
        writeln!(out, "{bold}{}{bold:#}, durability: {}\n", self.store, self.synchronous)?;
        writeln!(
            out,
            "{bold}{:<30}{:>14}{:>14}{:>8}{bold:#}",
            "tasks a second", "steadfast", "raw SQL", "ratio"
        )?;
        let floor = |pick: fn(&Floor) -> f64| self.floor.as_ref().map(pick);
        let share = |pick: fn(&Ratio) -> Option<f64>| self.ratio.as_ref().and_then(pick);
        let rows = [
            ("submit, one caller", self.submit_single_per_s, None, None),
            ("submit, 16 callers", self.submit_concurrent16_per_s, None, None),
            (
                "submit, in sets of 500",
                self.submit_bulk_per_s,
                floor(|floor| floor.submit_per_s),
                share(|ratio| ratio.submit),
            ),
            (
                "process: claim, run, settle",
                self.process_per_s,
                floor(|floor| floor.process_per_s),
                share(|ratio| ratio.process),
            ),
        ];
        for (what, ours, floor, ratio) in rows {
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            writeln!(out, "{what:<30}{:>14}{:>14}{ratio:>8}", grouped(ours), grouped(floor))?;
        }
        if let Some(Latency { p50, p99 }) = self.latency_ms {
            writeln!(out, "\nsubmit to handler entered     p50 {p50:.2} ms, p99 {p99:.2} ms")?;
        }
        if let Some(rss) = self.rss_mb {
            writeln!(out, "memory, at most               {rss:.0} MiB")?;
        }
        Ok(())
    }
}

/// `1234567.0` as `1,234,567`; nothing as nothing.
fn grouped(figure: Option<f64>) -> String {
    let Some(figure) = figure else { return String::new() };
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The peak of the resident set, as Linux tells it.
pub(super) fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib / 102.4).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped_by_thousands() {
        for (figure, text) in [(7.0, "7"), (999.6, "1,000"), (12_345.0, "12,345"), (123_456.0, "123,456")] {
            assert_eq!(grouped(Some(figure)), text);
        }
    }

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let samples = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(Latency::of(samples), Some(Latency { p50: 101.0, p99: 199.0 }));
        assert_eq!(Latency::of(Vec::new()), None);
    }
}
