//! Batches as columns: the parameters of `apply`, one array for each field of a step.

use std::collections::BTreeMap;
use std::error::Error as StdError;

use bytes::BytesMut;
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};
use steadfast_core::name::TaskId;
use steadfast_core::step::{Batch, Insert, QueueLimit, Renewal, Step, Transition};
use steadfast_core::storage::{Error, ErrorKind};
use steadfast_core::task::{Due, NewTask, OnConflict, OnParentFailure, PAYLOAD_BYTES_MAX};
use steadfast_core::time::{ManualClock, micros};

use crate::keep::{self, Keeping};
use crate::waves::{Twins, waves};

/// How many bytes of payload and output one call may carry.
const CALL_BYTES_MAX: usize = 256 << 20;
/// The longest lease, in microseconds: some 146,000 years, so that adding it to a clock doesn't overflow.
pub(crate) const LEASE_MAX: i64 = i64::MAX / 2;

/// A column in which most rows have nothing: null as a whole where all have.
#[derive(Debug)]
pub(crate) struct Sparse<T> {
    values: Vec<Option<T>>,
    any: bool,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { values: Vec::new(), any: false }
    }
}

impl<T> Sparse<T> {
    pub(crate) fn push(&mut self, value: Option<T>) {
        self.any |= value.is_some();
        self.values.push(value);
    }
}

impl<T: ToSql> ToSql for Sparse<T> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if self.any { self.values.to_sql(kind, out) } else { Ok(IsNull::Yes) }
    }

    fn accepts(kind: &Type) -> bool {
        Vec::<Option<T>>::accepts(kind)
    }

    to_sql_checked!();
}

macro_rules! columns {
    ($(#[$about:meta])* $columns:ident: $($(#[$doc:meta])* $name:ident: $rust:ty = $sql:ident,)*) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $columns<'a> { $($(#[$doc])* pub(crate) $name: $rust,)* }

        impl $columns<'_> {
            /// Their names and types, in order.
            pub(crate) const PARAMETERS: &'static [(&'static str, Type)] =
                &[$((stringify!($name), Type::$sql),)*];

            /// Their values, in the same order.
            pub(crate) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
                vec![$(&self.$name,)*]
            }

            /// The parameter with this name, and its type.
            pub fn value(&self, name: &str) -> Option<(&(dyn ToSql + Sync), Type)> {
                match name {
                    $(stringify!($name) => Some((&self.$name, Type::$sql)),)*
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use columns;

columns! {
    /// The parameters of `apply`, by the names that the [statements](crate::statements) know them under.
    Columns:
    /// The clock set by hand.
    clock: Option<i64> = INT8,
    /// Whether the call is a single batch, and may wait for locks.
    alone: bool = BOOL,
    /// Whether tasks have to be locked in order before anything else.
    ordered: bool = BOOL,
    /// Whether some batch has several steps.
    together: bool = BOOL,
    /// Whether it comes from a transaction of the caller's own, whose isolation may be any where it only inserts.
    visiting: bool = BOOL,
    /// Whether this is the call's first wave, and whether it is its last one.
    first_wave: bool = BOOL,
    last_wave: bool = BOOL,

    m_step: Vec<i32> = INT4_ARRAY,
    /// The batch, if it has several steps; else null.
    m_batch: Sparse<i32> = INT4_ARRAY,
    m_task: Vec<&'a str> = TEXT_ARRAY,
    m_from: Vec<i16> = INT2_ARRAY,
    m_fence: Sparse<i64> = INT8_ARRAY,
    /// Whether nobody may have asked to cancel it: true or null.
    m_live: Sparse<bool> = BOOL_ARRAY,
    /// Whether its lease must have lapsed: true or null.
    m_lapsed: Sparse<bool> = BOOL_ARRAY,
    /// Whether its deadline must have passed: true or null.
    m_overdue: Sparse<bool> = BOOL_ARRAY,
    m_mark: Vec<i64> = INT8_ARRAY,
    m_target: Vec<i16> = INT2_ARRAY,
    m_delay: Sparse<i64> = INT8_ARRAY,
    m_back: Sparse<i32> = INT4_ARRAY,
    m_rescue: Sparse<i32> = INT4_ARRAY,
    m_cause: Sparse<&'static str> = TEXT_ARRAY,
    m_error: Sparse<&'a str> = TEXT_ARRAY,
    m_output: Sparse<&'a [u8]> = BYTEA_ARRAY,
    m_cancel: Sparse<&'a str> = TEXT_ARRAY,
    m_entered: Sparse<i64> = INT8_ARRAY,

    r_step: Vec<i32> = INT4_ARRAY,
    r_batch: Sparse<i32> = INT4_ARRAY,
    r_task: Vec<&'a str> = TEXT_ARRAY,
    r_fence: Vec<i64> = INT8_ARRAY,
    r_lease: Vec<i64> = INT8_ARRAY,
    r_entered: Sparse<i64> = INT8_ARRAY,

    i_step: Vec<i32> = INT4_ARRAY,
    i_batch: Sparse<i32> = INT4_ARRAY,
    i_task: Vec<&'a str> = TEXT_ARRAY,
    i_kind: Vec<&'a str> = TEXT_ARRAY,
    i_queue: Vec<&'a str> = TEXT_ARRAY,
    i_slot: Sparse<&'a str> = TEXT_ARRAY,
    i_key: Sparse<&'a str> = TEXT_ARRAY,
    i_priority: Vec<i16> = INT2_ARRAY,
    i_payload: Vec<&'a [u8]> = BYTEA_ARRAY,
    i_due_at: Sparse<i64> = INT8_ARRAY,
    i_delay: Sparse<i64> = INT8_ARRAY,
    i_deadline_at: Sparse<i64> = INT8_ARRAY,
    /// The deadline, from now.
    i_patience: Sparse<i64> = INT8_ARRAY,
    /// Whether it waits for its slot where that is held: true or null.
    i_waits: Sparse<bool> = BOOL_ARRAY,
    i_attempts_max: Vec<i64> = INT8_ARRAY,
    i_rescues_max: Vec<i64> = INT8_ARRAY,
    i_timeout: Vec<i64> = INT8_ARRAY,
    i_backoff_min: Vec<i64> = INT8_ARRAY,
    i_backoff_max: Vec<i64> = INT8_ARRAY,
    i_digest: Vec<i64> = INT8_ARRAY,

    /// The slots that inserts would wait for, sorted.
    slots: Vec<&'a str> = TEXT_ARRAY,
    /// All parents named by inserts, sorted.
    parents: Vec<&'a str> = TEXT_ARRAY,
    /// For each edge, the place of its child among the inserts, from 1.
    e_at: Vec<i32> = INT4_ARRAY,
    /// The place of its parent in `parents`, from 1.
    e_place: Vec<i32> = INT4_ARRAY,
    /// The place among the inserts of the step of the same batch that stores the parent before; else 0.
    e_beside: Vec<i32> = INT4_ARRAY,
    e_parent: Vec<&'a str> = TEXT_ARRAY,
    e_child: Vec<&'a str> = TEXT_ARRAY,
    e_run: Vec<bool> = BOOL_ARRAY,

    l_batch: Sparse<i32> = INT4_ARRAY,
    l_queue: Vec<&'a str> = TEXT_ARRAY,
    l_concurrency: Vec<Option<i64>> = INT8_ARRAY,
}

/// A step and where it stands.
#[derive(Debug, Clone, Copy)]
struct Placed<T> {
    /// Its number in the call.
    step: i32,
    /// Its batch, if that has several steps.
    batch: Option<i32>,
    what: T,
}

/// The steps of one wave, by their kind.
#[derive(Debug, Default)]
struct Sorted<'a> {
    moves: Vec<Placed<&'a Transition>>,
    renewals: Vec<Placed<&'a Renewal>>,
    inserts: Vec<Placed<&'a Insert>>,
    limits: Vec<Placed<&'a QueueLimit>>,
}

/// What a call is sent as.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The columns of each wave.
    pub waves: Vec<Columns<'a>>,
    /// What is carried out after them: reports and what keeps house.
    pub(crate) keeping: Option<Keeping<'a>>,
    /// What is known without asking.
    pub(crate) twins: Twins,
}

impl<'a> Plan<'a> {
    /// Puts a call into columns.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] if the call can't be stored as it is.
    pub fn new(batches: &'a [Batch], clock: Option<&ManualClock>) -> Result<Self, Error> {
        check_sizes(batches)?;
        let alone = batches.len() == 1;
        let clock = clock.map(|clock| clock.now().as_micros());
        let keeping = Keeping::of(batches, clock, alone)?;
        let twins = Twins::find(batches)?;
        let waves = waves(batches)?;
        let mut sorted: Vec<Sorted<'a>> = Vec::new();
        let mut steps = 0..;
        for (number, (batch, wave)) in batches.iter().zip(waves).enumerate() {
            if keep::is_kept(batch) {
                steps.next();
                continue;
            }
            while sorted.len() <= wave {
                sorted.push(Sorted::default());
            }
            let several = (batch.steps.len() > 1).then(|| place(number));
            for (what, step) in batch.steps.iter().zip(&mut steps) {
                if !twins.settles(number, step) {
                    sorted[wave].push(what, several, step);
                }
            }
        }
        let mut waves: Vec<_> = sorted.into_iter().map(|sorted| sorted.into_columns(clock, alone)).collect();
        if let Some(first) = waves.first_mut() {
            first.first_wave = true;
        }
        if let Some(last) = waves.last_mut() {
            last.last_wave = true;
        }
        Ok(Self { waves, keeping, twins })
    }

    /// All parameters of the call, with their types.
    pub(crate) fn values(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        fn typed(types: &[(&str, Type)]) -> impl Iterator<Item = Type> {
            types.iter().map(|(_, kind)| kind.clone())
        }
        let waves =
            self.waves.iter().flat_map(|wave| wave.values().into_iter().zip(typed(Columns::PARAMETERS)));
        let keeping = self.keeping.iter();
        waves.chain(keeping.flat_map(|it| it.values().into_iter().zip(typed(Keeping::PARAMETERS)))).collect()
    }
}

/// A place in an array, from 1 as SQL counts.
fn place(index: usize) -> i32 {
    number(index + 1)
}

fn number(index: usize) -> i32 {
    i32::try_from(index).expect("a call has fewer steps than 2^31")
}

/// The stored form of a number that SQL has no unsigned type for.
pub(crate) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

/// A moment as a time, or as a time from now.
fn moment(due: Due) -> (Option<i64>, Option<i64>) {
    match due {
        Due::Now => (None, Some(0)),
        Due::After(delay) => (None, Some(micros(delay))),
        Due::At(at) => (Some(at.as_micros()), None),
    }
}

/// Whether it would wait for its slot.
pub(crate) fn waits(task: &NewTask) -> bool {
    matches!(task.slot, Some((_, OnConflict::Queue)))
}

fn flag(set: bool) -> Option<bool> {
    set.then_some(true)
}

impl<'a> Sorted<'a> {
    fn push(&mut self, step: &'a Step, batch: Option<i32>, at: usize) {
        let at = number(at);
        match step {
            Step::Transition(what) => self.moves.push(Placed { step: at, batch, what }),
            Step::Renew(what) => self.renewals.push(Placed { step: at, batch, what }),
            Step::Insert(what) => self.inserts.push(Placed { step: at, batch, what }),
            Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => {
                unreachable!("these stand alone and are kept")
            }
            Step::Limit(what) => self.limits.push(Placed { step: at, batch, what }),
        }
    }

    fn into_columns(mut self, clock: Option<i64>, alone: bool) -> Columns<'a> {
        // Locks are taken in order of id; arrays are read in theirs.
        self.moves.sort_by(|a, b| a.what.task.cmp(&b.what.task));
        self.renewals.sort_by(|a, b| a.what.task.cmp(&b.what.task));
        let batches = self.moves.iter().map(|one| one.batch);
        let batches = batches.chain(self.renewals.iter().map(|one| one.batch));
        let batches = batches.chain(self.inserts.iter().map(|one| one.batch));
        let together = batches.chain(self.limits.iter().map(|one| one.batch)).any(|batch| batch.is_some());
        let ordered = together || !(self.moves.is_empty() || self.renewals.is_empty());
        let mut columns = Columns { clock, alone, ordered, together, ..Columns::default() };
        self.moves.iter().for_each(|one| columns.push_move(one));
        self.renewals.iter().for_each(|one| columns.push_renewal(one));
        self.inserts.iter().for_each(|one| columns.push_insert(one));
        columns.push_slots(&self.inserts);
        columns.push_edges(&self.inserts);
        for one in &self.limits {
            columns.l_batch.push(one.batch);
            columns.l_queue.push(one.what.queue.as_str());
            columns.l_concurrency.push(one.what.concurrency.map(i64::from));
        }
        columns
    }
}

impl<'a> Columns<'a> {
    fn push_move(&mut self, placed: &Placed<&'a Transition>) {
        let Transition { task, guard, change, mark } = placed.what;
        self.m_step.push(placed.step);
        self.m_batch.push(placed.batch);
        self.m_task.push(task.as_str());
        self.m_from.push(i16::from(guard.from.bits()));
        self.m_fence.push(guard.fence.map(signed));
        self.m_live.push(flag(guard.unless_cancel_requested));
        self.m_lapsed.push(flag(guard.lease_lapsed));
        self.m_overdue.push(flag(guard.overdue));
        self.m_mark.push(signed(*mark));
        self.m_target.push(i16::from(change.to.code()));
        self.m_delay.push((!change.delay.is_zero()).then(|| micros(change.delay)));
        self.m_back.push(change.give_back_attempt.then_some(1));
        self.m_rescue.push(change.rescue.then_some(1));
        self.m_cause.push(change.cause.map(|cause| cause.as_str()));
        self.m_error.push(change.error.as_deref());
        self.m_output.push(change.output.as_deref());
        self.m_cancel.push(change.request_cancel.as_deref());
        self.m_entered.push(change.entered.map(micros));
    }

    fn push_renewal(&mut self, placed: &Placed<&'a Renewal>) {
        self.r_step.push(placed.step);
        self.r_batch.push(placed.batch);
        self.r_task.push(placed.what.task.as_str());
        self.r_fence.push(signed(placed.what.fence));
        self.r_lease.push(micros(placed.what.lease).min(LEASE_MAX));
        self.r_entered.push(placed.what.entered.map(micros));
    }

    fn push_insert(&mut self, placed: &Placed<&'a Insert>) {
        let Insert { task, digest } = placed.what;
        self.i_step.push(placed.step);
        self.i_batch.push(placed.batch);
        self.i_task.push(task.id.as_str());
        self.i_kind.push(task.kind.as_str());
        self.i_queue.push(task.queue.as_str());
        self.i_slot.push(task.slot.as_ref().map(|(slot, _)| slot.as_str()));
        self.i_key.push(task.key.as_ref().map(|key| key.as_str()));
        self.i_priority.push(task.priority);
        self.i_payload.push(&task.payload);
        let (at, delay) = moment(task.due);
        self.i_due_at.push(at);
        self.i_delay.push(delay.filter(|delay| *delay > 0));
        let (at, patience) = task.deadline.map_or((None, None), moment);
        self.i_deadline_at.push(at);
        self.i_patience.push(patience);
        self.i_waits.push(flag(waits(task)));
        self.i_attempts_max.push(i64::from(task.attempts_max));
        self.i_rescues_max.push(i64::from(task.rescues_max));
        self.i_timeout.push(micros(task.timeout));
        self.i_backoff_min.push(micros(task.backoff.min));
        self.i_backoff_max.push(micros(task.backoff.max));
        self.i_digest.push(signed(*digest));
    }

    fn push_slots(&mut self, inserts: &[Placed<&'a Insert>]) {
        let waiting = inserts.iter().map(|one| &one.what.task).filter(|task| waits(task));
        self.slots = waiting.filter_map(|task| task.slot.as_ref()).map(|(slot, _)| slot.as_str()).collect();
        self.slots.sort_unstable();
        self.slots.dedup();
    }

    /// The edges of all inserts. A parent named twice is one edge, which fails the child if either says so.
    fn push_edges(&mut self, inserts: &[Placed<&'a Insert>]) {
        let all = inserts.iter().flat_map(|one| &one.what.task.parents);
        self.parents = all.map(|parent| parent.id.as_str()).collect();
        self.parents.sort_unstable();
        self.parents.dedup();
        let mut beside: BTreeMap<(Option<i32>, &str), i32> = BTreeMap::new();
        for (at, one) in inserts.iter().enumerate() {
            let task = &one.what.task;
            let mut seen: BTreeMap<&TaskId, usize> = BTreeMap::new();
            for parent in &task.parents {
                let run = parent.on_failure == OnParentFailure::Run;
                if let Some(edge) = seen.get(&parent.id) {
                    self.e_run[*edge] &= run;
                    continue;
                }
                seen.insert(&parent.id, self.e_at.len());
                let found = self.parents.binary_search(&parent.id.as_str());
                self.e_at.push(place(at));
                self.e_place.push(place(found.expect("all parents were collected")));
                self.e_beside.push(beside.get(&(one.batch, parent.id.as_str())).copied().unwrap_or(0));
                self.e_parent.push(parent.id.as_str());
                self.e_child.push(task.id.as_str());
                self.e_run.push(run);
            }
            if one.batch.is_some() {
                beside.insert((one.batch, task.id.as_str()), place(at));
            }
        }
    }
}

pub(crate) fn rejected(why: String) -> Error {
    Error::new(ErrorKind::Rejected, why)
}

fn check_sizes(batches: &[Batch]) -> Result<(), Error> {
    let mut total = 0;
    for step in batches.iter().flat_map(|batch| &batch.steps) {
        let (task, largest, bytes) = match step {
            Step::Insert(insert) => {
                let bytes = insert.task.payload.len();
                (&insert.task.id, bytes, bytes)
            }
            Step::Transition(change) => {
                let bytes = change.change.output.as_ref().map_or(0, |output| output.len());
                (&change.task, bytes, bytes)
            }
            Step::Report(report) => {
                let lines = report.lines.iter().map(|line| line.text.len());
                let values = report.checkpoints.iter().map(|one| one.value.len());
                let largest = values.clone().max().unwrap_or(0);
                (&report.task, largest, lines.chain(values).sum())
            }
            Step::Renew(_) | Step::Limit(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => continue,
        };
        if largest > PAYLOAD_BYTES_MAX {
            return Err(rejected(format!(
                "a payload, output or checkpoint of task {task} has {largest} bytes; at most {PAYLOAD_BYTES_MAX} \
                can be stored"
            )));
        }
        total += bytes;
    }
    if total > CALL_BYTES_MAX {
        return Err(rejected(format!(
            "one call carries {total} bytes, more than {CALL_BYTES_MAX}: send fewer at once"
        )));
    }
    Ok(())
}
