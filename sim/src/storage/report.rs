//! Reports: a guarded update of the task's row, then the rows of lines, checkpoints and aliases under its lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use steadfast_core::name::TaskId;
use steadfast_core::step::{Receipt, Refusal, Report};
use steadfast_core::task::{LogEntry, Task};
use steadfast_core::{Error, ErrorKind, State, Timestamp};

use crate::db::{Rows, Select, Statement};

use super::apply::{Place, Verdict, Verdicts, by_id, head};
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
    let taken = taken_aliases(transaction, reports).await?;
    let free: Arc<BTreeMap<TaskId, Report>> = Arc::new(
        reports
            .iter()
            .filter(|(place, _)| !taken.contains_key(place))
            .map(|(_, report)| (report.task.clone(), (*report).clone()))
            .collect(),
    );
    let now = transaction.now();
    let unfenced = transaction.has(Flaw::UnfencedReport);
    let (guards, changes) = (free.clone(), free.clone());
    let rows = Rows::by_keys(table::TASK, free.keys().cloned().map(RowKey::Task))
        .filter(move |row: &StoreRow| holds(&guards[&row.as_task().id], row.as_task(), unfenced));
    let update = Statement::update(rows, move |row| reported(row, &changes[&row.as_task().id], now));
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

/// Which reports bring an alias that stands for something else, and for what.
async fn taken_aliases(
    transaction: &Transaction,
    reports: &[(Place, &Report)],
) -> Result<BTreeMap<Place, TaskId>, Error> {
    let wanted: Vec<TaskId> = reports.iter().filter_map(|(_, report)| report.alias.clone()).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let tasks = Rows::by_keys(table::TASK, wanted.iter().cloned().map(RowKey::Task));
    let tasks = by_id(transaction.run(Select::new(tasks).into()).await?);
    let aliases = Rows::by_keys(table::ALIAS, wanted.into_iter().map(RowKey::Alias));
    let aliases = transaction.run(Select::new(aliases).into()).await?;
    let stands_for = |alias: &TaskId| {
        let other = || aliases.iter().map(StoreRow::as_alias).find(|row| row.alias == *alias);
        tasks.get(alias).map(|row| &row.as_task().id).or_else(|| other().map(|row| &row.task)).cloned()
    };
    let taken = |(place, report): &(Place, &Report)| {
        let holder = stands_for(report.alias.as_ref()?)?;
        // A task's own id is no other name for it.
        let is_own = holder == report.task && report.alias.as_ref() != Some(&report.task);
        (!is_own).then_some((*place, holder))
    };
    Ok(reports.iter().filter_map(taken).collect())
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
    if !lines.is_empty() {
        transaction.run(Statement::insert_or_nothing(lines)).await?;
    }
    let checkpoints = reports.iter().flat_map(|report| {
        let row = |checkpoint| CheckpointRow { task: report.task.clone(), checkpoint };
        report.checkpoints.iter().cloned().map(move |one| StoreRow::Checkpoint(Arc::new(row(one))))
    });
    for row in checkpoints.collect::<Vec<_>>() {
        transaction.upsert(row.clone(), move |_| row.clone()).await?;
    }
    let aliases = reports
        .iter()
        .filter_map(|report| Some(AliasRow { alias: report.alias.clone()?, task: report.task.clone() }));
    let aliases: Vec<AliasRow> = aliases.collect();
    if aliases.is_empty() {
        return Ok(());
    }
    transaction.run(Statement::insert_or_nothing(aliases.iter().cloned().map(StoreRow::Alias))).await?;
    let keys = aliases.iter().map(|row| RowKey::Alias(row.alias.clone()));
    let found = transaction.run(Select::new(Rows::by_keys(table::ALIAS, keys)).into()).await?;
    if aliases.iter().all(|row| found.iter().any(|found| found.as_alias() == row)) {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Conflict, "somebody took an alias between look and write"))
    }
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
