//! Cancellation safety of the whole public API, as a table: each operation is dropped at each of its await points, on
//! both stores, and what must hold is checked. The table is in `docs/cancellation.md`, which this test keeps.

mod bench;
mod calls;
mod charge;
mod reads;
mod workers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::pin::Pin;

use steadfast_sim::cancel::{Everywhere, Trial, cancel_everywhere};
use steadfast_sim::world::Profile;

/// Where the table is kept, and between which lines.
const PAGE: &str = "../docs/cancellation.md";
const BEGIN: &str = "<!-- The table begins: a test writes it. -->\n";
const END: &str = "<!-- The table ends. -->\n";

/// What a story comes to: how the operation's effect was found once all was quiet, and before it was asked for again.
pub(crate) type Story = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// A part of the API.
pub(crate) struct Operation {
    /// As it is called, and on what.
    pub(crate) name: &'static str,
    /// What each telling checks beside the oracle, for people.
    pub(crate) holds: &'static str,
    pub(crate) story: fn(Trial) -> Story,
}

fn operations() -> impl Iterator<Item = &'static Operation> {
    calls::OPERATIONS.iter().chain(reads::OPERATIONS).chain(workers::OPERATIONS)
}

#[test]
fn every_operation_of_the_api_may_be_dropped_at_each_of_its_await_points() {
    let mut rows = Vec::new();
    for operation in operations() {
        let told = Profile::ALL.map(|profile| {
            let everywhere = cancel_everywhere(profile, operation.story);
            let broken = everywhere.broken();
            assert!(broken.is_empty(), "{} on {}: {broken:#?}", operation.name, profile.as_str());
            assert!(everywhere.points > 0, "{} waits for nothing", operation.name);
            everywhere
        });
        rows.push(row(operation, &told));
    }
    let table = format!(
        "| operation | await points: PostgreSQL, SQLite | dropped how often, and found then | whatever was found |\n\
         |---|---|---|---|\n{}",
        rows.concat()
    );
    print!("{table}");
    keep(&table);
}

fn row(operation: &Operation, told: &[Everywhere<&'static str>; 2]) -> String {
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for (outcome, count) in told.iter().flat_map(Everywhere::outcomes) {
        *found.entry(outcome).or_default() += count;
    }
    let points = told.each_ref().map(|everywhere| everywhere.points.to_string()).join(", ");
    let drops: u32 = found.values().sum();
    let found: Vec<String> = found.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
    let mut row = String::new();
    writeln!(row, "| {} | {points} | {drops}: {} | {} |", operation.name, found.join(", "), operation.holds)
        .expect("a string takes all");
    row
}

/// Compares the table with the page's, or writes it there.
fn keep(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page says where the table begins");
    let (kept, after) = rest.split_once(END).expect("the page says where the table ends");
    if std::env::var_os("STEADFAST_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{after}"))
            .expect("the page can be written");
        return;
    }
    assert!(
        kept.trim() == table.trim(),
        "docs/cancellation.md is out of date; look at what changed and write it anew:\n\
         STEADFAST_WRITE_DOCS=1 cargo test -p steadfast-sim --test it cancellation\n{table}"
    );
}
