//! Reports: a guarded update of the task's row, then the rows of lines, checkpoints and aliases under its lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use steadfast_core::name::TaskId;
use steadfast_core::step::{Receipt, Refusal, Report};
use steadfast_core::task::{LogEntry, Task};
use steadfast_core::{Error, State, Timestamp};

use crate::db::{LockMode, Rows, Select, Statement};

use super::apply::{Place, Verdict, Verdicts, by_id, changed_between, head};
use super::flaws::Flaw;
use super::rows::{AliasRow, CheckpointRow, LogRow, RowKey, StoreRow, table};
use super::transaction::Transaction;

/// Keeps what handlers say.
pub(super) async fn apply(
    transaction: &Transaction,
    reports: &[(Place, &Report)],
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    if reports.is_empty() {
        return Ok(());
    }
    let unfenced = transaction.has(Flaw::UnfencedReport);
    let taken = give_aliases(transaction, reports, unfenced).await?;
    let free: Arc<BTreeMap<TaskId, Report>> = Arc::new(
        reports
            .iter()
            .filter(|(place, _)| !taken.contains_key(place))
            .map(|(_, report)| (report.task.clone(), (*report).clone()))
            .collect(),
    );
    let now = transaction.now();
    let (guards, changes) = (free.clone(), free.clone());
    let rows = Rows::by_keys(table::TASK, free.keys().cloned().map(RowKey::Task))
        .filter(move |row: &StoreRow| holds(&guards[&row.as_task().id], row.as_task(), unfenced));
    let update = Statement::update(rows, move |row| reported(row, &changes[&row.as_task().id], now));
    transaction.begin_part("report");
    let kept = by_id(transaction.run(update).await?);
    let keep: Vec<&Report> = reports
        .iter()
        .filter(|(place, report)| !taken.contains_key(place) && kept.contains_key(&report.task))
        .map(|(_, report)| *report)
        .collect();
    add_rows(transaction, &keep, now).await?;
    let keys = reports.iter().map(|(_, report)| RowKey::Task(report.task.clone()));
    let found = if keep.len() < reports.len() {
        by_id(transaction.run(Select::new(Rows::by_keys(table::TASK, keys)).into()).await?)
    } else {
        BTreeMap::new()
    };
    for (place, report) in reports {
        let verdict = match (taken.get(place), found.get(&report.task)) {
            (None, _) if kept.contains_key(&report.task) => Verdict::Applied(Receipt::Reported),
            (_, None) => Verdict::Refused(Refusal::NotFound),
            (Some(holder), Some(row)) if holds(report, row.as_task(), unfenced) => {
                Verdict::Refused(Refusal::AliasTaken(holder.clone()))
            }
            (_, Some(row)) => Verdict::Refused(Refusal::Stale(head(row))),
        };
        verdicts.set(*place, verdict);
    }
    Ok(())
}

/// Gives tasks their aliases, under the locks of all that are reported of: none of them ends before it has it. Answers which reports bring an alias
/// that stands for something else, and for what.
async fn give_aliases(
    transaction: &Transaction,
    reports: &[(Place, &Report)],
    unfenced: bool,
) -> Result<BTreeMap<Place, TaskId>, Error> {
    if reports.iter().all(|(_, report)| report.alias.is_none()) {
        return Ok(BTreeMap::new());
    }
    let reported = reports.iter().map(|(_, report)| RowKey::Task(report.task.clone()));
    let reported = Select::new(Rows::by_keys(table::TASK, reported));
    transaction.begin_part("reported");
    let locked = by_id(transaction.lock(LockMode::NoKeyUpdate, reported).await?);
    let bring: Vec<(Place, &Report, &TaskId)> = reports
        .iter()
        .filter_map(|(place, report)| Some((*place, *report, report.alias.as_ref()?)))
        // A task's own id is no other name for it.
        .filter(|(_, report, alias)| report.task != **alias)
        .collect();
    let ids = Rows::by_keys(table::TASK, bring.iter().map(|(_, _, alias)| RowKey::Task((*alias).clone())));
    let ids = by_id(transaction.run(Select::new(ids).into()).await?);
    let live: Vec<_> = bring
        .into_iter()
        .filter(|(_, report, _)| {
            locked.get(&report.task).is_some_and(|row| holds(report, row.as_task(), unfenced))
        })
        .collect();
    let new = live
        .iter()
        .filter(|(_, _, alias)| !ids.contains_key(*alias))
        .map(|(_, report, alias)| AliasRow { alias: (*alias).clone(), task: report.task.clone() });
    let mut new: Vec<AliasRow> = new.collect();
    // Of two that want one alias in one call, the first by id gets it.
    new.sort_unstable_by(|one, other| (&one.alias, &one.task).cmp(&(&other.alias, &other.task)));
    let new: Vec<StoreRow> = new.into_iter().map(StoreRow::Alias).collect();
    if transaction.has(Flaw::AliasTakenOver) {
        for row in new {
            transaction.upsert(row.clone(), move |_| row.clone()).await?;
        }
    } else {
        transaction.run(Statement::insert_or_nothing(new)).await?;
    }
    transaction.begin_part("taken");
    let keys = live.iter().map(|(_, _, alias)| RowKey::Alias((*alias).clone()));
    let found = transaction.run(Select::new(Rows::by_keys(table::ALIAS, keys)).into()).await?;
    let owner = |alias: &TaskId| {
        found.iter().map(StoreRow::as_alias).find(|row| row.alias == *alias).map(|row| &row.task)
    };
    if live.iter().any(|(_, _, alias)| owner(alias).is_none() && !ids.contains_key(*alias)) {
        // Whoever had it was forgotten in between.
        return Err(changed_between(transaction));
    }
    let taken = live.iter().filter_map(|(place, report, alias)| {
        let owner = owner(alias);
        let holder =
            if owner == Some(&report.task) { None } else { ids.get(*alias).map(|_| *alias).or(owner) };
        Some((*place, holder?.clone()))
    });
    Ok(taken.collect())
}

async fn add_rows(transaction: &Transaction, reports: &[&Report], now: Timestamp) -> Result<(), Error> {
    let lines = reports.iter().flat_map(|report| {
        report.lines.iter().map(|line| {
            let entry = LogEntry {
                fence: report.fence,
                number: line.number,
                at: now - line.ago,
                stream: line.stream,
                text: line.text.clone(),
            };
            StoreRow::Log(Arc::new(LogRow { task: report.task.clone(), entry }))
        })
    });
    let lines: Vec<StoreRow> = lines.collect();
    if !lines.is_empty() && !transaction.has(Flaw::ReportNotKept) {
        transaction.run(Statement::insert_or_nothing(lines)).await?;
    }
    let checkpoints = reports.iter().flat_map(|report| {
        let row = |checkpoint| CheckpointRow { task: report.task.clone(), checkpoint };
        report.checkpoints.iter().cloned().map(move |one| StoreRow::Checkpoint(Arc::new(row(one))))
    });
    for row in checkpoints.collect::<Vec<_>>() {
        transaction.upsert(row.clone(), move |_| row.clone()).await?;
    }
    Ok(())
}

fn holds(report: &Report, task: &Task, unfenced: bool) -> bool {
    task.state == State::Running && (task.fence == report.fence || unfenced)
}

fn reported(row: &StoreRow, report: &Report, now: Timestamp) -> StoreRow {
    row.with(|task| {
        task.reported_at = Some(now);
        if report.progress.is_some() {
            task.progress.clone_from(&report.progress);
            task.rev += 1;
        }
    })
}
