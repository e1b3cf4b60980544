//! What the services of the reports have in common: a table of jobs in a database, and sessions on it.
//!
//! The table is the store's table of tasks, so that one oracle judges Steadfast and them: where a report says QUEUED,
//! IN_PROGRESS or COMPLETED, it is ready, running or succeeded here. Nothing else of Steadfast is in use: no engine, no
//! supervisor, no lease.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::decide::is_legal;
use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
use steadfast_core::task::{Backoff, Cause, Fence, Task};
use steadfast_core::{State, Timestamp};

use crate::choices::{Choices, Stream};
use crate::db::{Begin, Mode, Progress, Rows, Select, SessionId, Statement};
use crate::history::{Event, SubmitAnswer, Word};
use crate::scheduler::{waiting_for, yield_now};
use crate::storage::rows::{EdgeRow, RowKey, StoreRow, table};
use crate::world::{Node, Server, World};

/// How often the end of a run is looked for.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// How long a client of such a service is patient.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The session of a process of the service on its database. Dropping it rolls back what it has begun.
#[derive(Debug)]
pub(super) struct Session {
    server: Arc<Server>,
    node: Node,
    id: SessionId,
}

impl Session {
    pub(super) fn open(node: &Node) -> Self {
        let server = node.world().server().clone();
        let id = server.db().connect();
        Self { server, node: node.clone(), id }
    }

    /// Begins a transaction whose first read takes the snapshot of all of them.
    pub(super) fn begin_with_snapshot(&self) {
        let mut db = self.server.db();
        let begin = match db.mode() {
            Mode::Postgres => Begin::RepeatableRead,
            Mode::Sqlite => Begin::Deferred,
        };
        db.begin(self.id, begin).expect("neither of the two waits or fails");
    }

    /// Reads a job, in the transaction if there is one.
    pub(super) async fn find(&self, id: &TaskId) -> Option<Task> {
        let rows = Rows::by_keys(table::TASK, [RowKey::Task(id.clone())]);
        self.read(rows).await.into_iter().next()
    }

    /// Reads all jobs.
    pub(super) async fn all(&self) -> Vec<Task> {
        self.read(Rows::all(table::TASK)).await
    }

    async fn read(&self, rows: Rows<StoreRow>) -> Vec<Task> {
        self.point("read").await;
        let progress = self.server.db().start(self.id, Select::new(rows).into());
        match progress {
            Progress::Done(answer) => {
                let rows = answer.expect("a plain select doesn't fail");
                rows.iter().map(|row| row.as_task().clone()).collect()
            }
            Progress::Waiting => unreachable!("a plain select waits for nobody"),
        }
    }

    /// Stores a job that waits to be run.
    pub(super) async fn insert(&self, job: Task) {
        let row = StoreRow::task(job, self.server.next_seq());
        self.write(Statement::insert([row])).await;
    }

    /// Stores a job that waits for another.
    pub(super) async fn insert_child(&self, child: Task, edge: EdgeRow) {
        self.insert(child).await;
        self.write(Statement::insert([StoreRow::Edge(edge)])).await;
    }

    /// Changes a job, where it may go to that state from the one it is in; otherwise no row is affected.
    pub(super) async fn change(
        &self,
        id: &TaskId,
        to: State,
        change: impl Fn(&mut Task) + Send + 'static,
    ) -> Option<Task> {
        let key = RowKey::Task(id.clone());
        let rows = self.update(Some(key), move |task| is_legal(task.state, to), to, change).await;
        rows.into_iter().next()
    }

    /// Changes every job that the guard lets through, in one statement of its own.
    pub(super) async fn update(
        &self,
        key: Option<RowKey>,
        guard: impl Fn(&Task) -> bool + Send + 'static,
        to: State,
        change: impl Fn(&mut Task) + Send + 'static,
    ) -> Vec<Task> {
        let rows = match key {
            Some(key) => Rows::by_keys(table::TASK, [key]),
            None => Rows::all(table::TASK),
        };
        let statement =
            Statement::update(rows.filter(move |row: &StoreRow| guard(row.as_task())), move |row| {
                row.with(|task| {
                    // One that waits for its time is promoted first: two changes.
                    task.rev += if task.state == State::Scheduled { 2 } else { 1 };
                    task.state = to;
                    change(task);
                })
            });
        let rows = self.write(statement).await;
        rows.iter().map(|row| row.as_task().clone()).collect()
    }

    /// A statement that writes and commits itself. Its guard is judged and its rows are written at one instant, so it
    /// waits for nobody: no other session here keeps a lock.
    async fn write(&self, statement: Statement<StoreRow>) -> Vec<StoreRow> {
        self.point("write").await;
        let progress = self.server.db().start(self.id, statement);
        match progress {
            Progress::Done(answer) => {
                let rows = answer.expect("a guarded write of one table conflicts with nothing");
                self.server.committed(&rows, &[]);
                rows
            }
            Progress::Waiting => unreachable!("nobody keeps a lock"),
        }
    }

    async fn point(&self, site: &'static str) {
        let actor = self.node.number();
        match self.server.choices.depart(Stream::Storage, site, actor, self.server.latency_odds, 4) {
            0 => {}
            1 | 2 => yield_now().await,
            slow => tokio::time::sleep(Duration::from_millis(u64::from(slow))).await,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.db().kill(self.id);
    }
}

/// A job that waits to be run.
pub(super) fn job(id: &TaskId, now: Timestamp) -> Task {
    Task {
        id: id.clone(),
        kind: Kind::trusted("work"),
        queue: Queue::default_queue(),
        state: State::Ready,
        cause: None,
        error: None,
        rev: 0,
        attempt: 0,
        attempts_max: 10,
        rescues: 0,
        rescues_max: 10,
        fence: 0,
        slot: None,
        slot_waiting: false,
        key: None,
        priority: 0,
        payload: id.as_str().as_bytes().into(),
        output: None,
        submitted_at: now,
        due_at: now,
        deadline_at: None,
        claimed_at: None,
        entered_at: None,
        progress: None,
        reported_at: None,
        finished_at: None,
        lease_expires_at: None,
        worker: None,
        timeout: Duration::from_secs(3600),
        backoff: Backoff::default(),
        cancel: None,
        parents_pending: 0,
        digest: 0,
        mark: 0,
    }
}

/// What becomes of a job that a process takes up.
pub(super) fn taken(node: &Node) -> impl Fn(&mut Task) + Send + 'static {
    let (now, worker) = (node.world().now(), WorkerId::trusted(node.name().to_owned()));
    move |job| {
        job.fence += 1;
        job.attempt += 1;
        job.claimed_at = Some(now);
        job.worker = Some(worker.clone());
    }
}

/// What becomes of a job that has ended for a reason.
pub(super) fn because(cause: Cause) -> impl Fn(&mut Task) + Send + 'static {
    move |job| job.cause = Some(cause)
}

/// A client asks for a job.
pub(super) fn submitting(node: &Node, task: &TaskId) {
    node.record(Event::Submitting { task: task.clone() });
}

/// A client is told the id under which it was accepted.
pub(super) fn accepted(node: &Node, task: &TaskId, told: &TaskId) {
    let answer = SubmitAnswer::Accepted(told.clone());
    node.record(Event::Submitted { task: task.clone(), answer });
}

/// The job's own code is entered.
pub(super) fn entered(node: &Node, task: &TaskId, payload_id: &TaskId, fence: Fence) {
    let (node_name, payload_id) = (node.name().to_owned(), payload_id.to_string());
    node.record(Event::Entered { node: node_name, task: task.clone(), payload_id, fence });
}

/// The job's own code says how it went.
pub(super) fn said(node: &Node, task: &TaskId, fence: Fence, well: bool) {
    let word = if well { Word::Done } else { Word::NotDone };
    node.record(Event::Said { task: task.clone(), fence, word });
}

/// A number by which choices about one job are told from those about another.
pub(super) fn pick(world: &World, stream: Stream, site: &'static str, number: u64, n: usize) -> usize {
    let choices: &Choices = world.choices();
    choices.pick(stream, site, number, u32::try_from(n).expect("few")) as usize
}

/// Waits for one of these times, in milliseconds; the first is the default.
pub(super) async fn pause(world: &World, stream: Stream, site: &'static str, number: u64, millis: &[u64]) {
    let chosen = millis[pick(world, stream, site, number, millis.len())];
    tokio::time::sleep(Duration::from_millis(chosen)).await;
}

/// Waits until every job that was stored has ended, at most for this long.
pub(super) async fn until_all_ended(world: &World, at_most: Option<Duration>) {
    let until = at_most.map(|patience| tokio::time::Instant::now() + patience);
    while !world.history().tasks().values().all(|task| task.state.is_terminal()) {
        if until.is_some_and(|until| tokio::time::Instant::now() > until) {
            return;
        }
        waiting_for("all jobs to end", tokio::time::sleep(LOOK)).await;
    }
}
