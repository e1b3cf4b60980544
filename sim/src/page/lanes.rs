//! What happened, line by line, with a lane for each node: only the tasks concerned, only what came before the property
//! was broken, and a little of what came after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use steadfast_core::name::TaskId;
use steadfast_core::task::{Fence, Task};

use crate::history::{Entry, Event};
use crate::oracle::Violation;

/// How many lines are shown before the property is broken.
const LINES_MAX: usize = 48;
/// How many lines are shown after that.
const LINES_AFTER_MAX: usize = 4;
/// The lane of commits.
const STORE: &str = "store";

/// Writes the lines around the moment: the number of entries after which the property is broken.
pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    entries: &[Entry],
    violation: &Violation,
    moment: usize,
) -> fmt::Result {
    let tasks = concerned(&entries[..moment], violation);
    let mut lanes = Lanes::of(entries, &tasks);
    match tasks.iter().map(TaskId::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => writeln!(f, "What happened:")?,
        names => writeln!(f, "What happened to {}:", names.join(", "))?,
    }
    let is_shown = |number: usize| lanes.shows(&entries[number].event, &tasks) && !is_folded(entries, number);
    let shown: Vec<usize> = (0..entries.len()).filter(|number| is_shown(*number)).collect();
    let before = shown.partition_point(|number| *number < moment);
    let first = before.saturating_sub(LINES_MAX);
    writeln!(f, "  {}", lanes.head())?;
    let mut told = 0;
    if first > 0 {
        writeln!(f, "  … {first} earlier lines")?;
    }
    let mut is_marked = false;
    for (number, entry) in entries.iter().enumerate() {
        if number >= moment && !is_marked {
            mark(f, violation)?;
            is_marked = true;
        }
        let place = shown.binary_search(&number);
        if place.is_ok_and(|place| (first..before + LINES_AFTER_MAX).contains(&place)) {
            writeln!(f, "  {}  {entry}", lanes.line(&entry.event))?;
            told += 1;
        }
        lanes.pass(&entry.event);
    }
    if !is_marked {
        mark(f, violation)?;
    }
    match shown.len() - first - told {
        0 => Ok(()),
        left => writeln!(f, "  … {left} later lines"),
    }
}

fn mark(f: &mut fmt::Formatter<'_>, violation: &Violation) -> fmt::Result {
    writeln!(f, "  ══ {} is broken: {}", violation.property, violation.what)
}

/// The tasks without which it can't be understood: the one that is named, its parents, who wants the same slot, or of a
/// queue whose limit is broken those that run.
fn concerned(entries: &[Entry], violation: &Violation) -> Vec<TaskId> {
    let Some(named) = &violation.task else { return Vec::new() };
    let mut tasks: BTreeMap<&TaskId, &Arc<Task>> = BTreeMap::new();
    let mut concerned = BTreeSet::from([named.clone()]);
    for entry in entries {
        match &entry.event {
            Event::Changed { after, .. } => {
                tasks.insert(&after.id, after);
            }
            Event::Edge(edge) if edge.child == *named => {
                concerned.insert(edge.parent.clone());
            }
            _ => {}
        }
    }
    if let Some(task) = tasks.get(named) {
        let shares = |other: &Task| match violation.property {
            "P18" => other.queue == task.queue && other.state == steadfast_core::State::Running,
            _ => other.slot.is_some() && other.slot == task.slot,
        };
        concerned.extend(tasks.values().filter(|other| shares(other)).map(|other| other.id.clone()));
    }
    concerned.into_iter().collect()
}

/// Whether an entry is a renewal that is followed by another one of the same attempt: the last tells it all.
fn is_folded(entries: &[Entry], number: usize) -> bool {
    let Some(task) = renewed(&entries[number].event) else { return false };
    let of_task = |entry: &&Entry| match &entry.event {
        Event::Changed { after, .. } => after.id == task.id,
        _ => false,
    };
    entries[number + 1..].iter().find(of_task).is_some_and(|next| renewed(&next.event).is_some())
}

/// A task of which nothing changed but the end of its lease.
fn renewed(event: &Event) -> Option<&Arc<Task>> {
    match event {
        Event::Changed { before: Some(before), after } if before.rev == after.rev => Some(after),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Absent,
    Running,
    Frozen,
}

struct Lane {
    name: String,
    life: Life,
}

/// The lanes: the client first, then the nodes in the order of their names, then the store. All incarnations of a node
/// share one.
struct Lanes {
    lanes: Vec<Lane>,
    client: String,
    /// Which node ran which attempt.
    attempts: BTreeMap<(TaskId, Fence), String>,
}

/// `w1` of `w1.3`: incarnations have a number behind a dot.
fn lane_of(node: &str) -> &str {
    node.rsplit_once('.').map_or(node, |(lane, _)| lane)
}

impl Lanes {
    fn of(entries: &[Entry], tasks: &[TaskId]) -> Self {
        let mut attempts = BTreeMap::new();
        let mut client = None;
        let mut concerned = BTreeSet::new();
        for entry in entries {
            match &entry.event {
                Event::Started { node } if client.is_none() => client = Some(lane_of(node).to_owned()),
                Event::Entered { node, task, fence, .. } => {
                    attempts.insert((task.clone(), *fence), node.clone());
                }
                Event::Changed { after, .. } if tasks.contains(&after.id) || tasks.is_empty() => {
                    concerned.extend(after.worker.iter().map(|worker| lane_of(worker.as_str()).to_owned()));
                }
                _ => {}
            }
        }
        let client = client.unwrap_or_else(|| "client".into());
        let mut names = vec![client.clone()];
        names.extend(concerned.into_iter().filter(|name| *name != client));
        let mut lanes: Vec<Lane> = names.into_iter().map(|name| Lane { name, life: Life::Absent }).collect();
        lanes.push(Lane { name: STORE.into(), life: Life::Running });
        Self { lanes, client, attempts }
    }

    /// The lane in which an event happened.
    fn name_of<'a>(&'a self, event: &'a Event) -> Option<&'a str> {
        match event {
            Event::Changed { .. }
            | Event::Edge(_)
            | Event::Limited { .. }
            | Event::Kept { .. }
            | Event::Aliased { .. }
            | Event::Pruned { .. }
            | Event::Lost { .. }
            | Event::Held { .. }
            | Event::Prolonged { .. }
            | Event::CutShort { .. }
            | Event::Closed { .. } => Some(STORE),
            Event::Submitting { .. }
            | Event::Submitted { .. }
            | Event::Cancelled { .. }
            | Event::Overlooked { .. }
            | Event::Overdue { .. }
            | Event::Retrying { .. }
            | Event::Looked { .. }
            | Event::Missed { .. }
            | Event::Follows { .. }
            | Event::Followed { .. } => Some(&self.client),
            Event::Told { task, fence, .. }
            | Event::Said { task, fence, .. }
            | Event::Reported { task, fence, .. } => {
                self.attempts.get(&(task.clone(), *fence)).map(|node| lane_of(node))
            }
            Event::Entered { node, .. }
            | Event::Started { node }
            | Event::Crashed { node }
            | Event::Froze { node }
            | Event::Thawed { node }
            | Event::Drained { node, .. }
            | Event::Draining { node }
            | Event::Outlived { node, .. }
            | Event::Jumped { node, .. } => Some(lane_of(node)),
            Event::Noted { node: Some(node), .. } => Some(lane_of(node)),
            Event::Noted { node: None, .. } | Event::Asserted { .. } | Event::Did { .. } => {
                Some(&self.client)
            }
            Event::StoreCrashed { .. } | Event::Stalled { .. } | Event::Misled { .. } => Some(STORE),
            Event::Healed | Event::Calm | Event::Met { .. } | Event::Overran { .. } => None,
        }
    }

    fn shows(&self, event: &Event, tasks: &[TaskId]) -> bool {
        let has_lane = |name: &str| self.lanes.iter().any(|lane| lane.name == name);
        match task_of(event) {
            Some(task) => tasks.is_empty() || tasks.contains(task),
            None => match event {
                Event::Edge(edge) => tasks.contains(&edge.child) && tasks.contains(&edge.parent),
                Event::Met { .. } | Event::Did { .. } => false,
                other => self.name_of(other).is_none_or(has_lane),
            },
        }
    }

    fn head(&self) -> String {
        self.lanes.iter().map(|lane| format!("{:^1$}", lane.name, lane.width())).collect()
    }

    fn line(&self, event: &Event) -> String {
        let here = self.name_of(event);
        let mark = |lane: &Lane| {
            let mark = match (here == Some(&lane.name), lane.life) {
                (true, _) => "●",
                (false, Life::Running) => "│",
                (false, Life::Frozen) => "┊",
                (false, Life::Absent) => " ",
            };
            format!("{mark:^width$}", width = lane.width())
        };
        self.lanes.iter().map(mark).collect()
    }

    /// Goes on behind an event: nodes live, stand still and die by it.
    fn pass(&mut self, event: &Event) {
        let (node, life) = match event {
            Event::Started { node } | Event::Thawed { node } => (node, Life::Running),
            Event::Froze { node } => (node, Life::Frozen),
            Event::Crashed { node } => (node, Life::Absent),
            _ => return,
        };
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.name == lane_of(node)) {
            lane.life = life;
        }
    }
}

impl Lane {
    fn width(&self) -> usize {
        self.name.chars().count() + 2
    }
}

/// The one task that an event is about.
fn task_of(event: &Event) -> Option<&TaskId> {
    match event {
        Event::Changed { after, .. } => Some(&after.id),
        Event::Pruned { task } | Event::Lost { task } => Some(&task.id),
        Event::Submitting { task }
        | Event::Submitted { task, .. }
        | Event::Cancelled { task, .. }
        | Event::Overlooked { task }
        | Event::Overdue { task, .. }
        | Event::Retrying { task }
        | Event::Kept { task, .. }
        | Event::Aliased { task, .. }
        | Event::Reported { task, .. }
        | Event::Entered { task, .. }
        | Event::Told { task, .. }
        | Event::Looked { task, .. }
        | Event::Missed { task, .. }
        | Event::Follows { task, .. }
        | Event::Followed { task, .. }
        | Event::Outlived { task, .. }
        | Event::Held { task }
        | Event::Prolonged { task, .. }
        | Event::CutShort { task, .. }
        | Event::Said { task, .. } => Some(task),
        Event::Noted { task, .. } => task.as_ref(),
        Event::Edge(_)
        | Event::Limited { .. }
        | Event::Started { .. }
        | Event::Crashed { .. }
        | Event::Froze { .. }
        | Event::Thawed { .. }
        | Event::Drained { .. }
        | Event::Draining { .. }
        | Event::Closed { .. }
        | Event::Asserted { .. }
        | Event::StoreCrashed { .. }
        | Event::Stalled { .. }
        | Event::Misled { .. }
        | Event::Jumped { .. }
        | Event::Did { .. }
        | Event::Overran { .. }
        | Event::Healed
        | Event::Calm
        | Event::Met { .. } => None,
    }
}
