//! A process's own end of the store, where specimens make too much of what they know: they remember rows, send a request
//! anew, or ask less often than they should. What ships keeps nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use steadfast_core::name::TaskId;
use steadfast_core::step::{Batch, Outcome, Step};
use steadfast_core::storage::{Answer, Claimed, Query, View};
use steadfast_core::task::Task;
use steadfast_core::wake::{Hints, Wake};
use steadfast_core::{Error, ErrorKind};
use tokio::time::Instant;

use crate::world::{Node, Server};

use super::flaws::Flaw;
use super::rows::table;

/// How often a renewal that waits for a thread looks whether there is one.
const THREAD_WAIT: Duration = Duration::from_millis(100);

/// What a process keeps. Clones are one process's.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    /// The rows that were seen, by what was asked for.
    rows: BTreeMap<TaskId, Option<Box<Task>>>,
    /// The highest number of a change that was seen.
    cursor: u64,
    /// Submits whose outcome is unknown.
    unanswered: BTreeSet<TaskId>,
    /// How many were sent as new requests.
    resent: u32,
    /// Since the last claim.
    hints: Hints,
    /// Whether the next claim needs no hint.
    claims_anyway: bool,
    due_at: Option<Instant>,
}

impl Client {
    pub(super) fn new(hints: &Wake) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            rows: BTreeMap::new(),
            cursor: 0,
            unanswered: BTreeSet::new(),
            resent: 0,
            hints: hints.listen(),
            claims_anyway: true,
            due_at: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing under this lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it claims nothing now, because nobody has hinted it and nothing is due; and when it will.
    pub(super) fn claims_later(&self, server: &Server) -> Option<Option<Duration>> {
        if !server.has(Flaw::HintsWithoutPolling) {
            return None;
        }
        let kept = &mut *self.lock();
        let now = Instant::now();
        let is_hinted = kept.hints.wait().now_or_never().is_some_and(|hint| hint.ready);
        let is_due = kept.due_at.is_some_and(|due| due <= now);
        if std::mem::take(&mut kept.claims_anyway) || is_hinted || is_due {
            return None;
        }
        Some(kept.due_at.map(|due| due - now))
    }

    /// Notes how a claim was answered.
    pub(super) fn has_claimed(&self, server: &Server, claimed: &Result<Claimed, Error>) {
        if !server.has(Flaw::HintsWithoutPolling) {
            return;
        }
        let kept = &mut *self.lock();
        match claimed {
            Ok(claimed) => kept.due_at = claimed.next_due.map(|due| Instant::now() + due),
            Err(_) => kept.claims_anyway = true,
        }
    }

    /// What it really sends, and when.
    pub(super) async fn sends(&self, server: &Server, node: &Node, batches: &mut [Batch]) {
        if server.has(Flaw::RenewalsBehindHandlers)
            && batches.iter().flat_map(|batch| &batch.steps).all(renews)
        {
            while node.is_busy() {
                tokio::time::sleep(THREAD_WAIT).await;
            }
        }
        if !server.has(Flaw::BlindRetryAfterUnknown) {
            return;
        }
        let kept = &mut *self.lock();
        for step in batches.iter_mut().flat_map(|batch| &mut batch.steps) {
            if let Step::Insert(insert) = step
                && kept.unanswered.contains(&insert.task.id)
            {
                kept.resent += 1;
                insert.task.id = TaskId::trusted(format!("{}-again-{}", insert.task.id, kept.resent));
                insert.task.key = None;
            }
        }
    }

    /// The submits among these.
    pub(super) fn remembers(&self, server: &Server, batches: &[Batch]) -> Vec<TaskId> {
        if !server.has(Flaw::BlindRetryAfterUnknown) {
            return Vec::new();
        }
        let steps = batches.iter().flat_map(|batch| &batch.steps);
        let id =
            |step: &Step| if let Step::Insert(insert) = step { Some(insert.task.id.clone()) } else { None };
        steps.filter_map(id).collect()
    }

    /// Notes how submits were answered.
    pub(super) fn is_answered(&self, sent: Vec<TaskId>, outcomes: &Result<Vec<Outcome>, Error>) {
        if !sent.is_empty() && matches!(outcomes, Err(error) if error.kind() == ErrorKind::Unknown) {
            self.lock().unanswered.extend(sent);
        }
    }

    /// What it makes of an answer.
    pub(super) fn understands(&self, server: &Server, query: &Query, view: View) -> View {
        let (Query::Task(id), Answer::Task(task)) = (query, &view.answer) else { return view };
        let kept = &mut *self.lock();
        let task = if server.has(Flaw::RowCacheInClient) && task.is_some() {
            kept.rows.entry(id.clone()).or_insert_with(|| task.clone()).clone()
        } else if server.has(Flaw::AbsenceCached) && (task.is_none() || kept.rows.contains_key(id)) {
            kept.rows.insert(id.clone(), None);
            None
        } else if server.has(Flaw::IdCursorReader) {
            kept.follow(server);
            kept.rows.get(id).cloned().unwrap_or_else(|| task.clone())
        } else {
            return view;
        };
        View { answer: Answer::Task(task), ..view }
    }
}

impl Kept {
    /// Takes over what changed under higher numbers than it has seen.
    fn follow(&mut self, server: &Server) {
        let changed = server.changes_after(self.cursor);
        let rows: BTreeMap<TaskId, Task> = {
            let db = server.db();
            db.committed(table::TASK).map(|row| (row.as_task().id.clone(), row.as_task().clone())).collect()
        };
        for (id, number) in changed {
            self.cursor = self.cursor.max(number);
            self.rows.insert(id.clone(), rows.get(&id).cloned().map(Box::new));
        }
    }
}

fn renews(step: &Step) -> bool {
    match step {
        Step::Renew(_) => true,
        Step::Insert(_)
        | Step::Transition(_)
        | Step::Report(_)
        | Step::Limit(_)
        | Step::Pause(_)
        | Step::Beat(_)
        | Step::Prune(_) => false,
    }
}
