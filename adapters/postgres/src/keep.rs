//! What stands alone in its batch, as columns: the parameters of `keep`, which is carried out after all waves.

use std::collections::{BTreeMap, BTreeSet};

use postgres_types::{ToSql, Type};
use steadfast_core::step::{Batch, Prune, Report, Step};
use steadfast_core::storage::Error;
use steadfast_core::time::micros;

use crate::columns::{Sparse, columns, rejected, signed};

columns! {
    /// The parameters of `keep`.
    Keeping:
    /// The clock set by hand.
    clock: Option<i64> = INT8,
    /// Whether the call is a single batch, and may wait for locks.
    alone: bool = BOOL,

    k_step: Vec<i32> = INT4_ARRAY,
    k_task: Vec<&'a str> = TEXT_ARRAY,
    k_fence: Vec<i64> = INT8_ARRAY,
    k_percent: Sparse<i16> = INT2_ARRAY,
    k_message: Sparse<&'a str> = TEXT_ARRAY,
    k_alias: Sparse<&'a str> = TEXT_ARRAY,

    /// For each line of a log, the report that brings it.
    g_step: Vec<i32> = INT4_ARRAY,
    g_task: Vec<&'a str> = TEXT_ARRAY,
    g_fence: Vec<i64> = INT8_ARRAY,
    g_number: Vec<i64> = INT8_ARRAY,
    g_ago: Vec<i64> = INT8_ARRAY,
    g_stream: Vec<&'static str> = TEXT_ARRAY,
    g_text: Vec<&'a str> = TEXT_ARRAY,

    /// For each checkpoint, the report that brings it.
    c_step: Vec<i32> = INT4_ARRAY,
    c_task: Vec<&'a str> = TEXT_ARRAY,
    c_name: Vec<&'a str> = TEXT_ARRAY,
    c_value: Vec<&'a [u8]> = BYTEA_ARRAY,

    q_queue: Vec<&'a str> = TEXT_ARRAY,
    q_paused: Vec<bool> = BOOL_ARRAY,

    b_worker: Vec<&'a str> = TEXT_ARRAY,
    /// Between commas: they are words.
    b_queues: Vec<String> = TEXT_ARRAY,
    b_kinds: Vec<String> = TEXT_ARRAY,
    b_concurrency: Vec<i64> = INT8_ARRAY,
    b_running: Vec<i64> = INT8_ARRAY,
    b_gone: Vec<bool> = BOOL_ARRAY,

    p_step: Vec<i32> = INT4_ARRAY,
    p_succeeded: Vec<i64> = INT8_ARRAY,
    p_otherwise: Vec<i64> = INT8_ARRAY,
    p_limit: Vec<i64> = INT8_ARRAY,
}

/// Whether a batch is carried out after the waves.
pub(crate) fn is_kept(batch: &Batch) -> bool {
    batch.steps.iter().any(|step| match step {
        Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => true,
        Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Limit(_) => false,
    })
}

impl<'a> Keeping<'a> {
    /// What of a call is kept, if anything is.
    ///
    /// # Errors
    /// Where such a step doesn't stand alone, or two are reports about one task.
    pub(crate) fn of(batches: &'a [Batch], clock: Option<i64>, alone: bool) -> Result<Option<Self>, Error> {
        let mut keeping = Self { clock, alone, ..Self::default() };
        let mut reports = BTreeMap::new();
        // Of several about one thing the last counts: one statement can't write a row twice.
        let (mut pauses, mut beats) = (BTreeMap::new(), BTreeMap::new());
        let mut first = 0;
        let mut any = false;
        for batch in batches {
            let at = i32::try_from(first).expect("a call has fewer steps than 2^31");
            first += batch.steps.len();
            if !is_kept(batch) {
                continue;
            }
            any = true;
            let [step] = batch.steps.as_slice() else {
                return Err(rejected(
                    "a report, a pause, a beat or a prune stands alone in its batch".into(),
                ));
            };
            match step {
                Step::Report(report) => {
                    if reports.insert(&report.task, (at, report)).is_some() {
                        return Err(rejected(format!("two reports of one call are about {}", report.task)));
                    }
                }
                Step::Pause(pause) => {
                    pauses.insert(&pause.queue, pause.paused);
                }
                Step::Beat(beat) => {
                    beats.insert(&beat.worker, beat);
                }
                Step::Prune(prune) => keeping.push_prune(at, prune),
                Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Limit(_) => {}
            }
        }
        // Locks are taken in order of id; arrays are read in theirs.
        reports.into_values().for_each(|(at, report)| keeping.push_report(at, report));
        for (queue, paused) in pauses {
            keeping.q_queue.push(queue.as_str());
            keeping.q_paused.push(paused);
        }
        for (worker, beat) in beats {
            keeping.b_worker.push(worker.as_str());
            keeping.b_queues.push(words(&beat.queues));
            keeping.b_kinds.push(words(&beat.kinds));
            keeping.b_concurrency.push(i64::from(beat.concurrency));
            keeping.b_running.push(i64::from(beat.running));
            keeping.b_gone.push(beat.gone);
        }
        Ok(any.then_some(keeping))
    }

    fn push_report(&mut self, at: i32, report: &'a Report) {
        let (task, fence) = (report.task.as_str(), signed(report.fence));
        self.k_step.push(at);
        self.k_task.push(task);
        self.k_fence.push(fence);
        self.k_percent.push(report.progress.as_ref().map(|progress| i16::from(progress.percent)));
        self.k_message.push(report.progress.as_ref().map(|progress| progress.message.as_str()));
        self.k_alias.push(report.alias.as_ref().map(|alias| alias.as_str()));
        for line in &report.lines {
            self.g_step.push(at);
            self.g_task.push(task);
            self.g_fence.push(fence);
            self.g_number.push(i64::from(line.number));
            self.g_ago.push(micros(line.ago));
            self.g_stream.push(line.stream.as_str());
            self.g_text.push(&line.text);
        }
        let mut names = BTreeSet::new();
        for checkpoint in report.checkpoints.iter().rev().filter(|one| names.insert(&one.name)) {
            self.c_step.push(at);
            self.c_task.push(task);
            self.c_name.push(&checkpoint.name);
            self.c_value.push(&checkpoint.value);
        }
    }

    fn push_prune(&mut self, at: i32, prune: &Prune) {
        self.p_step.push(at);
        self.p_succeeded.push(micros(prune.succeeded));
        self.p_otherwise.push(micros(prune.otherwise));
        self.p_limit.push(i64::from(prune.limit));
    }
}

fn words(names: &[impl AsRef<str>]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(",")
}
