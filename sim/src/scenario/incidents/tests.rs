//! The incidents' scenarios keep every property, and come through the interleavings that they are there for.

use std::collections::BTreeSet;

use crate::scenario::SCENARIOS;
use crate::sweep::Setup;
use crate::world::Profile;

/// How many seeds each scenario has in each profile.
const SEEDS: u64 = 200;

#[test]
fn the_engine_survives_all_five_incidents() {
    let incidents = SCENARIOS.iter().filter(|scenario| scenario.name.starts_with("incident-"));
    let mut count = 0;
    for scenario in incidents {
        count += 1;
        for profile in Profile::ALL {
            let setup = Setup { scenario: *scenario, profile, flaws: Vec::new() };
            let mut reached = BTreeSet::new();
            for seed in 0..SEEDS {
                let report = setup.run(seed);
                assert!(report.violations.is_empty(), "{report}");
                reached.extend((scenario.goals.reached)(&report.entries));
            }
            let missed: Vec<_> = scenario.goals.all.iter().filter(|goal| !reached.contains(*goal)).collect();
            assert!(missed.is_empty(), "{SEEDS} seeds of {} never showed that {missed:?}", scenario.name);
        }
    }
    assert_eq!(count, 5);
}
